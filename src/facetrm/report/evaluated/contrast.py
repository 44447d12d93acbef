"""Where two models differ most, and what decides by task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Final, final

from facetrm.report.axes import Axis
from facetrm.report.charts import folded, levels_of
from facetrm.report.evaluated.answer import leaders
from facetrm.report.evaluated.measured import BenchmarkPart, JudgedQuestion, Texts

_MOST: Final = 5
"""Number of questions listed in each direction."""
_STEPS: Final = 6
_OBJECTIVES: Final = 12
_TASKS: Final = 12


@final
@dataclass(frozen=True)
class WaterfallStep:
    """One step of a waterfall.

    Attributes:
        name: Name of the objective.
        value: Its contribution to the margin.
        left: Left end of its bar, in percent of the axis.
        width: Width of its bar, in percent of the axis.
    """

    name: str
    value: float
    left: float
    width: float


@final
@dataclass(frozen=True)
class ModelOnCase:
    """One model on one question.

    Attributes:
        model: Name of the model.
        answered: What it did.
        steps: Contributions to the margin, the largest first; each bar starts where the one before it ends.
        axis: Axis of the steps.
    """

    model: str
    answered: JudgedQuestion
    steps: tuple[WaterfallStep, ...]
    axis: Axis

    @property
    def total(self) -> float:
        """The sum of the steps, in percent of the axis."""
        return self.axis.at(sum(step.value for step in self.steps))


@final
@dataclass(frozen=True)
class Case:
    """One question on which models differ.

    Attributes:
        id: Id of the question.
        subset: Its subset.
        sides: Each model.
        texts: Its texts; None if unknown.
    """

    id: str
    subset: str
    sides: tuple[ModelOnCase, ...]
    texts: Texts | None


@final
@dataclass(frozen=True)
class Contrast:
    """Questions that one model gets right and another wrong, or that the only model gets wrong.

    Attributes:
        title: What the questions have in common.
        count: Number of such questions.
        cases: Those with the largest margins.
    """

    title: str
    count: int
    cases: tuple[Case, ...]


def contrasts(part: BenchmarkPart) -> tuple[Contrast, ...]:
    """Return where the two best models differ; of a single model, its most certain errors.

    Margins are divided by the model's median |margin|, so that models with different scales can be compared.

    Args:
        part: Models on one benchmark.
    """
    order = [model for model in leaders(part) if model in part.answered]
    if not order:
        return ()
    if len(order) == 1:
        found = [_contrast(part, (order[0],), f"{order[0]} is wrong", ("wrong",))]
    else:
        a, b = order[:2]
        found = [
            _contrast(part, (a, b), f"{a} is right, {b} is wrong", ("right", "wrong")),
            _contrast(part, (a, b), f"{b} is right, {a} is wrong", ("wrong", "right")),
        ]
    return tuple(one for one in found if one.count)


def shares_by_task(part: BenchmarkPart, model: str) -> tuple[list[str], list[str], list[list[float]]] | None:
    """Return objectives, tasks, and the share of each objective in all |contributions to the margin| of a task.

    Args:
        part: Models on one benchmark.
        model: Name of the model.
    """
    sums: dict[str, dict[str, float]] = {}
    for one in part.answered.get(model, {}).values():
        row = sums.setdefault(one.task or one.subset, {})
        for name, value in one.contributions.items():
            row[name] = row.get(name, 0.0) + abs(value)
    sums = {task: row for task, row in sums.items() if sum(row.values()) > 0}
    if not sums:
        return None
    shares = {task: {n: v / sum(row.values()) for n, v in row.items()} for task, row in list(sums.items())[:_TASKS]}
    names, values = largest_rows(shares)
    return names, list(shares), values


def largest_rows(
    shares: Mapping[str, Mapping[str, float]], *, absent: float = 0.0
) -> tuple[list[str], list[list[float]]]:
    """Return the objectives with the largest shares, the others as one row, and the share of each by column.

    Args:
        shares: Share of each objective by column, such as a task.
        absent: Share of an objective that a column lacks.
    """
    weight: dict[str, float] = {}
    for row in shares.values():
        for name, value in row.items():
            weight[name] = weight.get(name, 0.0) + value
    order = sorted(weight, key=lambda name: -weight[name])
    kept, rest = order[:_OBJECTIVES], order[_OBJECTIVES:]
    names = [*kept, f"{len(rest)} others"] if rest else kept
    values = [[row.get(name, absent) for row in shares.values()] for name in kept]
    if rest:
        values.append([sum(row.get(name, 0.0) for name in rest) for row in shares.values()])
    return names, values


def _contrast(part: BenchmarkPart, models: tuple[str, ...], title: str, verdicts: tuple[str, ...]) -> Contrast:
    scales = {model: _scale(part.answered[model]) for model in models}
    found = []
    for key, first in part.answered[models[0]].items():
        rows = [first, *(one for model in models[1:] if (one := part.answered[model].get(key)) is not None)]
        if [row.verdict for row in rows] == list(verdicts):
            size = min(abs(row.margin or 0.0) / scales[model] for model, row in zip(models, rows, strict=True))
            found.append((size, key, rows))
    found.sort(key=lambda one: (-one[0], one[1]))
    cases = tuple(
        Case(key[1], key[0], tuple(map(_side, models, rows)), part.texts.get(key)) for _, key, rows in found[:_MOST]
    )
    return Contrast(title, len(found), cases)


def _side(model: str, answered: JudgedQuestion) -> ModelOnCase:
    parts = folded(sorted(answered.contributions.items(), key=lambda item: -abs(item[1])), _STEPS)
    levels = levels_of(parts, 0.0)
    axis = Axis.over(levels)
    steps = []
    for (name, value), *ends in zip(parts, levels, levels[1:], strict=False):
        left, right = axis.at(min(ends)), axis.at(max(ends))
        steps.append(WaterfallStep(name, value, left, right - left))
    return ModelOnCase(model, answered, tuple(steps), axis)


def _scale(rows: Mapping[tuple[str, str], JudgedQuestion]) -> float:
    return median([abs(one.margin) for one in rows.values() if one.margin] or [1.0])
