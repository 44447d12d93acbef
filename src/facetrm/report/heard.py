"""How much each objective counts, as rows of one table: what it decides, its weight, its validity, its length."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from facetrm.core.statistics import Interval
from facetrm.explain.overall import GroupView, OverallExplanation
from facetrm.report.axes import Axis
from facetrm.report.charts import Chart, heat_map


class Measured(Protocol):
    """How well an objective was predicted on held-out rows."""

    @property
    def measurable(self) -> bool | None:
        """Whether the figure is clearly better than chance; None if unknown."""
        ...


@dataclass(frozen=True)
class HeardRow:
    """How much one objective counts.

    Attributes:
        name: Name of the objective.
        counts: Its mean weight or, without weights, its share of all |contributions|.
        contribution: Its mean |contribution|.
        decides: Share of pairs that it decides on its own; None without pairs.
        length: Correlation of its contribution with length; None if unknown.
        interval: Interval of that correlation; None if unknown.
        unproven: Whether its ratings are known not to be predicted on held-out rows.
    """

    name: str
    counts: float
    contribution: float
    decides: float | None
    length: float | None
    interval: Interval | None
    unproven: bool


@dataclass(frozen=True)
class Heard:
    """How much each objective counts.

    Attributes:
        rows: One row per objective, by what it decides.
        axis: Axis of the mean |contributions|.
        by_task: Chart by task of the rows; None if the rows have no tasks.
        by_source: Chart by source of the rows; None if the rows have no sources.
    """

    rows: tuple[HeardRow, ...]
    axis: Axis
    by_task: Chart | None
    by_source: Chart | None


def heard(overall: OverallExplanation, *, validity: Mapping[str, Measured], name: str = "gate") -> Heard:
    """Return how much each objective counts.

    Args:
        overall: Weights and contributions over all answers.
        validity: How well each objective was predicted on held-out rows, by name.
        name: Name of the charts, unique on their page.
    """
    counts = _counts(overall.everyone)
    rows = tuple(
        HeardRow(
            name=objective,
            counts=counts[objective],
            contribution=overall.everyone.contributions[objective],
            decides=None if overall.decided is None else overall.decided.by[objective],
            length=overall.length[objective],
            interval=overall.length_interval.get(objective),
            unproven=objective in validity and validity[objective].measurable is False,
        )
        for objective in overall.deciders
    )
    return Heard(
        rows,
        Axis.over(overall.everyone.contributions.values()),
        _heat(f"{name}:task", overall.by_task, overall.deciders),
        _heat(f"{name}:source", overall.by_source, overall.deciders),
    )


def _heat(name: str, views: Mapping[str, GroupView], objectives: tuple[str, ...]) -> Chart | None:
    """Return a heat map of how much each objective counts in each task or source; None if ``views`` is empty."""
    if not views:
        return None
    rows = list(views)
    values = [[_counts(views[row])[objective] for objective in objectives] for row in rows]
    return heat_map(rows, list(objectives), values, name=name)


def _counts(view: GroupView) -> Mapping[str, float]:
    """Return how much each objective counts: its mean weight, or its share of all |contributions|."""
    total = sum(view.contributions.values()) or 1.0
    return view.weights or {name: value / total for name, value in view.contributions.items()}
