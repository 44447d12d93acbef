"""Files of conversations in, rows of scores out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from facetrm.core.errors import BackboneError
from facetrm.core.files import write_text
from facetrm.core.progress import progress
from facetrm.data.read.conversations import ScoringRow
from facetrm.data.read.conversations import read_conversations as read_asked
from facetrm.model.reward_model import RewardModel

__all__ = ["ScoringRow", "located", "read_asked", "score_rows", "write_scores"]

_CHUNK: Final = 256


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
