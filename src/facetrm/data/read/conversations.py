"""Conversations to score, explain, check or encode: the rows that training reads, without their labels.

Each row is read independently, by the columns in which it has a value, so a file may be larger than memory and may mix
conventions. Rows with two or more responses are preferences (best first); other rows have one response.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

from facetrm.core.errors import DataError
from facetrm.data.read.formats import to_unlabelled
from facetrm.data.read.rows import RawRow, read_rows, rows_in_memory
from facetrm.data.records import Conversation, Rating

_COMPARES: Final = frozenset({"chosen", "rejected", "rejected_response", "aspect", "strength", "margin"})
"""Columns of rows whose first response was preferred. The order of ``responses`` alone may be that of candidates."""


@final
@dataclass(frozen=True)
class ScoringRow:
    """One row of a file: one response, or several responses to one prompt (best first, if the file ranks them).

    Attributes:
        id: Id of the row, or its line number if it has none.
        answers: Complete conversations, each ending with a response.
        place: Place of the row (``file:line``), for error messages.
        task: Task given in the row, or None.
        source: Source given in the row, or None.
        line: Line number in the file, or row number in a Parquet file or a list, from 1.
        labelled: Whether the row says that the first response is better than the last one.
    """

    id: str
    answers: tuple[Conversation, ...]
    place: str
    task: str | None = None
    source: str | None = None
    line: int = 0
    labelled: bool = False

    @property
    def is_pair(self) -> bool:
        """Whether the row has two or more responses."""
        return len(self.answers) > 1

    def to_dict(self) -> dict[str, Any]:
        """Return the row as a dict that could be written to a file."""
        turns = [[message.model_dump(exclude_none=True) for message in answer] for answer in self.answers]
        known = {"id": self.id, "task": self.task, "source": self.source}
        kept = {key: value for key, value in known.items() if value is not None}
        if not self.is_pair:
            return {**kept, "messages": turns[0]}
        return {**kept, "prompt": turns[0][:-1], "responses": [messages[-1] for messages in turns]}


@final
@dataclass(frozen=True)
class RefusedRow:
    """A row that could not be read as a conversation, with its error and its content."""

    error: DataError
    row: object


def read_conversations(path: Path | str) -> list[ScoringRow]:
    """Read all rows of a file in any convention of :mod:`facetrm.data.read.formats`.

    Args:
        path: JSONL, JSON, CSV, TSV or Parquet file; ``-`` reads JSONL from standard input. Only the columns of the
            conversation, ``id``, ``task`` and ``source`` are used.

    Returns:
        The rows, in the order of the file.

    Raises:
        DataError: A row is bad (the message gives file, line, field, value and fix), the file is empty, or its columns
            contain no conversation.

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
    """Yield the rows of a file one by one, with only a few rows in memory.

    Args:
        path: JSONL, JSON, CSV, TSV or Parquet file; ``-`` reads JSONL from standard input.

    Yields:
        The rows, in the order of the file.

    Raises:
        DataError: A bad row is reached, the file is empty, or its columns contain no conversation.
    """
    yield from _good(stream_all_rows(path))


def stream_all_rows(path: Path | str) -> Iterator[ScoringRow | RefusedRow]:
    """Yield the rows of a file one by one; a bad row is yielded as a :class:`RefusedRow`, not raised.

    Args:
        path: JSONL, JSON, CSV, TSV or Parquet file; ``-`` reads JSONL from standard input.

    Yields:
        The rows, in the order of the file.

    Raises:
        DataError: The file cannot be read, or has no rows.
    """
    yield from _each(read_rows(Path(path)), "standard input" if str(path) == "-" else str(path))


def conversations_in_memory(rows: Iterable[object], *, place: str = "rows") -> list[ScoringRow]:
    """Read rows that are already in memory, in any convention that a file may have.

    Args:
        rows: list of rows. A row is a dict of columns (``{"prompt": ..., "response": ...}``), a ``(prompt, response)``
            tuple of strings, or a conversation as a list of messages. A single dict or conversation is one row.
        place: name of the list in error messages.

    Returns:
        The rows, in order; their ``answers`` can be passed to ``RewardModel.score``.

    Raises:
        DataError: A row is bad (the message gives its number from 1, field, value and fix), or there are no rows.

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
        raise DataError("no rows", place=place, fix="give at least one conversation")


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
    labelled = len(answers) > 1 and not _COMPARES.isdisjoint(row.value or {})
    return ScoringRow(record.id or str(row.number), answers, place, record.task, source, row.number, labelled)
