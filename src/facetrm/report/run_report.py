"""The content of a training run's ``report.html``: typed, JSON-ready, with every part optional except the title.

The report leaves out the section of an absent part, and says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pydantic import Field

from facetrm.core.config import Section
from facetrm.core.statistics import Interval
from facetrm.data.records import Conversation
from facetrm.evaluate.verdict import Verdict
from facetrm.explain.ablation import AblationTable
from facetrm.explain.flip import Flip
from facetrm.explain.local import PairExplanation
from facetrm.explain.overall import OverallExplanation
from facetrm.report.layer_table import LayerTableRow

SYSTEM_TITLES: Final = {
    "gate": "facetrm (gate)",
    "model": "facetrm (routed)",
    "task_rm": "the task's adapter alone",
    "mean_of_experts": "mean of the experts' ratings",
    "single_rm": "single reward model (one adapter)",
    "ensemble_mean": "ensemble of single reward models, mean",
    "ensemble_worst": "ensemble, worst case",
    "ensemble_uncertainty": "ensemble, mean - variance / 2",
    "routed_linear": "linear head for each task",
    "routed": "facetrm (a gate for each task)",
    "gate_on_true_levels": "gate on true levels",
    "linear_bt": "linear Bradley-Terry head",
    "unconditional": "unconditional weights",
    "uniform": "uniform average",
    "best_objective": "best single objective",
    "longer": "longer answer wins",
    "bag_of_words": "bag of words",
    "ceiling": "ceiling",
}
"""Titles of the systems in the accuracy tables, in order. Systems without a title follow under their own names."""


class ObjectiveRow(Section):
    """How well one expert predicts held-out ratings.

    Attributes:
        name: Name of the objective.
        n: Number of rated rows.
        alpha: Ridge penalty of the expert.
        mse: Mean squared error of the expert, with ratings scaled to [0, 1].
        mse_mean: Mean squared error of always predicting the mean, with ratings scaled to [0, 1].
        pearson: Pearson correlation with the ratings.
        spearman: Spearman correlation with the ratings.
        low: Lower end of the interval of ``spearman``.
        high: Upper end of the interval of ``spearman``.
    """

    name: str
    n: int
    alpha: float | None = None
    mse: float | None = None
    mse_mean: float | None = None
    pearson: float | None = None
    spearman: float | None = None
    low: float | None = None
    high: float | None = None


class DebiasTableRow(Section):
    """One objective's verbosity penalty, and its rank correlation with verbosity before and after debiasing.

    Attributes:
        objective: Name of the objective.
        lam: Penalty lambda: how much of the verbosity rating is subtracted.
        before: Correlation before debiasing, on the reference set.
        after: Correlation after debiasing, on the reference set.
        held_out_before: Correlation before debiasing, on the held-out pairs.
        held_out_after: Correlation after debiasing, on the held-out pairs.
        reached: Whether the constraint was met on the reference set.
    """

    objective: str
    lam: float
    before: float
    after: float
    held_out_before: float | None = None
    held_out_after: float | None = None
    reached: bool = True


class LengthAudit(Section):
    """The final score's rank correlation with length within prompts, and what debiasing costs in pair accuracy.

    Attributes:
        before: Mean rank correlation of a model fitted without debiasing.
        after: Mean rank correlation of the run's model.
        accuracy_before: Pair accuracy of the model fitted without debiasing.
        accuracy_after: Pair accuracy of the run's model.
    """

    before: float
    after: float
    accuracy_before: float | None = None
    accuracy_after: float | None = None


class Accuracy(Section):
    """Share of pairs that a system orders correctly.

    Attributes:
        value: The accuracy, from 0 to 1.
        low: Lower end of its interval, if known.
        high: Upper end of its interval, if known.
        pairs: Number of pairs, if known.
    """

    value: float
    low: float | None = None
    high: float | None = None
    pairs: int | None = None

    @staticmethod
    def of(interval: Interval, *, pairs: int | None = None) -> Accuracy:
        """Return an accuracy with its bootstrap interval.

        Args:
            interval: Accuracy and the ends of its interval.
            pairs: Number of pairs, if known.
        """
        return Accuracy(value=interval.value, low=interval.low, high=interval.high, pairs=pairs)


class RecoveryPoint(Section):
    """The true and the learned weight of one latent quality in one task of the world.

    Attributes:
        task: Name of the task.
        objective: Name of the latent quality.
        true: True weight times spread.
        learned: Learned coefficient times spread.
    """

    task: str
    objective: str
    true: float
    learned: float


class Recovery(Section):
    """How well the learned coefficients follow the true task weights.

    Attributes:
        spearman: Spearman correlation over the points.
        points: One point per task and latent quality.
    """

    spearman: float
    points: tuple[RecoveryPoint, ...] = ()


class TrainingPoint(Section):
    """One evaluation during the fit of the gate.

    Attributes:
        step: Optimiser step.
        train_loss: Loss on the training pairs, in nats.
        valid_loss: Loss on the validation pairs, in nats.
        train_accuracy: Accuracy on the training pairs.
        valid_accuracy: Accuracy on the validation pairs.
    """

    step: int
    train_loss: float | None = None
    valid_loss: float | None = None
    train_accuracy: float | None = None
    valid_accuracy: float | None = None


class Training(Section):
    """The fit of the gate.

    Attributes:
        points: Evaluations, in order.
        best_step: Optimiser step of the state that was kept.
    """

    points: tuple[TrainingPoint, ...]
    best_step: int | None = None


class ReliabilityRow(Section):
    """The router's calibration in one bin of confidence.

    Attributes:
        low: Lower end of the bin, exclusive.
        high: Upper end of the bin, inclusive.
        rows: Number of held-out rows in the bin.
        confidence: Mean confidence of these rows; None if there are none.
        accuracy: Share of these rows that are routed correctly; None if there are none.
    """

    low: float
    high: float
    rows: int
    confidence: float | None = None
    accuracy: float | None = None


class CoverageRow(Section):
    """The router's accuracy above and below a threshold of confidence.

    Attributes:
        threshold: Threshold of confidence.
        coverage: Share of rows whose confidence is at least the threshold.
        accuracy: Accuracy on these rows; None if there are none.
        accuracy_below: Accuracy on the other rows; None if there are none.
    """

    threshold: float
    coverage: float
    accuracy: float | None = None
    accuracy_below: float | None = None


class RouterPart(Section):
    """The router on held-out prompts.

    Attributes:
        names: Names of the tasks.
        rows: Number of held-out rows.
        accuracy: Top-1 accuracy.
        majority: Accuracy of always choosing the most frequent task.
        linear: Accuracy of a linear router.
        confusion: Number of rows by true task (rows) and chosen task (columns).
        calibration_error: Expected calibration error at the fitted temperature.
        uncalibrated: Expected calibration error at temperature 1.
        temperature: Fitted temperature.
        reliability: Accuracy by bin of confidence.
        coverage: Coverage and accuracy by threshold of confidence.
        given: Number of training rows that name their task, by task.
        routed: Number of training rows whose task the router chose, by task.
        below: Number of routed training rows whose confidence is below the threshold, by task.
        threshold: Confidence below which the fall-back scores a row; 0 for no fall-back.
    """

    names: tuple[str, ...]
    rows: int
    accuracy: Accuracy
    majority: float
    linear: Accuracy
    confusion: tuple[tuple[int, ...], ...]
    calibration_error: float
    uncalibrated: float
    temperature: float
    reliability: tuple[ReliabilityRow, ...] = ()
    coverage: tuple[CoverageRow, ...] = ()
    given: Mapping[str, int] = Field(default_factory=dict)
    routed: Mapping[str, int] = Field(default_factory=dict)
    below: Mapping[str, int] = Field(default_factory=dict)
    threshold: float = 0.0


class CapabilityRow(Section):
    """One expert of a task's mixture.

    Attributes:
        task: Name of the task.
        name: Name of the expert.
        preferences: Number of preferences that it was trained on.
        held_out: Accuracy on held-out preferences about its capability, which also chose the state that was kept.
        start: Accuracy on the same preferences before training, with a linear head.
        loss: Loss on the same preferences after training, in nats per prompt.
        start_loss: Loss on the same preferences before training, in nats per prompt.
        steps: Number of optimiser steps.
        change: Relative change of the vectors by training.
        kept: Whether the trained adapter was kept; otherwise the expert is a linear head.
        agrees: Share of its task's test pairs that its rating orders as the overall label does; None without pairs.
        share: Share of the absolute contributions to margins within its task; None without pairs.
        true: Share of the task's test pairs that its rating orders as the true levels do; None outside the world.
    """

    task: str
    name: str
    preferences: int
    held_out: float
    start: float
    loss: float
    start_loss: float
    steps: int
    change: float
    kept: bool
    agrees: float | None = None
    share: float | None = None
    true: float | None = None


class VerdictPart(Section):
    """What the held-out pairs say about the model.

    Attributes:
        status: ``usable``, ``not better``, ``chance`` or ``backwards``.
        statement: The verdict in one or two sentences.
        warnings: What limits it, one sentence each.
        advice: What would change it, one sentence each.
    """

    status: str
    statement: str
    warnings: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()

    @staticmethod
    def of(verdict: Verdict) -> VerdictPart:
        """Return the part of a report for ``verdict``."""
        return VerdictPart(
            status=verdict.status, statement=verdict.statement, warnings=verdict.warnings, advice=verdict.advice
        )


class ExplainedPair(Section):
    """One pair, explained.

    Attributes:
        explanation: Explanation of the pair.
        conversations: Conversations of A and B; None to leave the texts out.
        flip: What would flip the pair; None to leave the section out.
    """

    explanation: PairExplanation
    conversations: tuple[Conversation, Conversation] | None = None
    flip: Flip | None = None


class RunReport(Section):
    """Everything that ``report.html`` shows.

    Attributes:
        title: Title of the run.
        description: Description of the run.
        verdict: What the held-out pairs say about the model.
        config: Resolved settings, as YAML.
        seconds: Duration of each stage, in seconds, in order.
        objectives: Figures of each expert of stage 1.
        layers: How well each layer suits each objective, if experts could choose among several.
        debias: Penalty and correlations of each objective.
        length: Effect of debiasing on the correlation with length.
        pair_accuracy: Accuracy by kind of label (``noisy``, ``true``) and system (a key of ``SYSTEM_TITLES``).
        by_source: Accuracy by source and system, against the labels.
        by_task: Accuracy by task and system, against the labels.
        router: Figures of the router, if the model has one.
        capabilities: Figures of each expert of a DMoERM.
        recovery: How well the true weights were recovered, in the world.
        overall: Weights and contributions over the held-out pairs.
        ablation: Effect of dropping each expert.
        training: Fit of the gate.
        pair: One pair, explained.
        seeds: Random seeds, by use.
        versions: Versions of Python and the packages, the platform, and the number of threads.
        hashes: Hashes of the data, the model and the encoder.
        notes: Sentences below the title, such as warnings of the fit.
    """

    title: str
    description: str = ""
    verdict: VerdictPart | None = None
    config: str = ""
    seconds: Mapping[str, float] = Field(default_factory=dict)
    objectives: tuple[ObjectiveRow, ...] = ()
    layers: tuple[LayerTableRow, ...] = ()
    debias: tuple[DebiasTableRow, ...] = ()
    length: LengthAudit | None = None
    pair_accuracy: Mapping[str, Mapping[str, Accuracy]] = Field(default_factory=dict)
    by_source: Mapping[str, Mapping[str, Accuracy]] = Field(default_factory=dict)
    by_task: Mapping[str, Mapping[str, Accuracy]] = Field(default_factory=dict)
    router: RouterPart | None = None
    capabilities: tuple[CapabilityRow, ...] = ()
    recovery: Recovery | None = None
    overall: OverallExplanation | None = None
    ablation: AblationTable | None = None
    training: Training | None = None
    pair: ExplainedPair | None = None
    seeds: Mapping[str, int] = Field(default_factory=dict)
    versions: Mapping[str, str] = Field(default_factory=dict)
    hashes: Mapping[str, str] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dict. ``RunReport.model_validate`` turns it back into the same report."""
        return self.model_dump(mode="json")
