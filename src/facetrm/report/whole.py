"""HTML page of a whole model: per task, how much each objective counts and what dropping it changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from facetrm.core.files import write_text
from facetrm.explain.ablation import AblationTable
from facetrm.explain.overall import OverallExplanation
from facetrm.explain.table import WholeView
from facetrm.report.heard import Heard, heard
from facetrm.report.page import environment


@dataclass(frozen=True)
class TaskPart:
    """Everything that the template reads about one task.

    Attributes:
        task: Name of the task; empty if the model has only one.
        facts: Sentences at the top of the section.
        overall: Weights and contributions over all rows.
        effects: Effect of dropping each expert; None without pairs.
        heard: How much each objective counts, as rows of a table and charts.
    """

    task: str
    facts: tuple[str, ...]
    overall: OverallExplanation
    effects: AblationTable | None
    heard: Heard


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
    return TaskPart(
        task=view.task,
        facts=view.facts,
        overall=view.overall,
        effects=view.effects,
        heard=heard(view.overall, validity=view.validity, name=f"task{number}"),
    )
