"""Read a judge's reply strictly: a rating from 1 to 10, or a ranking. Nothing is guessed: "10" is not "1".

    expected rating = sum_r r P(r) / sum_r P(r)     over the tokens 1 to 10 among the most probable ones

Reference: G-Eval (arXiv 2303.16634), for the expectation over the tokens of a rating.
"""

from __future__ import annotations

import math
from typing import Final

from facetrm.baselines.judges.prompts import HIGHEST_RATING, LOWEST_RATING, RANKING_KEY
from facetrm.core.errors import LabelError, short
from facetrm.label.client import Reply
from facetrm.label.verdicts import reply_value

_RATINGS: Final = {str(r): r for r in range(LOWEST_RATING, HIGHEST_RATING + 1)}
_LEAST_MASS: Final = 0.5
_DOUBT: Final = 0.01


def read_rating(reply: Reply) -> tuple[float, bool]:
    """Return the rating in a reply, and whether it is an expectation over log-probabilities.

    It is the number in the text if the server gave no log-probabilities, if the ratings among them hold less than half
    of the probability, or if the token ``1`` may also be the start of ``10``.

    Args:
        reply: The reply: one whole number from 1 to 10 and nothing else.

    Raises:
        LabelError: The model refused, or the reply is anything else.
    """
    if reply.refused:
        raise LabelError(f"the model refused: {short(reply.text)}", fix="ask another judge")
    value = reply_value(reply.text)
    if type(value) is not int or str(value) not in _RATINGS:
        fix = f"it must be only a whole number from {LOWEST_RATING} to {HIGHEST_RATING}"
        raise LabelError(f"the reply {short(reply.text)} is not a rating", fix=fix)
    expected = _expected(reply, str(value))
    return (float(value), False) if expected is None else (expected, True)


def _expected(reply: Reply, text: str) -> float | None:
    """Return the expectation over the tokens at the place of the rating, or None if they do not settle it."""
    places = [choice for choice in reply.tokens if choice.token.strip() == text]
    if len(places) != 1 or "".join(choice.token for choice in reply.tokens).count(text) != 1:
        return None
    chances = dict.fromkeys(_RATINGS, 0.0)
    for token, logprob in places[0].top:
        if token.strip() in chances:
            chances[token.strip()] += math.exp(logprob)
    total = math.fsum(chances.values())
    if total < _LEAST_MASS or (chances["1"] > _DOUBT * total and chances["10"] == 0.0):
        return None
    return math.fsum(_RATINGS[name] * chance for name, chance in chances.items()) / total


def read_ranking(reply: Reply, count: int) -> list[int]:
    """Return the ranking in a reply: the numbers of the replies, 1 to ``count``, the best first.

    Args:
        reply: The reply: one JSON object ``{"ranking": [...]}`` and nothing else.
        count: Number of answers that were shown.

    Raises:
        LabelError: The model refused, or the reply is anything else.
    """
    if reply.refused:
        raise LabelError(f"the model refused: {short(reply.text)}", fix="ask another judge")
    value = reply_value(reply.text)
    ranking = value.get(RANKING_KEY) if isinstance(value, dict) and list(value) == [RANKING_KEY] else None
    whole = isinstance(ranking, list) and all(type(n) is int for n in ranking)
    if not whole or sorted(ranking or []) != list(range(1, count + 1)):
        fix = f'it must be only {{"{RANKING_KEY}": [...]}} with each number from 1 to {count} once'
        raise LabelError(f"the reply {short(reply.text)} is not a ranking", fix=fix)
    return list(ranking or [])
