"""HTML page of a whole model: per task, how much each objective counts and what dropping it changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from facetrm.core.files import write_text
from facetrm.explain.ablation import AblationTable
from facetrm.explain.overall import GroupView, OverallExplanation
from facetrm.explain.table import WholeView
from facetrm.report.charts import Bar, Chart, bars, heat_map
from facetrm.report.page import environment


@dataclass(frozen=True)
class TaskPart:
    """Everything that the template reads about one task.

    Attributes:
        task: Name of the task; empty if the model has only one.
        facts: Sentences at the top of the section.
        overall: Weights and contributions over all rows.
        effects: Effect of dropping each expert; None without pairs.
        listened: Chart of how much each objective counts.
        by_task: The same per task of the rows; None if the rows have no tasks.
        by_source: The same per source of the rows; None if the rows have no sources.
    """

    task: str
    facts: tuple[str, ...]
    overall: OverallExplanation
    effects: AblationTable | None
    listened: Chart
    by_task: Chart | None
    by_source: Chart | None


def write_whole_page(path: Path, views: Sequence[WholeView], *, model: str) -> Path:
    """Write the page of a whole model to ``path`` and return the path.

    Args:
        path: Path of the page.
        views: One view per task.
        model: Name or hash of the model.

    Raises:
        ConfigError: Matplotlib is not installed.
    """
    parts = [_part(view, n) for n, view in enumerate(views)]
    template = environment().get_template("whole.html.j2")
    write_text(path, template.render(title="What the model listens to, and why", model=model, parts=parts))
    return path


def _part(view: WholeView, number: int) -> TaskPart:
    overall = view.overall
    return TaskPart(
        task=view.task,
        facts=view.facts,
        overall=overall,
        effects=view.effects,
        listened=listened(overall.everyone, name=f"listened{number}"),
        by_task=heat(f"task{number}", overall.by_task),
        by_source=heat(f"source{number}", overall.by_source),
    )


def heat(what: str, views: Mapping[str, GroupView]) -> Chart | None:
    """Return a heat map of how much each objective counts in each task or source; None if ``views`` is empty.

    Args:
        what: ``task`` or ``source``, for the name of the chart.
        views: Weights and contributions, by task or source.
    """
    if not views:
        return None
    rows = list(views)
    columns = list(next(iter(views.values())).contributions)
    values = [[_heard(views[row])[column] for column in columns] for row in rows]
    return heat_map(rows, columns, values, name=f"gate:{what}")


def listened(everyone: GroupView, *, name: str = "listened") -> Chart:
    """Return a bar chart of how much each objective counts over all answers.

    Args:
        everyone: Weights and contributions over all answers.
        name: Name of the chart, unique on its page.
    """
    rows = sorted(_heard(everyone).items(), key=lambda item: -item[1])
    return bars([Bar(name, value, hero=True) for name, value in rows], name=name, percent=True)


def _heard(view: GroupView) -> Mapping[str, float]:
    """Return how much each objective counts: its mean weight, or its share of all |contributions|."""
    total = sum(view.contributions.values()) or 1.0
    return view.weights or {name: value / total for name, value in view.contributions.items()}
