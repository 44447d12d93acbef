"""Annotators who follow one Bradley-Terry law: how often they are wrong, at which temperature."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

L = TypeVar("L", bound=Mapping[str, float])


def error_probability(difference: float, temperature: float) -> float:
    """Return the probability that a Bradley-Terry annotator prefers the worse answer.

    It is ``sigmoid(-difference / temperature)``.

    Args:
        difference: utility of the better answer minus that of the worse one.
        temperature: temperature of the annotator, > 0.
    """
    if temperature == 0.0:
        return 0.0
    return 1.0 / (1.0 + math.exp(min(difference / temperature, 700.0)))


def temperature_for(noise: float, differences: Sequence[float]) -> float:
    """Return the temperature at which a share ``noise`` of labels is wrong (bisection).

    Args:
        noise: share of wrong labels.
        differences: utility of the better answer minus that of the worse one, for a sample of pairs.
    """
    if noise == 0.0:
        return 0.0
    low, high = 1e-6, 1e3
    for _ in range(60):
        middle = math.sqrt(low * high)
        share = sum(error_probability(d, middle) for d in differences) / len(differences)
        low, high = (middle, high) if share < noise else (low, middle)
    return math.sqrt(low * high)


def better_first(draw: Callable[[], L], utility: Callable[[L], float]) -> tuple[L, L]:
    """Draw the levels of two answers with different utilities, the better one first.

    Args:
        draw: function that draws the levels of one answer.
        utility: function that returns the utility of levels.
    """
    while True:
        a, b = draw(), draw()
        difference = utility(a) - utility(b)
        if abs(difference) > 1e-9:
            return (a, b) if difference > 0 else (b, a)
