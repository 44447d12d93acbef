"""The content of a training run's ``report.html``: typed, JSON-ready, with every part optional except the title.

The report leaves out the section of an absent part, and says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pydantic import Field

from facetrm.core.config import Section
from facetrm.data.records import Conversation
from facetrm.evaluate.verdict import Verdict
from facetrm.explain.ablation import AblationTable
from facetrm.explain.flip import Flip
from facetrm.explain.local import PairExplanation
from facetrm.explain.overall import OverallExplanation
from facetrm.report.layer_table import LayerTableRow
from facetrm.report.task_parts import Accuracy, CapabilityRow, RouterPart

SYSTEM_TITLES: Final = {
    "gate": "facetrm (gate)",
    "model": "facetrm (routed)",
    "task_rm": "the task's adapter alone",
    "mean_of_experts": "mean of the experts' ratings",
    "single_rm": "single reward model (one adapter)",
    "ensemble_mean": "ensemble of single reward models, mean",
    "ensemble_median": "ensemble, median",
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
        measurable: Whether the interval lies above 0, on enough held-out rows; None if unknown.
        coverage: Share of the held-out ratings inside their 90% interval; None if there are no intervals.
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
    measurable: bool | None = None
    coverage: float | None = None


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


class VerdictPart(Section):
    """What the held-out pairs say about the model.

    Attributes:
        status: ``usable``, ``not better``, ``chance`` or ``backwards``.
        statement: The verdict in one or two sentences.
        evidence: What was measured besides the held-out pairs, one sentence each.
        warnings: What limits it, one sentence each.
        advice: What would change it, one sentence each.
    """

    status: str
    statement: str
    evidence: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()

    @staticmethod
    def of(verdict: Verdict) -> VerdictPart:
        """Return the part of a report for ``verdict``."""
        return VerdictPart(
            status=verdict.status,
            statement=verdict.statement,
            evidence=verdict.evidence,
            warnings=verdict.warnings,
            advice=verdict.advice,
        )


class ListedPair(Section):
    """One labelled test pair in a list, texts shortened.

    Attributes:
        prompt: Prompt of the pair.
        chosen: Answer that the label prefers.
        rejected: The other answer.
        margin: Reward of the chosen answer minus that of the rejected one.
        probability: Probability that the model gives to the chosen answer, 0 to 1.
        largest: The three objectives with the largest differences, chosen minus rejected.
        task: Task of the mixture that scored the pair; empty for a single task.
        source: Source of the pair; empty if unknown.
    """

    prompt: str
    chosen: str
    rejected: str
    margin: float
    probability: float
    largest: tuple[tuple[str, float], ...]
    task: str = ""
    source: str = ""


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
        model: What the model consists of, in one line.
        data: What it was trained and tested on, in one line.
        verdict: What the held-out pairs say about the model.
        config: Resolved settings, as YAML.
        seconds: Duration of each stage, in seconds, in order.
        objectives: Figures of each expert of stage 1.
        layers: How well each layer suits each objective, if experts could choose among several.
        debias: Penalty and correlations of each objective.
        length: Effect of debiasing on the correlation with length.
        pair_accuracy: Accuracy by kind of label (``noisy``, ``true``) and system (a key of ``SYSTEM_TITLES``).
        by_source: Accuracy by source and system, against the labels.
        by_task: Accuracy by task and system, against the labels or the true order.
        task_truth: Whether ``by_task`` is against the true order.
        router: Figures of the router, if the model has one.
        capabilities: Figures of each expert of a DMoERM.
        recovery: How well the true weights were recovered, in the world.
        overall: Weights and contributions over the held-out pairs.
        ablation: Effect of dropping each expert.
        training: Fit of the gate.
        pair: One pair, explained.
        errors: The test pairs on which the model is most certain and wrong, most certain first.
        wrong: Number of test pairs that the model orders wrongly.
        ties: The test pairs on which the model is least certain, least certain first.
        seeds: Random seeds, by use.
        versions: Versions of Python and the packages, the platform, and the number of threads.
        hashes: Hashes of the data, the model and the encoder.
        notes: Sentences below the title, such as warnings of the fit.
    """

    title: str
    description: str = ""
    model: str = ""
    data: str = ""
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
    task_truth: bool = False
    router: RouterPart | None = None
    capabilities: tuple[CapabilityRow, ...] = ()
    recovery: Recovery | None = None
    overall: OverallExplanation | None = None
    ablation: AblationTable | None = None
    training: Training | None = None
    pair: ExplainedPair | None = None
    errors: tuple[ListedPair, ...] = ()
    wrong: int = 0
    ties: tuple[ListedPair, ...] = ()
    seeds: Mapping[str, int] = Field(default_factory=dict)
    versions: Mapping[str, str] = Field(default_factory=dict)
    hashes: Mapping[str, str] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dict. ``RunReport.model_validate`` turns it back into the same report."""
        return self.model_dump(mode="json")
