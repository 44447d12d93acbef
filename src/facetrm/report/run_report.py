"""What ``report.html`` of a training run is made of: typed, JSON-ready, every part optional except the title.

A part that is absent leaves its section out, and the page says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pydantic import Field

from facetrm.core.config import Section
from facetrm.core.statistics import Interval
from facetrm.data.records import Conversation
from facetrm.explain.ablation import AblationTable
from facetrm.explain.flip import Flip
from facetrm.explain.local import PairExplanation
from facetrm.explain.overall import OverallExplanation

SYSTEM_TITLES: Final = {
    "gate": "facetrm (gate)",
    "model": "facetrm (routed)",
    "task_rm": "the task's adapter alone",
    "mean_of_experts": "mean of the experts' ratings",
    "single_rm": "single reward model (one adapter)",
    "ensemble_mean": "ensemble of these, mean",
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
"""The rows of the accuracy table, in order, and what they are called; other names follow as they are."""


class ObjectiveRow(Section):
    """How well one expert predicts its ratings, held out.

    Attributes:
        name: the objective; ``n``: rows rated; ``alpha``: the ridge penalty chosen.
        mse: mean squared error of the expert, in [0, 1] terms.
        mse_mean: mean squared error of predicting the mean, in [0, 1] terms.
        pearson: Pearson correlation with the ratings; ``low``, ``high``: the interval of ``spearman``.
        spearman: Spearman correlation with the ratings.
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
    """One objective's penalty, and its correlation with verbosity before and after.

    Attributes:
        objective: the objective; ``lam``: its penalty lambda.
        before: on the reference set; ``held_out_before``, ``held_out_after``: on other rows.
        after: the same after debiasing.
        reached: whether the constraint was met on the reference set.
    """

    objective: str
    lam: float
    before: float
    after: float
    held_out_before: float | None = None
    held_out_after: float | None = None
    reached: bool = True


class LengthAudit(Section):
    """Rank correlation of the final score with length inside a prompt, and what removing it costs in pair accuracy."""

    before: float
    after: float
    accuracy_before: float | None = None
    accuracy_after: float | None = None


class Accuracy(Section):
    """Share of pairs that a system orders rightly, with its interval where known."""

    value: float
    low: float | None = None
    high: float | None = None
    pairs: int | None = None

    @staticmethod
    def of(interval: Interval, *, pairs: int | None = None) -> Accuracy:
        """Return the accuracy that a bootstrap gave."""
        return Accuracy(value=interval.value, low=interval.low, high=interval.high, pairs=pairs)


class RecoveryPoint(Section):
    """One cell of task and latent: weight times spread, true and learned."""

    task: str
    objective: str
    true: float
    learned: float


class Recovery(Section):
    """How well the learned coefficients follow the true task weights: Spearman over ``points``."""

    spearman: float
    points: tuple[RecoveryPoint, ...] = ()


class TrainingPoint(Section):
    """One evaluation while the gate was fitted."""

    step: int
    train_loss: float | None = None
    valid_loss: float | None = None
    train_accuracy: float | None = None
    valid_accuracy: float | None = None


class Training(Section):
    """The gate's fit: its points, and the step that was kept."""

    points: tuple[TrainingPoint, ...]
    best_step: int | None = None


class ReliabilityRow(Section):
    """Rows whose confidence is in (``low``, ``high``]: how many, mean confidence, and how many were routed right."""

    low: float
    high: float
    rows: int
    confidence: float | None = None
    accuracy: float | None = None


class CoverageRow(Section):
    """At or above a threshold of confidence: share of rows, how right they are, and how right the others are."""

    threshold: float
    coverage: float
    accuracy: float | None = None
    accuracy_below: float | None = None


class RouterPart(Section):
    """The router on held-out prompts.

    Attributes:
        names: the tasks.
        rows: number of held-out rows.
        accuracy: top-1 accuracy.
        majority: accuracy of always naming the most frequent task.
        linear: accuracy of a linear router.
        confusion: counts, rows are true tasks, columns routed ones.
        calibration_error: calibration error at the fitted temperature.
        uncalibrated: calibration error without a fitted temperature.
        temperature: the fitted temperature.
        reliability: accuracy by confidence bin.
        coverage: coverage and accuracy by confidence threshold.
        given: number of training rows with a task of their own, by task.
        routed: number of training rows whose task the router named, by task.
        below: number of routed rows below the threshold, by task.
        threshold: confidence level of the fall-back; 0 for none.
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
        task: task of the expert.
        name: name of the expert.
        preferences: it learned from.
        held_out: Accuracy on held-out preferences about its capability, which chose the state that was kept.
        start: The same before training, with a linear head.
        loss: Loss on these, in nats per prompt.
        start_loss: The same before training.
        steps: Optimiser steps.
        change: Relative change of the vectors by training.
        kept: Whether the trained adapter was kept; otherwise the expert is a linear head.
        agrees: share of test pairs that its rating orders as the overall label does.
        share: share of all contributions to margins within its task.
        true: agreement with its latent's true level.
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


class ExplainedPair(Section):
    """One pair taken apart, with its texts and what would flip it."""

    explanation: PairExplanation
    conversations: tuple[Conversation, Conversation] | None = None
    flip: Flip | None = None


class RunReport(Section):
    """Everything that ``report.html`` shows.

    Attributes:
        title: title of the run.
        description: description of the run.
        config: the resolved settings as YAML.
        seconds: by stage, in order.
        objectives: the experts of stage 1.
        debias: the penalties of the debiasing.
        length: the effect of debiasing on length.
        pair_accuracy: label kind (``noisy``, ``true``) to system (keys of ``SYSTEMS``) to accuracy.
        by_source: source to system to accuracy, against the labels.
        by_task: the same by task.
        router: figures of the router, for a model that has one.
        capabilities: figures of each capability, for a model with a router.
        recovery: how well the true weights were recovered.
        overall: what each expert does over many rows.
        ablation: what dropping each expert changes.
        training: losses and figures of the training.
        pair: one pair, explained.
        seeds: random seeds of the run.
        versions: versions of the packages.
        hashes: hashes of what the run depends on.
        notes: sentences to show under the title, such as warnings of the fit.
    """

    title: str
    description: str = ""
    config: str = ""
    seconds: Mapping[str, float] = Field(default_factory=dict)
    objectives: tuple[ObjectiveRow, ...] = ()
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
        """Return a JSON-ready dict, from which ``RunReport.model_validate`` makes the same report."""
        return self.model_dump(mode="json")
