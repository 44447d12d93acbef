"""Rows of conversations in, rows of scores out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

from facetrm.core.errors import BackboneError, DataError
from facetrm.core.progress import progress
from facetrm.data.read.columns import validate
from facetrm.data.read.formats import detect, to_record
from facetrm.data.read.rows import RawRow, read_rows
from facetrm.data.records import Conversation, Preference, Rating
from facetrm.model.reward_model import RewardModel

_CHUNK: Final = 256


@runtime_checkable
class _Tokenizes(Protocol):
    """An encoder that can say, without a pass, whether it can read a conversation."""

    def tokenize(self, messages: Conversation) -> object:
        """Return the ids of ``messages``; a BackboneError says why there are none."""


@dataclass(frozen=True)
class ScoringRow:
    """One row of a file: one answer, or several to one prompt (best first, where the file says so).

    ``place`` says where it stands, for messages.
    """

    id: str
    answers: tuple[Conversation, ...]
    place: str
    task: str | None = None
    source: str | None = None

    @property
    def is_pair(self) -> bool:
        """Whether there are two answers or more."""
        return len(self.answers) > 1

    def to_dict(self) -> dict[str, Any]:
        """Return the row as it would stand in a file."""
        turns = [[message.model_dump(exclude_none=True) for message in answer] for answer in self.answers]
        known = {"id": self.id, "task": self.task, "source": self.source}
        kept = {key: value for key, value in known.items() if value is not None}
        if not self.is_pair:
            return {**kept, "messages": turns[0]}
        return {**kept, "prompt": turns[0][:-1], "responses": [messages[-1] for messages in turns]}


@dataclass(frozen=True)
class RefusedRow:
    """A row that holds no conversation to score: why, and what stands there."""

    error: DataError
    row: object


def read_asked(path: Path) -> list[ScoringRow]:
    """Read conversations to score: rows with ``messages``, or preference rows in any convention.

    Args:
        path: JSONL or Parquet. Every other column of a row with ``messages`` is ignored, but ``id``, ``task`` and
            ``source`` are kept.

    Raises:
        DataError: a bad row (file, line, field, value, fix), an empty file, or columns that are neither.
    """
    found = []
    for row in stream_asked(path):
        if isinstance(row, RefusedRow):
            raise row.error
        found.append(row)
    return found


def stream_asked(path: Path) -> Iterator[ScoringRow | RefusedRow]:
    """Return the rows that :func:`read_asked` reads, as they are read; a bad one comes too, with its error.

    Args:
        path: JSONL or Parquet.

    Raises:
        DataError: an empty file, or columns that are neither.
    """
    first = next(iter(read_rows(path)), None)
    if first is None:
        raise DataError("no row", place=path, fix="give at least one conversation")
    return _preferred(path) if {"chosen", "responses"} & set(first.value or ()) else _all_rated(path)


def _all_rated(path: Path) -> Iterator[ScoringRow | RefusedRow]:
    for row in read_rows(path):
        try:
            yield _rated(path, row)
        except DataError as exc:
            yield RefusedRow(exc, row.text if row.value is None else row.value)


def _preferred(path: Path) -> Iterator[ScoringRow | RefusedRow]:
    rows = list(read_rows(path))
    try:
        layout = detect([row.value for row in rows if row.value is not None], "preference")
    except DataError as exc:
        raise DataError(exc.problem, place=path, fix=exc.fix) from None
    for row in rows:
        place = f"{path}:{row.number}"
        try:
            if row.error is not None:
                raise row.error
            record = to_record(row.value or {}, layout)
        except DataError as exc:
            error = DataError(exc.problem, place=place, fix=exc.fix)
            yield RefusedRow(error, row.text if row.value is None else row.value)
            continue
        if isinstance(record, Preference):
            answers = tuple((*record.prompt, response) for response in record.responses)
            yield ScoringRow(record.id or str(row.number - 1), answers, place, record.task, record.source)


def _rated(path: Path, row: RawRow) -> ScoringRow:
    place = f"{path}:{row.number}"
    if row.error is not None:
        raise DataError(row.error.problem, place=place, fix=row.error.fix)
    if row.value is None:
        raise DataError("no object", place=place, fix="write one JSON object a line")
    if "messages" not in row.value:
        raise DataError(
            f"no 'messages' among {', '.join(sorted(row.value)) or 'no columns'}",
            place=place,
            fix="give 'messages' (a message list that ends with the answer), or a preference row",
        )
    try:
        record = validate(Rating, {"messages": row.value["messages"], "ratings": {}})
    except DataError as exc:
        raise DataError(exc.problem, place=place, fix=exc.fix) from None
    if not isinstance(record, Rating):
        raise DataError("no conversation", place=place, fix="give a message list that ends with the answer")
    known = {key: str(row.value[key]) for key in ("id", "task", "source") if row.value.get(key) is not None}
    name = known.get("id", str(row.number - 1))
    return ScoringRow(name, (record.messages,), place, known.get("task"), known.get("source"))


@dataclass(frozen=True)
class ScoredChunk:
    """Some rows, scored: a JSON-ready row for each answer, one for each row that was skipped, and the tokens read."""

    scores: list[dict[str, Any]]
    skipped: list[dict[str, Any]]
    tokens: int


def chunks(rows: Iterable[ScoringRow | RefusedRow]) -> Iterator[list[ScoringRow | RefusedRow]]:
    """Yield the rows in lists of few answers; where one ends depends on the rows alone."""
    part: list[ScoringRow | RefusedRow] = []
    size = 0
    for row in rows:
        part.append(row)
        size += len(row.answers) if isinstance(row, ScoringRow) else 1
        if size >= _CHUNK:
            yield part
            part, size = [], 0
    if part:
        yield part


def score_rows(
    model: RewardModel,
    asked: Iterable[ScoringRow | RefusedRow],
    *,
    quiet: bool = False,
    skipped: list[dict[str, Any]] | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield one JSON-ready row per answer, in order: ``id``, ``answer`` (its number in the row), and the score.

    Args:
        model: scores.
        asked: the rows.
        quiet: no progress bar.
        skipped: takes the rows that cannot be scored, with the reason; None: the first one is an error.

    Raises:
        BackboneError: a conversation that cannot be read; it names the row.
        DataError: a row without a conversation.
    """
    total = sum(len(row.answers) for row in asked if isinstance(row, ScoringRow)) if isinstance(asked, list) else None
    with progress("score", total, quiet=quiet) as meter:
        for part in chunks(asked):
            found = score_chunk(model, part, skip=skipped is not None)
            if skipped is not None:
                skipped.extend(found.skipped)
            yield from found.scores
            meter.advance(len(found.scores), tokens=found.tokens)


