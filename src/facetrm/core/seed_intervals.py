"""Intervals over the seeds of an experiment, and over the prompts of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import t as student

from facetrm.core.errors import FitError
from facetrm.core.statistics import cluster_counts

ENOUGH_SEEDS: Final = 5
"""From so many seeds on, seeds are resampled; below, Student's t takes the mean of each seed as one value."""


@dataclass(frozen=True)
class SeedInterval:
    """A mean over seeds with its interval.

    Attributes:
        value: Mean of the seeds' means.
        low: Lower end of the interval.
        high: Upper end of the interval.
        level: Confidence level, 0 to 1.
        method: What the interval is: ``Student's t over N seeds`` or ``bootstrap over N seeds and their prompts``.
        seeds: Mean of each seed.
    """

    value: float
    low: float
    high: float
    level: float
    method: str
    seeds: tuple[float, ...]


def interval_over_seeds(
    values: Sequence[ArrayLike],
    groups: Sequence[ArrayLike],
    *,
    samples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> SeedInterval:
    """Return the mean over seeds of the mean of ``values``, with an interval over seeds and prompts.

    Two to four seeds get Student's t over the seeds' means. Five and more get a hierarchical bootstrap: seeds are
    drawn, then prompts within each drawn seed.

    Args:
        values: For each seed, the value of each row, such as the credit of each pair, [N].
        groups: For each seed, the prompt of each row, [N].
        samples: Number of bootstrap samples.
        seed: Random seed of the bootstrap.
        level: Confidence level, 0 to 1.

    Raises:
        FitError: Fewer than two seeds, a seed without a row, or groups of other length.

    Example:
        >>> from facetrm.core import interval_over_seeds
        >>> credit = [[1, 1, 0, 1], [1, 0, 0, 1], [1, 1, 1, 1]]
        >>> found = interval_over_seeds(credit, [["a", "a", "b", "b"]] * 3)
        >>> found.value, found.method
        (0.75, "Student's t over 3 seeds")
    """
    rows = [np.asarray(part, dtype=np.float64) for part in values]
    names = [np.asarray(part) for part in groups]
    if len(rows) < 2 or [len(x) for x in rows] != [len(g) for g in names] or not all(map(len, rows)):
        raise FitError(
            f"rows {[len(x) for x in rows]} and groups {[len(g) for g in names]} by seed",
            place="interval over seeds",
            fix="give two seeds or more, each with rows and one group per row",
        )
    means, count = np.array([x.mean() for x in rows]), len(rows)
    value, of_seeds = float(means.mean()), tuple(means.tolist())
    if count < ENOUGH_SEEDS:
        half = float(student.ppf((1.0 + level) / 2.0, count - 1) * means.std(ddof=1) / count**0.5)
        method = f"Student's t over {count} seeds"
        return SeedInterval(value, value - half, value + half, level, method, of_seeds)
    drawn = np.random.default_rng(seed).integers(0, count, (samples, count))
    by_seed = np.empty((samples, count))
    for place in range(count):
        for k in range(count):
            here = np.flatnonzero(drawn[:, place] == k)
            codes, counts_BC = cluster_counts(names[k], samples=len(here), seed=seed + 1 + place * count + k)
            sums, sizes = np.bincount(codes, weights=rows[k]), np.bincount(codes)
            by_seed[here, place] = (counts_BC @ sums) / np.maximum(counts_BC @ sizes, 1)
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(by_seed.mean(axis=1), [tail, 1.0 - tail])
    method = f"bootstrap over {count} seeds and their prompts"
    return SeedInterval(value, float(low), float(high), level, method, of_seeds)
