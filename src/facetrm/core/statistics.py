"""Rank correlation and bootstrap over clusters (prompts). Pure numpy and scipy; seeds are arguments."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A point estimate with a percentile bootstrap interval: ``low <= high`` at the given ``level``."""

    value: float
    low: float
    high: float
    level: float = 0.95


def pearson(x: ArrayLike, y: ArrayLike) -> float:
    """Return the Pearson correlation of ``x`` and ``y``; NaN when a side is constant or has fewer than two points."""
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if len(a) < 2:
        return float("nan")
    a, b = a - a.mean(), b - b.mean()
    norm = np.sqrt((a @ a) * (b @ b))
    return float("nan") if norm == 0 else float(np.clip(a @ b / norm, -1.0, 1.0))


def spearman(x: ArrayLike, y: ArrayLike) -> float:
    """Return Spearman's rank correlation with average ranks for ties; NaN as in :func:`pearson`."""
    return pearson(rankdata(np.asarray(x)), rankdata(np.asarray(y)))


def cluster_counts(groups: ArrayLike, *, samples: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw bootstrap resamples of whole clusters.

    Args:
        groups: one label per row, [N].
        samples: number of resamples B.
        seed: of the draw.

    Returns:
        ``codes`` [N] (cluster number of each row) and ``counts`` [B, C] (how often each cluster was drawn).
    """
    _, codes = np.unique(np.asarray(groups), return_inverse=True)
    clusters = int(codes.max()) + 1 if len(codes) else 0
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(clusters, np.full(clusters, 1.0 / max(clusters, 1)), size=samples)
    return codes.astype(np.int64, copy=False), counts.astype(np.int64, copy=False)


def bootstrap_mean(
    values: ArrayLike, groups: ArrayLike, *, samples: int = 1000, seed: int = 0, level: float = 0.95
) -> Interval:
    """Return the mean of ``values`` [N] with an interval from resampling whole clusters of ``groups`` [N].

    Args:
        values: one per row.
        groups: its cluster, such as the prompt.
        samples: number of resamples.
        seed: of the draw.
        level: share of the resampled means inside the interval.
    """
    x = np.asarray(values, dtype=np.float64)
    if len(x) == 0:
        return Interval(float("nan"), float("nan"), float("nan"), level)
    codes, counts = cluster_counts(groups, samples=samples, seed=seed)
    sums, sizes = np.bincount(codes, weights=x), np.bincount(codes).astype(np.float64)
    means = (counts @ sums) / np.maximum(counts @ sizes, 1e-12)
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(means, [tail, 1.0 - tail])
    return Interval(float(x.mean()), float(low), float(high), level)


def bootstrap_macro(
    values: ArrayLike,
    strata: ArrayLike,
    groups: ArrayLike,
    *,
    samples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Return the unweighted mean over ``strata`` of the mean of ``values`` [N].

    Clusters of ``groups`` are resampled within each stratum, so every stratum keeps its share.

    Args:
        values: one per row.
        strata: its part, such as the source.
        groups: its cluster, such as the prompt.
        samples: number of resamples.
        seed: of the draw.
        level: share of the resampled means inside the interval.
    """
    x, s, g = np.asarray(values, dtype=np.float64), np.asarray(strata), np.asarray(groups)
    names = np.unique(s)
    draws, points = np.zeros((len(names), samples)), np.zeros(len(names))
    for i, name in enumerate(names):
        rows = s == name
        codes, counts = cluster_counts(g[rows], samples=samples, seed=seed + i)
        sums, sizes = np.bincount(codes, weights=x[rows]), np.bincount(codes).astype(np.float64)
        draws[i], points[i] = (counts @ sums) / np.maximum(counts @ sizes, 1e-12), x[rows].mean()
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(draws.mean(axis=0), [tail, 1.0 - tail])
    return Interval(float(points.mean()), float(low), float(high), level)


def bootstrap_spearman(
    x: ArrayLike, y: ArrayLike, groups: ArrayLike, *, samples: int = 200, seed: int = 0, level: float = 0.95
) -> Interval:
    """Return Spearman's correlation of ``x`` and ``y`` [N] with an interval from resampling clusters of rows.

    Args:
        x: one side.
        y: the other side.
        groups: the cluster of each row, such as the prompt.
        samples: number of resamples (one in which a side is constant is left out)
        seed: of the draw.
        level: share of the resampled correlations inside the interval.
    """
    a, b, g = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64), np.asarray(groups)
    point = spearman(a, b)
    codes, counts = cluster_counts(g, samples=samples, seed=seed)
    ties_a, ties_b = (np.unique(side, return_inverse=True)[1].ravel() for side in (a, b))
    draws = []
    for row in counts:
        value = _repeated_spearman(ties_a, ties_b, row[codes].astype(np.float64))
        if np.isfinite(value):
            draws.append(value)
    if not draws:
        return Interval(point, float("nan"), float("nan"), level)
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(draws, [tail, 1.0 - tail])
    return Interval(point, float(low), float(high), level)


def _repeated_spearman(ties_a: NDArray[np.int64], ties_b: NDArray[np.int64], times: Floats) -> float:
    """Return Spearman's correlation of rows that each occur ``times`` times, given the order of their values.

    The average rank of a value is found from how often the values up to it occur, so no resample is sorted.
    """
    ranks = []
    for ties in (ties_a, ties_b):
        mass = np.bincount(ties, weights=times)
        ranks.append((np.cumsum(mass) - (mass - 1.0) / 2.0)[ties])
    x, y = (rank - (times * rank).sum() / times.sum() for rank in ranks)
    norm = np.sqrt((times * x * x).sum() * (times * y * y).sum())
    return float("nan") if norm == 0 else float(np.clip((times * x * y).sum() / norm, -1.0, 1.0))


def win_credit(margins: ArrayLike) -> Floats:
    """Return 1 for a positive margin (chosen above rejected), 0.5 for an exact tie, 0 for a negative one, [N]."""
    m = np.asarray(margins, dtype=np.float64)
    return np.where(m > 0, 1.0, np.where(m == 0, 0.5, 0.0))


def pair_accuracy(
    margins: ArrayLike,
    groups: ArrayLike,
    *,
    strata: ArrayLike | None = None,
    samples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Return the share of pairs in the right order, with an interval from resampling prompts.

    Args:
        margins: reward of the chosen answer minus that of the rejected one, [N]; an exact tie counts half.
        groups: prompt of each pair, [N].
        strata: source of each pair, [N]: gives the macro average over sources. None for the average over pairs.
        samples: number of bootstrap samples.
        seed: random seed of the bootstrap.
        level: share of samples inside the interval.
    """
    credit = win_credit(margins)
    if strata is None:
        return bootstrap_mean(credit, groups, samples=samples, seed=seed, level=level)
    return bootstrap_macro(credit, strata, groups, samples=samples, seed=seed, level=level)


def paired_difference(
    margins: ArrayLike,
    others: ArrayLike,
    groups: ArrayLike,
    *,
    strata: ArrayLike | None = None,
    samples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Return how much more accurate ``margins`` are than ``others`` on the same pairs (see :func:`pair_accuracy`).

    Both are resampled together, so what they share cancels and the interval is that of the difference.
    """
    gain = win_credit(margins) - win_credit(others)
    if strata is None:
        return bootstrap_mean(gain, groups, samples=samples, seed=seed, level=level)
    return bootstrap_macro(gain, strata, groups, samples=samples, seed=seed, level=level)
