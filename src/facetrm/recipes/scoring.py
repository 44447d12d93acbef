"""Files of conversations in, rows of scores out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from facetrm.core.errors import BackboneError, DataError
from facetrm.core.files import write_text
from facetrm.core.progress import progress
from facetrm.data.read.columns import validate
from facetrm.data.read.files import read_preferences
from facetrm.data.read.rows import RawRow, read_rows
from facetrm.data.records import Conversation, Rating
from facetrm.model.reward_model import RewardModel

_CHUNK: Final = 256


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


def read_asked(path: Path) -> list[ScoringRow]:
    """Read conversations to score: rows with ``messages``, or preference rows in any convention.

    Args:
        path: JSONL or Parquet. Every other column of a row with ``messages`` is ignored, but ``id``, ``task`` and
            ``source`` are kept.

    Raises:
        DataError: a bad row (file, line, field, value, fix), an empty file, or columns that are neither.
    """
    first = next(iter(read_rows(path)), None)
    if first is None:
        raise DataError("no row", place=path, fix="give at least one conversation")
    names = set(first.value or ())
    if "chosen" in names or "responses" in names:
        return [
            ScoringRow(
                p.id or str(n),
                tuple((*p.prompt, response) for response in p.responses),
                f"{path}: row {n}",
                p.task,
                p.source,
            )
            for n, p in enumerate(read_preferences(path))
        ]
    return [_rated(path, row) for row in read_rows(path)]


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


def score_rows(model: RewardModel, asked: Sequence[ScoringRow], *, quiet: bool = False) -> Iterator[dict[str, Any]]:
    """Yield one JSON-ready row per answer, in order: ``id``, ``answer`` (its number in the row), and the score.

    Args:
        model: scores. asked: the rows. quiet: no progress bar.

    Raises:
        BackboneError: a conversation that cannot be read; it names the row.
    """
    flat = [(row, n, answer) for row in asked for n, answer in enumerate(row.answers)]
    with progress("score", len(flat), quiet=quiet) as meter:
        for start in range(0, len(flat), _CHUNK):
            part = flat[start : start + _CHUNK]
            try:
                scores = model.score([answer for _, _, answer in part])
            except BackboneError as exc:
                raise located(exc, [row for row, _, _ in part]) from None
            for (row, n, _), score in zip(part, scores, strict=True):
                yield {"id": row.id, "answer": n, **score.to_dict()}
            meter.advance(len(part), tokens=sum(score.tokens for score in scores))


def located(error: BackboneError, rows: Sequence[ScoringRow]) -> BackboneError:
    """Return ``error`` with the place of the row that it is about; ``rows`` holds the row of each conversation read."""
    if error.row is None:
        return error
    row = rows[error.row]
    return error.at(f"{row.place} (id '{row.id}')")


def write_scores(rows: Iterator[dict[str, Any]], path: Path) -> int:
    """Write rows as JSONL, whole or not at all, and return how many."""
    lines = [json.dumps(row, ensure_ascii=False, allow_nan=False) for row in rows]
    write_text(path, "".join(line + "\n" for line in lines))
    return len(lines)
