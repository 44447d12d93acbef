"""Reading raw rows of public data sets: required fields, numbers written as text, and pairs from scores."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, cast

from facetrm.core.errors import DataError, did_you_mean
from facetrm.data.objectives import Objective
from facetrm.data.read.columns import Row, clean_ratings, short, validate
from facetrm.data.records import Preference, Rating
from facetrm.data.sources.registry import Dropped

RawTurns = list[dict[str, str]]


def value(row: Row, key: str) -> Any:
    """Return the column ``key`` of a raw row, which may be null.

    Raises:
        DataError: The row has no such column, so it does not follow the data set's schema.
    """
    if not isinstance(row, dict):
        raise DataError(f"{short(row)} is not an object", fix=f"give an object with '{key}'")
    if key not in row:
        raise DataError(f"column '{key}' is missing", fix=did_you_mean(key, row))
    return row[key]


def text(row: Row, key: str) -> str:
    """Return the column ``key`` of ``row``; raise DataError unless it is text."""
    found = value(row, key)
    if not isinstance(found, str):
        raise DataError(f"'{key}' is {short(found)}, not text", fix="fix the row")
    return found


def items(row: Row, key: str) -> list[Any]:
    """Return the column ``key`` of ``row``; raise DataError unless it is a list."""
    found = value(row, key)
    if not isinstance(found, list):
        raise DataError(f"'{key}' is {short(found)}, not a list", fix="fix the row")
    return found


def number(row: Row, key: str) -> float | None:
    """Return the column ``key`` of ``row``: a number, a boolean, or a number as text; None for null, NaN and ``N/A``.

    Raises:
        DataError: The column has any other value.
    """
    found = value(row, key)
    if found is None or (isinstance(found, str) and found.strip().upper() in ("N/A", "NA", "")):
        return None
    try:
        parsed = float(found) if isinstance(found, (bool, int, float, str)) else math.inf
    except (ValueError, OverflowError):
        parsed = math.inf
    if math.isnan(parsed):
        return None
    if math.isinf(parsed):
        raise DataError(f"'{key}' is {short(found)}, not a number", fix="fix the row, or write null where missing")
    return parsed


def user(content: str) -> RawTurns:
    """Return a prompt of one user message."""
    return [{"role": "user", "content": content}]


def rated(
    prompt: RawTurns, response: str, ratings: dict[str, float | None], objectives: Sequence[Objective], **side: Any
) -> Rating | Dropped:
    """Return one rated response.

    Args:
        prompt: turns of the prompt.
        response: text of the response.
        ratings: rating by objective name; None is left out.
        objectives: declared objectives, to check the ratings against.
        side: further fields of the record, such as ``subset`` and ``meta``.
    """
    kept = clean_ratings(ratings, {objective.name: objective for objective in objectives})
    if not kept:
        return Dropped("not rated")
    messages = [*prompt, {"role": "assistant", "content": response}]
    return cast(Rating, validate(Rating, {"messages": messages, "ratings": kept, **side}))


def preferred(
    prompt: RawTurns, chosen: str, rejected: str, *, strength: float | None = None, **side: Any
) -> Preference:
    """Return one preference pair.

    Args:
        prompt: turns of the prompt.
        chosen: text of the better response.
        rejected: text of the worse response.
        strength: how clear the preference is, 0 to 1; None if unknown.
        side: further fields of the record, such as ``subset`` and ``meta``.
    """
    responses = [{"role": "assistant", "content": content} for content in (chosen, rejected)]
    return cast(
        Preference, validate(Preference, {"prompt": prompt, "responses": responses, "strength": strength, **side})
    )


def pairs_by_score(
    prompt: RawTurns, answers: Sequence[tuple[str, float | None]], *, width: float, **side: Any
) -> Iterator[Preference | Dropped]:
    """Yield every pair of responses with unequal scores, with ``strength = |score gap| / width``.

    Args:
        prompt: turns of the shared prompt.
        answers: texts of the responses with their scores; None means not rated.
        width: largest gap that the scale allows.
        side: further fields of the records, such as ``subset`` and ``meta``.
    """
    for (a, score_a), (b, score_b) in itertools.combinations(answers, 2):
        if score_a is None or score_b is None:
            yield Dropped("an answer without a score")
        elif score_a == score_b:
            yield Dropped("equal scores")
        elif a == b:
            yield Dropped("equal texts")
        else:
            better, worse = (a, b) if score_a > score_b else (b, a)
            yield preferred(prompt, better, worse, strength=min(abs(score_a - score_b) / width, 1.0), **side)


def same_but_last(chosen: RawTurns, rejected: RawTurns, **side: Any) -> Preference | Dropped:
    """Return the pair of two conversations that differ only in the last turn, or a :class:`Dropped` with the reason."""
    if chosen == rejected:
        return Dropped("chosen and rejected are the same")
    if not chosen or not rejected or chosen[:-1] != rejected[:-1]:
        return Dropped("chosen and rejected differ before the last turn")
    if any(turns[-1]["role"] != "assistant" for turns in (chosen, rejected)):
        return Dropped("the last turn is not from the assistant")
    if not all(str(turn["content"]).strip() for turn in (*chosen, rejected[-1])):
        return Dropped("an empty turn")
    if len(chosen) < 2 or chosen[-2]["role"] != "user":
        return Dropped("the prompt does not end with the user")
    return preferred(chosen[:-1], chosen[-1]["content"], rejected[-1]["content"], **side)


def chat_turns(row: Row, key: str) -> RawTurns:
    """Return the role and content of each message in column ``key``; raise DataError if one is missing."""
    found = []
    for message in items(row, key):
        if not isinstance(message, dict) or "role" not in message or "content" not in message:
            raise DataError(f"'{key}' holds {short(message)}", fix="a message has 'role' and 'content'")
        found.append({"role": message["role"], "content": message["content"]})
    return found
