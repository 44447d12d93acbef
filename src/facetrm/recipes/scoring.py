"""Score rows of conversations."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, runtime_checkable

from facetrm.core.errors import BackboneError
from facetrm.core.progress import progress
from facetrm.data.read.conversations import RefusedRow, ScoringRow
from facetrm.data.records import Conversation
from facetrm.model.reward_model import RewardModel

_CHUNK: Final = 256


@runtime_checkable
class _Tokenizes(Protocol):
    """An encoder that can check, without a forward pass, whether it can read a conversation."""

    def tokenize(self, messages: Conversation) -> object:
        """Return the token ids of ``messages``, or raise a BackboneError if they cannot be read."""


@dataclass(frozen=True)
class ScoredChunk:
    """The scores of some rows.

    Attributes:
        scores: One JSON-ready row per answer.
        skipped: One JSON-ready row per row that was skipped, with the reason.
        tokens: Number of tokens read.
    """

    scores: list[dict[str, Any]]
    skipped: list[dict[str, Any]]
    tokens: int


def chunks(rows: Iterable[ScoringRow | RefusedRow]) -> Iterator[list[ScoringRow | RefusedRow]]:
    """Yield the rows in lists of about 256 answers; only the rows decide where a list ends."""
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
        model: Model that scores the rows.
        asked: Rows to score.
        quiet: Whether to hide the progress bar.
        skipped: List that receives each row that cannot be scored, with the reason; None to raise an error instead.

    Raises:
        BackboneError: A conversation cannot be read; the error names the row.
        DataError: A row has no conversation.
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
        model: Model that scores the rows.
        part: Rows of the chunk.
        skip: Whether to skip a row that cannot be scored, with all of its answers, instead of raising an error.

    Raises:
        BackboneError: A conversation cannot be read; the error names the row.
        DataError: A row has no conversation.
    """
    good: list[ScoringRow] = []
    refused: dict[int, dict[str, Any]] = {}
    for n, row in enumerate(part):
        if isinstance(row, ScoringRow):
            good.append(row)
        elif skip:
            refused[n] = {"reason": str(row.error), "row": row.row}
        else:
            score_chunk(model, part[:n], skip=False)  # report an error in an earlier row first
            raise row.error
    numbers = {id(row): n for n, row in enumerate(part)}

    def leave_out(row: ScoringRow, error: BackboneError) -> None:
        good.remove(row)
        refused[numbers[id(row)]] = {"id": row.id, "reason": str(error), "row": row.to_dict()}

    if skip and isinstance(model.encoder, _Tokenizes):  # cheaper than a forward pass that fails
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
    """Return the error with the place of its row in the file.

    Args:
        error: Error of the backbone; its ``row`` is the number of a conversation.
        rows: The row of each conversation that the backbone was given.
    """
    if error.row is None:
        return error
    row = rows[error.row]
    return error.at(f"{row.place} (id '{row.id}')")
