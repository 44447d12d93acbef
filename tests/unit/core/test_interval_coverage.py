"""Intervals hold their level where clusters are few: simulated, with clusters of unequal size."""

from __future__ import annotations

import numpy as np
import pytest

from facetrm.core import FitError, interval_over_seeds
from facetrm.core.statistics import FEW_CLUSTERS, Interval, bootstrap_macro, bootstrap_mean, pair_accuracy

TRIALS = 2000


def rows(rng: np.random.Generator, clusters: int) -> tuple[np.ndarray, np.ndarray]:
    """Return margins whose sign is right in 0.7 of the rows, and their prompts of one to four rows."""
    sizes = rng.integers(1, 5, clusters)
    group = np.repeat(np.arange(clusters), sizes)
    easy = np.repeat(rng.beta(3.5, 1.5, clusters), sizes)
    return np.where(rng.random(len(group)) < easy, 1.0, -1.0), group


@pytest.mark.parametrize(("clusters", "least"), [(10, 0.915), (20, 0.925), (40, 0.93)])
def test_an_interval_over_few_prompts_covers_what_it_says(clusters: int, least: float) -> None:
    rng = np.random.default_rng(clusters)
    found = [pair_accuracy(*rows(rng, clusters)) for _ in range(TRIALS)]
    covered = np.mean([one.low <= 0.7 <= one.high for one in found])
    assert least <= covered <= 0.965, covered
    assert all(0.0 <= one.low <= one.value <= one.high <= 1.0 for one in found)


def test_a_macro_interval_over_few_prompts_covers_what_it_says() -> None:
    rng, hits = np.random.default_rng(5), 0
    for _ in range(TRIALS):
        parts = [rows(rng, 12) for _ in range(3)]
        strata = np.repeat([0, 1, 2], [len(part[0]) for part in parts])
        margin, group = (np.concatenate(side) for side in zip(*parts, strict=True))
        found = pair_accuracy(margin, group, strata=strata)
        hits += found.low <= 0.7 <= found.high
    assert 0.93 <= hits / TRIALS <= 0.97


def test_many_prompts_are_resampled() -> None:
    rng = np.random.default_rng(0)
    x, group = rng.normal(size=FEW_CLUSTERS), np.arange(FEW_CLUSTERS)
    draws = rng.integers(0, FEW_CLUSTERS, (20_000, FEW_CLUSTERS))
    expected = np.quantile(x[draws].mean(axis=1), [0.025, 0.975])
    found = bootstrap_mean(x, group, samples=5000)
    assert (found.low, found.high) == pytest.approx(tuple(expected), abs=0.02)


def test_the_interval_of_a_plain_mean_is_the_textbook_one() -> None:
    x = [1.0, 2.0, 4.0, 7.0]
    half = 3.182446305284263 * np.std(x, ddof=1) / 2.0
    found = bootstrap_mean([-9.0, *x, 16.0], range(6))
    assert bootstrap_mean(x, range(4)) == Interval(3.5, max(3.5 - half, 1.0), min(3.5 + half, 7.0))
    assert found.low == pytest.approx(3.5 - 2.570581835636314 * np.std([-9.0, *x, 16.0], ddof=1) / 6**0.5)
    assert bootstrap_macro(x, [0] * 4, range(4)) == bootstrap_mean(x, range(4))


def test_seeds_are_one_value_each_where_they_are_few() -> None:
    found = interval_over_seeds([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]], [["a", "b"]] * 3)
    assert found.seeds == (0.5, 1.0, 0.0)
    assert found.high - found.value == pytest.approx(4.302652729911275 * 0.5 / 3**0.5)
    with pytest.raises(FitError, match="two seeds or more"):
        interval_over_seeds([[1.0]], [["a"]])


def test_five_seeds_are_resampled_with_their_prompts() -> None:
    rng = np.random.default_rng(1)
    values, groups = [], []
    for k in range(6):
        margin, group = rows(rng, 60)
        values.append(margin + k)
        groups.append(group)
    found = interval_over_seeds(values, groups)
    assert found.method == "bootstrap over 6 seeds and their prompts"
    assert found == interval_over_seeds(values, groups)
    wide = np.std([np.mean(v) for v in values]) / 6**0.5
    assert (found.high - found.low) / (2 * 1.96 * wide) == pytest.approx(1.0, abs=0.15)
    same = interval_over_seeds([values[0]] * 6, [groups[0]] * 6)
    assert same.high - same.low > 0.05, "prompts alone make an interval"
