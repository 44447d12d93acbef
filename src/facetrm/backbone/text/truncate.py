"""What to cut from a conversation that is longer than the backbone reads.

``drop_oldest`` cuts, in this order and no more than needed:
    1. the oldest turns, a question with its answer at a time; the last user turn and the system turn stay;
    2. the beginning of the last user turn's text;
    3. the system turn (and then again as little of the last user turn as possible);
    4. the end of the response, only if it does not fit with one character of the question before it.
The header of the response is made by the template, after the cuts, so it is never cut.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

Truncation = Literal["error", "drop_oldest"]
TemplateTurns = list[dict[str, str]]


def drop_oldest(
    turns: TemplateTurns, *, measure: Callable[[TemplateTurns], int], limit: int, answered: bool = True
) -> TemplateTurns | None:
    """Return the turns that fit, or None where not even one character of each needed turn does.

    Args:
        turns: the messages, oldest first.
        measure: tokens of the rendered turns.
        limit: the most tokens allowed.
        answered: whether the last turn is the response (else ``turns`` is a prompt alone).
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
    """Return the largest number of characters up to ``size`` that fits, 0 for none.

    It doubles first, so that a text far beyond the limit is never tokenised whole; then it halves the gap.
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
