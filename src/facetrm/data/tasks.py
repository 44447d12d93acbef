"""Task labels of rows, whatever they came from: what a router learns from."""

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
    """N rows as a router reads them.

    Attributes:
        conversations: one of each row, to encode; a preference gives the one with its best response.
        tasks: the label of each row; None where it has none.
        groups: the prompt key of each row: what must not stand on both sides of a split.
        counts: labelled rows by task, in the order of the names.
    """

    conversations: list[Conversation]
    tasks: list[str | None]
    groups: list[str]
    counts: dict[str, int]

    @property
    def unlabelled(self) -> int:
        """How many rows have no label."""
        return self.tasks.count(None)

    @property
    def labelled(self) -> list[int]:
        """The numbers of the rows that have a label."""
        return [n for n, task in enumerate(self.tasks) if task is not None]


def task_rows(
    rows: Sequence[Rating | Preference],
    *,
    names: Sequence[str] | None = None,
    unknown: Literal["raise", "unlabelled"] = "raise",
) -> TaskLabels:
    """Return what a router reads of ``rows``: the whole dialogue, and the task where the row names one.

    The label is the record's ``task``, which the readers also take from a column ``category``, the sources from their
    own label, and the world from what it asked. A blank one is none.

    Args:
        rows: ratings or preferences, in any mixture.
        names: the tasks there are; None takes every label that occurs, in alphabetical order.
        unknown: what becomes of a label outside ``names``: an error, or a row without a label.

    Returns:
        One entry per row, in order; the counts are announced.

    Raises:
        DataError: an unknown label (it names the row and the nearest task), or a task named twice.
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
