"""Score rows of conversations."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, runtime_checkable

from facetrm.core.errors import BackboneError, ConfigError
from facetrm.core.progress import progress
from facetrm.data.read.conversations import RefusedRow, ScoringRow
from facetrm.data.records import Conversation
from facetrm.model.output import Score, no_uncertainty
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
    lower_bound: float | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield one JSON-ready row per answer, in order: ``id``, ``answer`` (its number in the row), and the score.

    Args:
        model: Model that scores the rows.
        asked: Rows to score.
        quiet: Whether to hide the progress bar.
        skipped: List that receives each row that cannot be scored, with the reason; None to raise an error instead.
        lower_bound: Number of standard deviations below the reward for a field ``lower_bound``; None for no field.

    Raises:
        ModelError: The model cannot tell the deviation of a reward.
        BackboneError: A conversation cannot be read; the error names the row.
        DataError: A row has no conversation.
    """
    total = sum(len(row.answers) for row in asked if isinstance(row, ScoringRow)) if isinstance(asked, list) else None
    with progress("score", total, quiet=quiet) as meter:
        for part in chunks(asked):
            found = score_chunk(model, part, skip=skipped is not None, lower_bound=lower_bound)
            if skipped is not None:
                skipped.extend(found.skipped)
            yield from found.scores
            meter.advance(len(found.scores), tokens=found.tokens)


def score_chunk(
    model: RewardModel, part: Sequence[ScoringRow | RefusedRow], *, skip: bool, lower_bound: float | None = None
) -> ScoredChunk:
    """Score the rows of one chunk together.

    Args:
        model: Model that scores the rows.
        part: Rows of the chunk.
        skip: Whether to skip a row that cannot be scored, with all of its answers, instead of raising an error.
        lower_bound: Number of standard deviations below the reward for a field ``lower_bound``; None for no field.

    Raises:
        ModelError: The model cannot tell the deviation of a reward.
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
        rows = [
            {"id": row.id, "answer": n, **_told(score, lower_bound)}
            for (row, n, _), score in zip(flat, scores, strict=True)
        ]
        return ScoredChunk(rows, [refused[n] for n in sorted(refused)], sum(score.tokens for score in scores))


def check_lower_bound(model: RewardModel, deviations: float | None) -> None:
    """Check, before anything is read, that every mixture of a model can tell the deviation of a reward.

    Args:
        model: Model that scores.
        deviations: Number of standard deviations below the reward; None if no bound is asked for.

    Raises:
        ModelError: A mixture cannot tell it; the error names the setting to fit with.
        ConfigError: The number is negative or not finite.
    """
    if deviations is None:
        return
    if not (math.isfinite(deviations) and deviations >= 0):
        fix = "give a number of standard deviations from 0"
        raise ConfigError(f"{deviations:g} is not possible", place="--lower-bound", fix=fix)
    for task, mixture in model.mixtures.items():
        if mixture.uncertainty is None or not mixture.uncertainty.rates_rewards:
            raise no_uncertainty(place=f"--lower-bound, task '{task}'")


def _told(score: Score, deviations: float | None) -> dict[str, Any]:
    """Return the fields of a score, with its lower bound beside its reward if one is asked for."""
    if deviations is None:
        return score.to_dict()
    return {"reward": score.reward, "lower_bound": score.lower_bound(deviations), **score.to_dict()}


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
