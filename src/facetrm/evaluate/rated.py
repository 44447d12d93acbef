"""Absolute ratings against a model: rank correlation by objective, with intervals from resampling prompts.

    spearman = Spearman's rho of a score and the rating        kendall = Kendall's tau-b, which corrects for ties

The score is the model's own objective of that name where it has one, and its reward. The figures that a bound can name:

    OBJECTIVE/spearman, OBJECTIVE/kendall                  of the own rating of the objective, else of the reward
    OBJECTIVE/reward-spearman, OBJECTIVE/reward-kendall    of the reward
    spearman, kendall, reward-spearman, reward-kendall     the mean of such figures over the objectives

A resample draws prompts once for all objectives, so the interval of a mean takes in how they vary together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np

from facetrm.baselines.groups import REWARD
from facetrm.core.statistics import (
    Floats,
    Interval,
    cluster_counts,
    kendall,
    kendall_draws,
    percentile_interval,
    spearman,
    spearman_draws,
)
from facetrm.data.records import Rating

OWN: Final = "own"
LEAST: Final = 10
"""Smallest number of rated rows of an objective."""
_STATISTICS: Final = {"spearman": (spearman, spearman_draws), "kendall": (kendall, kendall_draws)}


@final
@dataclass(frozen=True)
class RankAgreement:
    """How a model agrees with ratings.

    Attributes:
        objectives: By objective: number of rows and prompts, rows without a score, and the correlations of ``reward``
            and, where the model has that objective, of ``own``.
        figures: Value, low and high by the name of the figure; None where it is not defined.
    """

    objectives: dict[str, dict[str, Any]]
    figures: dict[str, dict[str, float | None]]


def rated_figures(ratings: Sequence[Rating], *, least: int = LEAST) -> list[str]:
    """Return the names of the figures of a file of ratings, means first.

    Args:
        ratings: Rated conversations.
        least: Smallest number of rows of an objective.
    """
    kinds = [prefix + name for prefix in ("", f"{REWARD}-") for name in _STATISTICS]
    objectives = _objectives(ratings, least)
    return [*kinds, *(f"{objective}/{kind}" for objective in objectives for kind in kinds)] if objectives else []


def rank_agreement(
    ratings: Sequence[Rating],
    scores: Sequence[Mapping[str, float] | None],
    *,
    samples: int = 200,
    seed: int = 0,
    least: int = LEAST,
) -> RankAgreement:
    """Return the rank correlation of scores with ratings, by objective and on average.

    Args:
        ratings: N rated conversations.
        scores: For each conversation the ``reward`` and the score of each objective; None if it was not scored.
        samples: Number of bootstrap samples over prompts.
        seed: Seed of the bootstrap.
        least: Smallest number of rows of an objective.
    """
    codes, counts = cluster_counts([rating.prompt_key for rating in ratings], samples=samples, seed=seed)
    table: dict[str, dict[str, Any]] = {}
    points: dict[str, dict[str, float]] = {}
    draws: dict[str, dict[str, Floats]] = {}
    for name in _objectives(ratings, least):
        rated = [n for n, rating in enumerate(ratings) if name in rating.ratings]
        rows = [n for n in rated if scores[n] is not None]
        if len(rows) < least:
            continue
        y = np.array([ratings[n].ratings[name] for n in rows])
        known = [scores[n] or {} for n in rows]
        found: dict[str, Any] = {
            "rows": len(rows),
            "prompts": len({ratings[n].prompt_key for n in rows}),
            "failed": len(rated) - len(rows),
        }
        for key, column in ((REWARD, REWARD), (OWN, name)):
            if not all(column in one for one in known):
                continue
            x = np.array([one[column] for one in known])
            found[key] = {}
            for statistic, (measure, resample) in _STATISTICS.items():
                point, drawn = measure(x, y), resample(x, y, (row[codes[rows]] for row in counts))
                found[key][statistic] = _dict(percentile_interval(point, drawn))
                for kind in (statistic,) if key == OWN else (statistic, f"{REWARD}-{statistic}"):
                    points.setdefault(kind, {})[name] = point
                    draws.setdefault(kind, {})[name] = drawn
        table[name] = found
    figures = {name: _figure(name, points, draws) for name in rated_figures(ratings, least=least)}
    return RankAgreement(table, figures)


def _objectives(ratings: Sequence[Rating], least: int) -> list[str]:
    """Return the objectives with enough rated rows, in the order of their first row."""
    counts: dict[str, int] = {}
    for rating in ratings:
        for name in rating.ratings:
            counts[name] = counts.get(name, 0) + 1
    return [name for name, count in counts.items() if count >= least]


def _figure(
    name: str, points: Mapping[str, Mapping[str, float]], draws: Mapping[str, Mapping[str, Floats]]
) -> dict[str, float | None]:
    """Return the figure of one objective, or the mean over those on which the correlation is defined."""
    objective, _, kind = name.rpartition("/")
    held = points.get(kind, {})
    over = [objective] if objective in held else [] if objective else [n for n, x in held.items() if not math.isnan(x)]
    if not over:
        return _dict(Interval(math.nan, math.nan, math.nan))
    drawn = np.array([draws[kind][each] for each in over])
    defined = np.isfinite(drawn)
    means = np.where(defined, drawn, 0.0).sum(axis=0) / np.where(defined.any(axis=0), defined.sum(axis=0), np.nan)
    return _dict(percentile_interval(sum(held[each] for each in over) / len(over), means))


def _dict(interval: Interval) -> dict[str, float | None]:
    return {"value": _number(interval.value), "low": _number(interval.low), "high": _number(interval.high)}


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