def score_chunk(model: RewardModel, part: Sequence[ScoringRow | RefusedRow], *, skip: bool) -> ScoredChunk:
    """Score the rows of one chunk together.

    Args:
        model: scores.
        part: the rows.
        skip: leave out a row that cannot be scored, with all of its answers; else it is an error.

    Raises:
        BackboneError: a conversation that cannot be read; it names the row.
        DataError: a row without a conversation.
    """
    good: list[ScoringRow] = []
    refused: dict[int, dict[str, Any]] = {}
    for n, row in enumerate(part):
        if isinstance(row, ScoringRow):
            good.append(row)
        elif skip:
            refused[n] = {"reason": str(row.error), "row": row.row}
        else:
            score_chunk(model, part[:n], skip=False)  # an error in a row before this one comes first
            raise row.error
    numbers = {id(row): n for n, row in enumerate(part)}

    def leave_out(row: ScoringRow, error: BackboneError) -> None:
        good.remove(row)
        refused[numbers[id(row)]] = {"id": row.id, "reason": str(error), "row": row.to_dict()}

    if skip and isinstance(model.encoder, _Tokenizes):  # cheaper than a pass that fails
        for row in tuple(good):
            try:
                for answer in row.answers:
                    model.encoder.tokenize(answer)
            except BackboneError as exc:
                leave_out(row, exc.at(f"{row.place} (id '{row.id}')"))
    while True:
        flat = [(row, n, answer) for row in good for n, answer in enumerate(row.answers)]
        try:
            scores = model.score([answer for _, _, answer in flat])
        except BackboneError as exc:
            error = located(exc, [row for row, _, _ in flat])
            if exc.row is None or not skip:
                raise error from None
            leave_out(flat[exc.row][0], error)
            continue
        rows = [{"id": row.id, "answer": n, **score.to_dict()} for (row, n, _), score in zip(flat, scores, strict=True)]
        return ScoredChunk(rows, [refused[n] for n in sorted(refused)], sum(score.tokens for score in scores))


def located(error: BackboneError, rows: Sequence[ScoringRow]) -> BackboneError:
    """Return ``error`` with the place of the row that it is about; ``rows`` holds the row of each conversation read."""
    if error.row is None:
        return error
    row = rows[error.row]
    return error.at(f"{row.place} (id '{row.id}')")
