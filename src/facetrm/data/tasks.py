"""Task labels of rows from any origin, for training a router."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final

from facetrm.core.errors import DataError, did_you_mean
from facetrm.core.progress import log
from facetrm.data.records import Conversation, Preference, Rating


@final
@dataclass(frozen=True)
class TaskLabels:
    """N rows for a router.

    Attributes:
        conversations: Conversation of each row, [N]; for a preference, the one with the best response.
        tasks: Task label of each row, [N]; None if it has none.
        groups: Prompt key of each row, [N], so that a split can keep equal prompts together.
        counts: Number of labelled rows by task, in the order of the names.
    """

    conversations: list[Conversation]
    tasks: list[str | None]
    groups: list[str]
    counts: dict[str, int]

    @property
    def unlabelled(self) -> int:
        """Number of rows without a label."""
        return self.tasks.count(None)

    @property
    def labelled(self) -> list[int]:
        """Indices of the rows that have a label."""
        return [n for n, task in enumerate(self.tasks) if task is not None]


def task_rows(
    rows: Sequence[Rating | Preference],
    *,
    names: Sequence[str] | None = None,
    unknown: Literal["raise", "unlabelled"] = "raise",
) -> TaskLabels:
    """Return the conversation of each row, and its task if it has one, for a router.

    The label is the record's ``task``. (Readers also accept a column ``category``, and sources use their own labels.) A
    blank label counts as none.

    Args:
        rows: ratings and preferences, in any mixture.
        names: names of the tasks; None takes every label that occurs, in alphabetical order.
        unknown: whether a label outside ``names`` is an error (``raise``) or ignored (``unlabelled``).

    Returns:
        The labels, with one entry per row, in order. The counts are logged.

    Raises:
        DataError: A label is unknown (the message gives the row and a similar task), or ``names`` repeats a task.
    """
    if names is not None and len(set(names)) < len(names):
        twice = next(name for name in names if list(names).count(name) > 1)
        raise DataError(f"task '{twice}' is named twice", place="tasks", fix="name every task once")
    tasks: list[str | None] = []
    strange = 0
    for number, row in enumerate(rows):
        task = (row.task or "").strip() or None
        if task is not None and names is not None and task not in names:
            if unknown == "raise":
                place = f"row '{row.id}'" if row.id else f"row {number}"
                raise DataError(f"unknown task '{task}'", place=place, fix=did_you_mean(task, names))
            task, strange = None, strange + 1
        tasks.append(task)
    found = Counter(task for task in tasks if task is not None)
    counts = {name: found[name] for name in (sorted(found) if names is None else names)}
    log("task rows", rows=len(rows), tasks=counts, unlabelled=tasks.count(None), with_an_unknown_task=strange)
    conversations = [row.messages if isinstance(row, Rating) else row.chosen for row in rows]
    return TaskLabels(conversations, tasks, [row.prompt_key for row in rows], counts)
