"""Truncates conversations that are longer than the backbone's token limit.

``drop_oldest`` removes text in this order, and no more than needed:
    1. the oldest turns, one question with its answer at a time; the last user turn and the system turn are kept;
    2. the beginning of the last user turn's text;
    3. the system turn (the last user turn is then cut again, as little as possible);
    4. the end of the response, only if it does not fit together with one character of the last user turn.
The template writes the header of the response after the cuts, so the header is never cut.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

Truncation = Literal["error", "drop_oldest"]
TemplateTurns = list[dict[str, str]]


def drop_oldest(
    turns: TemplateTurns, *, measure: Callable[[TemplateTurns], int], limit: int, answered: bool = True
) -> TemplateTurns | None:
    """Return turns cut to the limit, or None if not even one character of each required turn fits.

    Args:
        turns: messages, oldest first.
        measure: function that returns the token count of rendered turns.
        limit: maximum number of tokens.
        answered: whether the last turn is the response; if not, ``turns`` is only a prompt.
    """
    prompt, response = (turns[:-1], turns[-1:]) if answered else (turns, [])
    head = next((i for i, turn in enumerate(prompt) if turn["role"] != "system"), len(prompt) - 1)
    system, body = prompt[:head], prompt[head:]

    def fits(candidate: TemplateTurns) -> bool:
        return measure(candidate) <= limit

    while len(body) > 1 and not fits([*system, *body, *response]):
        later = (i for i, turn in enumerate(body) if i > 0 and turn["role"] == "user")
        body = body[next(later, len(body) - 1) :]
    if fits([*system, *body, *response]):
        return [*system, *body, *response]
    question = body[-1]
    for kept in [system, []] if system else [[]]:
        suffix = _longest(len(question["content"]), lambda n: fits([*kept, _end(question, n), *response]))  # noqa: B023
        if suffix:
            return [*kept, _end(question, suffix), *response]
    if not response:
        return None
    stub, answer = _end(question, 1), response[0]
    prefix = _longest(len(answer["content"]), lambda n: fits([stub, _start(answer, n)]))
    return [stub, _start(answer, prefix)] if prefix else None


def _end(turn: dict[str, str], characters: int) -> dict[str, str]:
    return {**turn, "content": turn["content"][-characters:]}


def _start(turn: dict[str, str], characters: int) -> dict[str, str]:
    return {**turn, "content": turn["content"][:characters]}


def _longest(size: int, fits: Callable[[int], bool]) -> int:
    """Return the largest number of characters up to ``size`` that fits; 0 if none does.

    Exponential search, then binary search, so that a text far beyond the limit is never tokenised completely.
    """
    good, bad = 0, size + 1
    step = 1
    while step < bad:
        if not fits(step):
            bad = step
            break
        good, step = step, min(step * 2, size) if step < size else size + 1
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return good
