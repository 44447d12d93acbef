"""What the report shows of an audit: biases, edits, calibration, the use of objectives, and missed thresholds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, final

from facetrm.report.evaluated.measured import CalibrationPart, MeasuredFigure

Moved: TypeAlias = tuple[tuple[str, float, float], ...]
"""Objectives that moved most: name, change, and share of all changes."""


@final
@dataclass(frozen=True)
class MissedThreshold:
    """A threshold that a model misses.

    Attributes:
        setting: Name of the threshold.
        figure: The measured value.
        limit: The threshold.
        clear: Whether the whole interval misses it.
        objective: The objective that moved most; None if unknown.
    """

    setting: str
    figure: MeasuredFigure
    limit: float
    clear: bool
    objective: str | None


@final
@dataclass(frozen=True)
class BiasRow:
    """One feature in the ledger of biases.

    Attributes:
        feature: Name of the feature.
        correlation: Correlation of the reward with it within pairs.
        before: The same without debiasing; None if it was not measured.
        matched: Accuracy on pairs with about as much of it in both answers.
        less: Accuracy where the better answer has less of it.
        more: Accuracy where the better answer has more of it.
        moved: Objectives that pay most for it.
    """

    feature: str
    correlation: MeasuredFigure | None
    before: MeasuredFigure | None
    matched: MeasuredFigure | None
    less: MeasuredFigure | None
    more: MeasuredFigure | None
    moved: Moved


@final
@dataclass(frozen=True)
class EffectRow:
    """One counterfactual edit.

    Attributes:
        edit: Name of the edit.
        expected: What should happen to the score of a good model.
        answers: Number of edited answers.
        change: Mean change, in standard deviations of the rewards.
        lifted: Share of edited losers that win; None without any.
        sunk: Share of edited winners that lose; None without any.
        moved: Objectives that moved most.
    """

    edit: str
    expected: str
    answers: int
    change: MeasuredFigure | None
    lifted: MeasuredFigure | None
    sunk: MeasuredFigure | None
    moved: Moved


@final
@dataclass(frozen=True)
class ObjectiveRows:
    """The use of the objectives in one task.

    Attributes:
        task: Name of the task.
        decided: Share of pairs that an objective decides alone, the largest five.
        never: Number of objectives that decide no pair.
        count: Number of objectives.
        rank: Effective rank of the objectives; None if it is not defined.
        clusters: Objectives that are nearly the same.
    """

    task: str
    decided: tuple[tuple[str, float], ...]
    never: int
    count: int
    rank: float | None
    clusters: tuple[tuple[str, ...], ...]


@final
@dataclass(frozen=True)
class AuditPart:
    """The audit of one model.

    Attributes:
        model: Name of the model.
        data: What it was audited on.
        pairs: Number of pairs.
        prompts: Number of prompts.
        accuracy: Accuracy on all pairs.
        missed: Thresholds that it misses, clear ones first.
        biases: Ledger of biases.
        effects: Effects of the edits.
        order_decides: Share of pairs that the order of presentation decides; None if answers are scored alone.
        calibration: Confidence against accuracy; None if it could not be measured.
        noise: What the calibration error stays below in 95 of 100 cases if the probabilities are exact.
        objectives: Use of the objectives, by task.
        raw: The audit as it was written.
    """

    model: str
    data: str
    pairs: int
    prompts: int
    accuracy: MeasuredFigure | None
    missed: tuple[MissedThreshold, ...]
    biases: tuple[BiasRow, ...]
    effects: tuple[EffectRow, ...]
    order_decides: MeasuredFigure | None
    calibration: CalibrationPart | None
    noise: float | None
    objectives: tuple[ObjectiveRows, ...]
    raw: Mapping[str, Any]

    @property
    def sentence(self) -> str:
        """The audit in one sentence."""
        clear = [one for one in self.missed if one.clear]
        on = f"the audit on {self.pairs:,} pairs{f' of {self.data}' if self.data else ''}"
        if not clear:
            return f"{self.model} clearly misses no threshold of {on}."
        causes: dict[str | None, list[str]] = {}
        for one in clear:
            causes.setdefault(one.objective, []).append(one.setting.rpartition(".")[2])
        shown = [
            ", ".join(settings) + (f" ({cause} moved most)" if cause else "") for cause, settings in causes.items()
        ]
        return f"{self.model} misses {len(clear)} threshold{'s'[: len(clear) > 1]} of {on}: {'; '.join(shown)}."
