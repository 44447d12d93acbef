"""The output of ``explain``: one answer, one pair, or the whole model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from facetrm import data as records
from facetrm import explain, recipes, report
from facetrm import model as models
from facetrm.core.errors import BackboneError
from facetrm.core.printed import print_json

if TYPE_CHECKING:
    from facetrm.data import ScoringRow
    from facetrm.explain import AnswerView, PairView, WholeView
    from facetrm.model import RewardModel


def print_row(model: RewardModel, asked: ScoringRow, *, html: Path | None, as_json: bool) -> None:
    """Print the explanation of one row: its only answer, or its first answer compared with its last.

    Args:
        model: Model to explain.
        asked: The row.
        html: Path of an HTML page to write as well; None for no page.
        as_json: Whether to print JSON instead of text.

    Raises:
        BackboneError: An answer cannot be read; the error names the row.
    """
    answers = (asked.answers[0], asked.answers[-1]) if asked.is_pair else asked.answers
    if len(asked.answers) > 2:
        print(f"row {asked.id} ranks {len(asked.answers)} answers: comparing the first with the last", file=sys.stderr)
    try:
        if asked.is_pair:
            preferred: Literal["A"] | None = "A" if asked.labelled else None
            pair = explain.explain_pair(model, answers[0], answers[-1], preferred=preferred)
            flip = explain.flip_explained(model, pair)
            shown = {**pair.to_dict(), "flip": None if flip is None else flip.to_dict()}
            view: PairView | AnswerView = explain.PairView(pair, (answers[0], answers[-1]), flip)
            if html is not None:
                report.write_page(html, pair, conversations=answers, flip=flip)
        else:
            local = explain.explain_local(model, answers[0])
            shown, view = local.to_dict(), explain.AnswerView(local, answers[0])
            if html is not None:
                report.write_page(html, local, conversations=answers)
    except BackboneError as exc:
        raise recipes.located(exc, [asked, asked]) from None
    if as_json:
        print_json(shown, indent=2)
    else:
        explain.show(view)
    if html is not None:
        print(f"page: {html}", file=sys.stderr)


def print_overall(model: RewardModel, asked: list[ScoringRow], *, html: Path | None = None, as_json: bool) -> None:
    """Print how much each objective counts over all rows, task by task.

    Args:
        model: Model to explain.
        asked: The rows; if some are pairs, only the pairs are used.
        html: Path of an HTML page to write as well; None for no page.
        as_json: Whether to print JSON instead of text.

    Raises:
        BackboneError: An answer cannot be read; the error names the row.
    """
    rows = [a for a in asked if a.is_pair] or asked
    try:
        routed = model.tasks_of([a.answers[0] for a in rows])
    except BackboneError as exc:
        raise recipes.located(exc, rows) from None
    views = {
        task: _whole(model, [a for a, of in zip(rows, routed, strict=True) if of == task], task)
        for task in model.tasks
        if task in routed
    }
    if as_json:
        shown: dict[str, Any] = {
            task: {
                "overall": v.overall.to_dict(),
                "ablation": None if v.effects is None else v.effects.to_dict(),
                "edits": dict(v.edits),
                "validity": {name: v.validity[name].to_dict() for name in v.validity},
            }
            for task, v in views.items()
        }
        value = {"tasks": shown} if len(model.tasks) > 1 else next(iter(shown.values()))
        print_json(value, indent=2)
    else:
        for view in views.values():
            recipes.show_whole(view)
    if html is not None:
        report.write_whole_page(html, list(views.values()), model=model.hash)
        print(f"page: {html}", file=sys.stderr)


def _whole(model: RewardModel, rows: list[ScoringRow], task: str) -> WholeView:
    """Return the explanation of one task's mixture on the rows of that task."""
    try:
        first = model.features([a.answers[0] for a in rows], task=task)
        last = model.features([a.answers[-1] for a in rows], task=task) if rows[0].is_pair else None
    except BackboneError as exc:
        raise recipes.located(exc, rows) from None
    tasks = [a.task or "" for a in rows] if all(a.task for a in rows) else []
    prompts = [records.prompt_key(a.answers[0][:-1]) for a in rows]
    whole = explain.explain_overall(model, first, last, tasks=tasks, groups=prompts, task=task)
    effects = None if last is None else explain.ablate(model, first, last, groups=prompts, task=task)
    edits = explain.changes_of(model, task)
    validity = {name: v for name, v in models.validity_of(model.provenance).items() if name in whole.length}
    return explain.WholeView(whole, effects, task if len(model.tasks) > 1 else "", edits, validity)
