"""Conversations to score, explain, check or encode: the same rows that training reads, without their labels.

Each row is read for itself, by the columns in which it has a value, so a file need not fit into memory and may mix
conventions. Rows with two answers or more are preferences (best first); the others hold one answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from facetrm.core.errors import DataError
from facetrm.data.read.formats import to_unlabelled
from facetrm.data.read.rows import RawRow, read_rows, rows_in_memory
from facetrm.data.records import Conversation, Rating


@final
@dataclass(frozen=True)
class ScoringRow:
    """One row of a file: one answer, or several to one prompt (best first, where the file says so).

    Attributes:
        id: the row's own, or the number of its line.
        answers: whole conversations, each ending with an answer.
        place: where the row stands (``file:line``), for messages.
        task: as the row names it.
        source: as the row names it.
        line: the line of the file, or the row of a Parquet file or a list, from 1.
    """

    id: str
    answers: tuple[Conversation, ...]
    place: str
    task: str | None = None
    source: str | None = None
    line: int = 0

    @property
    def is_pair(self) -> bool:
        """Whether there are two answers or more."""
        return len(self.answers) > 1

    def to_dict(self) -> dict[str, Any]:
        """Return the row as it could stand in a file."""
        turns = [[message.model_dump(exclude_none=True) for message in answer] for answer in self.answers]
        known = {"id": self.id, "task": self.task, "source": self.source}
        kept = {key: value for key, value in known.items() if value is not None}
        if not self.is_pair:
            return {**kept, "messages": turns[0]}
        return {**kept, "prompt": turns[0][:-1], "responses": [messages[-1] for messages in turns]}


@final
@dataclass(frozen=True)
class RefusedRow:
    """A row that holds no conversation: why, with its place, and what stands there."""

    error: DataError
    row: object


def read_conversations(path: Path | str) -> list[ScoringRow]:
    """Read all rows of a file in any convention of :mod:`facetrm.data.read.formats`.

    Args:
        path: JSONL, JSON, CSV, TSV or Parquet; ``-`` reads JSONL from standard input. Columns that hold neither a
            conversation nor ``id``, ``task`` and ``source`` do not matter.

    Returns:
        The rows, in the order of the file.

    Raises:
        DataError: a bad row (file, line, field, value, fix), an empty file, or columns that hold no conversation.

    Example:
        >>> from tempfile import mkdtemp
        >>> from facetrm import World, read_conversations, write_records
        >>> path = mkdtemp() + "/pairs.jsonl"
        >>> _ = write_records(path, World().preferences(2))
        >>> [len(row.answers) for row in read_conversations(path)]
        [2, 2]
    """
    return list(stream_conversations(path))


def stream_conversations(path: Path | str) -> Iterator[ScoringRow]:
    """Yield the rows of :func:`read_conversations` one by one; a file of any size takes the memory of a few rows.

    Args:
        path: as for :func:`read_conversations`.

    Yields:
        The rows, in the order of the file.

    Raises:
        DataError: as :func:`read_conversations`, when the bad row is reached.
    """
    yield from _good(stream_all_rows(path))


def stream_all_rows(path: Path | str) -> Iterator[ScoringRow | RefusedRow]:
    """Yield the rows of :func:`stream_conversations`; a bad one is yielded too, with its error.

    Args:
        path: as for :func:`read_conversations`.

    Yields:
        The rows, in the order of the file.

    Raises:
        DataError: a file that cannot be read, or that holds no row.
    """
    yield from _each(read_rows(Path(path)), "standard input" if str(path) == "-" else str(path))


def conversations_in_memory(rows: Iterable[object], *, place: str = "rows") -> list[ScoringRow]:
    """Read rows that are in memory already, in any form that a file may have.

    Args:
        rows: each a dict of columns (``{"prompt": ..., "response": ...}``), a ``(prompt, answer)`` tuple of strings, or
            one conversation as a list of messages; a single conversation or dict counts as one row.
        place: what messages call the list.

    Returns:
        The rows, in order; ``answers`` of each can be given to ``RewardModel.score``.

    Raises:
        DataError: a bad row (its number from 1, field, value, fix), or no row at all.

    Example:
        >>> from facetrm import conversations_in_memory
        >>> (row,) = conversations_in_memory([("How do I boil an egg?", "In hot water.")])
        >>> [message.role for message in row.answers[0]]
        ['user', 'assistant']
    """
    return list(_good(_each(rows_in_memory(rows), place)))


def _good(rows: Iterable[ScoringRow | RefusedRow]) -> Iterator[ScoringRow]:
    for row in rows:
        if isinstance(row, RefusedRow):
            raise row.error
        yield row


def _each(rows: Iterable[RawRow], place: str) -> Iterator[ScoringRow | RefusedRow]:
    empty = True
    for row in rows:
        try:
            yield _scoring_row(row, f"{place}:{row.number}")
        except DataError as exc:
            yield RefusedRow(exc, row.text if row.value is None else row.value)
        empty = False
    if empty:
        raise DataError("no row", place=place, fix="give at least one conversation")


def _scoring_row(row: RawRow, place: str) -> ScoringRow:
    error = row.error
    if error is None:
        try:
            record = to_unlabelled(row.value or {})
        except DataError as exc:
            error = exc
    if error is not None:
        raise DataError(error.problem, place=place, fix=error.fix) from None
    if isinstance(record, Rating):
        answers: tuple[Conversation, ...] = (record.messages,)
    else:
        answers = tuple((*record.prompt, response) for response in record.responses)
    source = record.source if "source" in record.model_fields_set else None
    return ScoringRow(record.id or str(row.number), answers, place, record.task, source, row.number)
