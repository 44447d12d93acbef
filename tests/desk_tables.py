"""The tables of docs/methods/desk.md, made from the code."""

from __future__ import annotations

from random import Random

from facetrm.data.desk import Desk
from facetrm.data.desk.qualities import QUALITIES
from facetrm.data.desk.raters import DESK_RATERS
from facetrm.data.desk.tasks import DESK_TASKS
from world_tables import raters_table, table


def tables() -> dict[str, str]:
    """Return every generated table by the name of its markers."""
    return {"tasks": _tasks(), "qualities": _qualities(), "weights": _weights(), "raters": _raters()}


def _tasks() -> str:
    rows = []
    for task in DESK_TASKS.values():
        asked = task.forms[0].fill(Random(task.name)).messages()
        example = " / ".join(m.content for m in asked)
        rows.append((task.name, task.meaning, str(len(task.forms)), example))
    return table(("task", "what people ask for", "forms", "an example"), rows)


def _qualities() -> str:
    rows = [
        (q.name, q.meaning, f"0..{q.slots}", ", ".join(t for t in Desk.tasks if Desk.weights[t][q.name]))
        for q in QUALITIES
    ]
    return table(("quality", "meaning", "levels", "tasks"), rows)


def _weights() -> str:
    cells = [(q.name, *(f"{Desk.weights[t][q.name]:.2f}".replace("0.00", "") for t in Desk.tasks)) for q in QUALITIES]
    return table(("quality", *Desk.tasks), cells)


def _raters() -> str:
    return raters_table(DESK_RATERS, every=Desk.tasks)
