"""The tables of docs/methods/desk.md, made from the code."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from facetrm.data.desk import Desk
from facetrm.data.desk.qualities import QUALITIES
from facetrm.data.desk.raters import DESK_RATERS
from facetrm.data.desk.tasks import DESK_TASKS


def tables() -> dict[str, str]:
    """Return every generated table by the name of its markers."""
    return {"tasks": _tasks(), "qualities": _qualities(), "weights": _weights(), "raters": _raters()}


def _tasks() -> str:
    rows = []
    for task in DESK_TASKS.values():
        asked = task.forms[0].fill(Random(task.name)).messages()
        example = " / ".join(m.content for m in asked)
        rows.append((task.name, task.meaning, str(len(task.forms)), example))
    return _table(("task", "what people ask for", "forms", "an example"), rows)


def _qualities() -> str:
    rows = [
        (q.name, q.meaning, f"0..{q.slots}", ", ".join(t for t in Desk.tasks if Desk.weights[t][q.name]))
        for q in QUALITIES
    ]
    return _table(("quality", "meaning", "levels", "tasks"), rows)


def _weights() -> str:
    cells = [(q.name, *(f"{Desk.weights[t][q.name]:.2f}".replace("0.00", "") for t in Desk.tasks)) for q in QUALITIES]
    return _table(("quality", *Desk.tasks), cells)


def _raters() -> str:
    rows = [
        (
            r.name,
            ", ".join(r.latents),
            f"{r.low:g}..{r.high:g} {r.kind}" + (", lower is better" if r.direction == "lower" else ""),
            f"{r.noise:g}",
            "all" if r.tasks == Desk.tasks else ", ".join(r.tasks),
        )
        for r in DESK_RATERS
    ]
    return _table(("rater", "rates", "scale", "noise", "tasks it saw"), rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *rows))
