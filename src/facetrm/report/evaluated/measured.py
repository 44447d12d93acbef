"""What the report of evaluations shows, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, final

from facetrm.evaluate.benchmarks.benchmark import TOTAL


@final
@dataclass(frozen=True)
class MeasuredFigure:
    """A figure with its interval.

    Attributes:
        value: The value.
        low: Lower end of the interval.
        high: Upper end of the interval.
    """

    value: float
    low: float
    high: float

    def minus(self, other: MeasuredFigure) -> MeasuredFigure:
        """Return the widest interval of a difference, which holds however the two figures depend on each other.

        Args:
            other: The figure to subtract.
        """
        return MeasuredFigure(self.value - other.value, self.low - other.high, self.high - other.low)

    @property
    def sign(self) -> int:
        """1 if the interval lies above zero, -1 if below, else 0."""
        return 1 if self.low > 0 else -1 if self.high < 0 else 0


Table: TypeAlias = Mapping[str, Mapping[str, MeasuredFigure | None]]
"""Figures by their name, then by system; None if it was not measured."""


@final
@dataclass(frozen=True)
class JudgedQuestion:
    """One question as one model judged it.

    Attributes:
        id: Id of the question.
        subset: Its subset.
        task: Its task; None if it has none.
        verdict: What the model did, in one word.
        margin: Best score of a right answer minus best score of a wrong one; None without both.
        answers: Number of answers.
        longer_by: Tokens of the right answer minus those of the wrong one; None if unknown, or not two answers.
        contributions: Part of each objective in the margin.
    """

    id: str
    subset: str
    task: str | None
    verdict: str
    margin: float | None
    answers: int
    longer_by: int | None
    contributions: Mapping[str, float] = field(default_factory=dict)


@final
@dataclass(frozen=True)
class Texts:
    """The texts of a question.

    Attributes:
        prompt: The prompt.
        right: Its right answers.
        wrong: Its wrong answers.
    """

    prompt: str
    right: tuple[str, ...]
    wrong: tuple[str, ...]


@final
@dataclass(frozen=True)
class BenchmarkPart:
    """Models on one benchmark.

    Attributes:
        name: Name of the benchmark.
        title: Its title.
        models: Names of the models, in order.
        figures: Figures of models and baselines.
        slices: Accuracy by length and by task.
        differences: Paired differences of figures, by ``(first, second)`` model.
        answered: Each model's questions, by subset and id.
        texts: Texts of the questions, by subset and id.
        about: What ``results.json`` says about how it was measured.
        note: What is missing of it, and why it stands apart from another of the same name; empty otherwise.
        plain: Names of the models that are baselines, such as ``length``.
    """

    name: str
    title: str
    models: tuple[str, ...]
    figures: Table
    slices: Table
    differences: Mapping[tuple[str, str], Mapping[str, MeasuredFigure | None]]
    answered: Mapping[str, Mapping[tuple[str, str], JudgedQuestion]]
    texts: Mapping[tuple[str, str], Texts]
    about: Mapping[str, Any]
    note: str = ""
    plain: frozenset[str] = frozenset()

    def total(self, system: str) -> MeasuredFigure | None:
        """Return the total of a model or baseline; None if it was not measured.

        Args:
            system: Name of the model or baseline.
        """
        return self.figures.get(TOTAL, {}).get(system)

    def difference(self, first: str, second: str) -> tuple[MeasuredFigure, bool] | None:
        """Return the difference of two totals, and whether it is from the same resamples; None if unknown.

        Args:
            first: Name of a model or baseline.
            second: Name of another.
        """
        paired = self.differences.get((first, second), {}).get(TOTAL)
        if paired is not None:
            return paired, True
        turned = self.differences.get((second, first), {}).get(TOTAL)
        if turned is not None:
            return MeasuredFigure(-turned.value, -turned.high, -turned.low), True
        a, b = self.total(first), self.total(second)
        return None if a is None or b is None else (a.minus(b), False)


@final
@dataclass(frozen=True)
class RunPart:
    """What a training run measured.

    Attributes:
        name: Name of its folder.
        statement: Its verdict, in words.
        good: Whether the verdict is ``usable``.
        accuracy: Pair accuracy by kind of label, source or task, then by system.
        gates: Mean weight of each objective by task; empty if the run has no gate, or no tasks.
        shares: Share of each capability in the absolute contributions to margins, by task; empty if the run has no
            experts by task.
    """

    name: str
    statement: str
    good: bool
    accuracy: Mapping[str, Mapping[str, float]]
    gates: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    shares: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@final
@dataclass(frozen=True)
class RankFigure:
    """Rank correlation of one score with the ratings of one objective.

    Attributes:
        own: Whether the score is the model's own rating of the objective, and not its reward.
        spearman: Spearman's rho; None if it is not defined.
        kendall: Kendall's tau-b; None if it is not defined.
        rows: Number of rated rows.
        failed: Number of rated rows without a score.
    """

    own: bool
    spearman: MeasuredFigure | None
    kendall: float | None
    rows: int
    failed: int


@final
@dataclass(frozen=True)
class RatedPart:
    """Models on one file of ratings.

    Attributes:
        name: Name of the file.
        rows: Number of rated answers.
        models: Names of the models, in order.
        files: SHA-256 of the files.
        figures: Figure by objective, then by model.
        means: Mean of Spearman's rho over the objectives, by model; without those that have none.
    """

    name: str
    rows: int
    models: tuple[str, ...]
    files: tuple[str, ...]
    figures: Mapping[str, Mapping[str, RankFigure]]
    means: Mapping[str, MeasuredFigure] = field(default_factory=dict)


@final
@dataclass(frozen=True)
class CalibrationPart:
    """Confidence against accuracy.

    Attributes:
        bins: Confidence, accuracy and number of pairs of each bin.
        error: Mean of |confidence - accuracy|, weighted by the pairs.
        beta: Factor of the margins; None if it was not fitted here.
        pairs: Pairs that it was judged on.
    """

    bins: tuple[tuple[float, float, int], ...]
    error: float
    beta: float | None
    pairs: int
