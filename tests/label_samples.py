"""Pairs whose replies say what they are worth, and settings for the server of :mod:`label_server`."""

from __future__ import annotations

from typing import Any

from facetrm.data.records import Message, Preference
from facetrm.data.rubric import Capability, Rubric, RubricTask
from facetrm.label.pairs import Pair, preference_pairs
from facetrm.label.plan import Plan, make_plan
from facetrm.label.settings import LabelConfig


def rubric(*capabilities: str, task: str = "chat") -> Rubric:
    """Return a rubric of one task."""
    points = tuple(Capability(name=n, description=f"how {n} it is", better=f"more {n}") for n in capabilities)
    return Rubric(name="small", tasks=(RubricTask(name=task, description="Talk.", capabilities=points),))


def preference(n: int, *worth: float, says: str = "", **fields: Any) -> Preference:
    """Return responses worth so much, to a prompt of their own that ``says`` something to the server."""
    return Preference(
        id=f"row{n}",
        prompt=(Message(role="user", content=f"question {n} {says}"),),
        responses=tuple(Message(role="assistant", content=f"answer {i} worth {w}") for i, w in enumerate(worth)),
        **fields,
    )


def pairs(count: int) -> list[Pair]:
    """Return pairs whose first reply is better, but for every third one."""
    return preference_pairs(preference(n, *((1, 2) if n % 3 == 2 else (2, 1))) for n in range(count))


def plan(url: str | None = None, *, rows: list[Pair] | None = None, of: Rubric | None = None, **settings: Any) -> Plan:
    """Return a plan for the server at ``url``: patient settings with short waits."""
    quick = {"timeout": 10.0, "first_wait": 0.01, "longest_wait": 1.0, "in_flight": 4}
    config = LabelConfig.model_validate({"model": "judge", "base_url": url, **quick, **settings})
    return make_plan(pairs(6) if rows is None else rows, of or rubric("kind", "clear"), config)
