"""Absolute ratings against a model: rank correlation by objective, with intervals from resampling prompts.

    spearman = Spearman's rho of a score and the rating        kendall = Kendall's tau-b, which corrects for ties

The score is the model's own objective of that name where it has one, and its reward.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from facetrm.baselines.groups import REWARD
from facetrm.core.statistics import Interval, bootstrap_kendall, bootstrap_spearman
from facetrm.data.records import Rating


def rank_agreement(
    ratings: Sequence[Rating],
    scores: Sequence[Mapping[str, float] | None],
    *,
    samples: int = 200,
    seed: int = 0,
    least: int = 10,
) -> dict[str, dict[str, Any]]:
    """Return the rank correlation of scores with ratings, by objective.

    Args:
        ratings: N rated conversations.
        scores: For each conversation the ``reward`` and the score of each objective; None if it was not scored.
        samples: Number of bootstrap samples over prompts.
        seed: Seed of the bootstrap.
        least: Smallest number of rows of an objective.

    Returns:
        By objective: number of rows and prompts, rows without a score, and the correlations of ``reward`` and, where
        the model has that objective, of ``own``.
    """
    table: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(name for rating in ratings for name in rating.ratings):
        rated = [n for n, rating in enumerate(ratings) if name in rating.ratings]
        rows = [n for n in rated if scores[n] is not None]
        if len(rows) < least:
            continue
        y = np.array([ratings[n].ratings[name] for n in rows])
        groups = [ratings[n].prompt_key for n in rows]
        known = [scores[n] or {} for n in rows]
        found: dict[str, Any] = {"rows": len(rows), "prompts": len(set(groups)), "failed": len(rated) - len(rows)}
        for key, column in ((REWARD, REWARD), ("own", name)):
            if all(column in one for one in known):
                x = np.array([one[column] for one in known])
                found[key] = {
                    "spearman": _dict(bootstrap_spearman(x, y, groups, samples=samples, seed=seed)),
                    "kendall": _dict(bootstrap_kendall(x, y, groups, samples=samples, seed=seed)),
                }
        table[name] = found
    return table


def _dict(interval: Interval) -> dict[str, float | None]:
    return {"value": _number(interval.value), "low": _number(interval.low), "high": _number(interval.high)}


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
