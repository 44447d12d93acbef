"""Intervals hold their level where clusters are few: simulated, with clusters of unequal size."""

from __future__ import annotations

import numpy as np
import pytest

from facetrm.core import FitError, SeedInterval, interval_over_seeds
from facetrm.core.statistics import (
    FEW_CLUSTERS,
    Interval,
    bootstrap_macro,
    bootstrap_mean,
    pair_accuracy,
    paired_difference,
)

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
    assert bootstrap_mean(x, range(4)) == Interval(3.5, pytest.approx(3.5 - half), pytest.approx(3.5 + half))
    assert found.low == pytest.approx(3.5 - 2.570581835636314 * np.std([-9.0, *x, 16.0], ddof=1) / 6**0.5)
    assert bootstrap_macro(x, [0] * 4, range(4)) == bootstrap_mean(x, range(4))


@pytest.mark.parametrize("clusters", [2, 3, 5])
def test_an_interval_over_very_few_prompts_is_not_cut_at_what_was_seen(clusters: int) -> None:
    rng = np.random.default_rng(clusters)
    found = [bootstrap_mean(rng.normal(size=clusters), range(clusters)) for _ in range(TRIALS)]
    assert np.mean([one.low <= 0.0 <= one.high for one in found]) == pytest.approx(0.95, abs=0.015)


def test_a_difference_that_was_never_negative_may_be() -> None:
    found = paired_difference([1.0] * 10, [1.0] * 7 + [-1.0] * 3, range(10))
    assert found.value == pytest.approx(0.3)
    assert found.low == pytest.approx(0.3 - 2.2621571627982053 * np.std([0.0] * 7 + [1.0] * 3, ddof=1) / 10**0.5)
    assert found.low < 0.0


def experiment(rng: np.random.Generator, seeds: int, spread: float, *, shared: bool) -> SeedInterval:
    """Return the interval of a mean of 0 that each seed moves by ``spread``, on shared or on own prompts."""
    sizes = rng.integers(1, 4, 60)
    values, groups = [], []
    easy = rng.normal(0.0, 0.4, 60)
    for k in range(seeds):
        prompts = easy if shared else rng.normal(0.0, 0.4, 60)
        values.append(np.repeat(prompts, sizes) + rng.normal(0.0, spread) + rng.normal(0.0, 0.2, sizes.sum()))
        groups.append(np.repeat(np.arange(60) + (0 if shared else 60 * k), sizes))
    return interval_over_seeds(values, groups)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("seeds", [3, 5, 8])
@pytest.mark.parametrize("spread", [0.0, 0.05, 0.3])
def test_an_interval_over_seeds_covers_what_it_says(seeds: int, spread: float, shared: bool) -> None:
    rng = np.random.default_rng(seeds)
    found = [experiment(rng, seeds, spread, shared=shared) for _ in range(800)]
    covered = np.mean([one.low <= 0.0 <= one.high for one in found])
    assert (0.86 if seeds == 3 else 0.9) <= covered <= 0.98, covered


def test_own_prompts_leave_students_t_over_the_means() -> None:
    found = interval_over_seeds([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]], [["a", "b"], ["c", "d"], ["e", "f"]])
    assert (found.seeds, found.method) == ((0.5, 1.0, 0.0), "Student's t over 3 seeds")
    assert found.high - found.value == pytest.approx(4.302652729911275 * 0.5 / 3**0.5)
    cut = interval_over_seeds([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]], [["a", "b"]] * 3, within=(0.0, 1.0))
    assert (cut.low, cut.high, cut.method) == (0.0, 1.0, "Student's t over 3 seeds and their 2 prompts")
    with pytest.raises(FitError, match="two seeds or more"):
        interval_over_seeds([[1.0]], [["a"]])


def test_seeds_that_agree_on_shared_prompts_have_the_interval_of_the_prompts() -> None:
    x = np.random.default_rng(1).normal(size=40)
    found = interval_over_seeds([x] * 6, [range(40)] * 6)
    of_prompts = bootstrap_mean(x, range(40))
    assert found.value == pytest.approx(of_prompts.value)
    assert found.high - found.low == pytest.approx(of_prompts.high - of_prompts.low, rel=0.12)
    assert interval_over_seeds([[0.5, 0.5]] * 2, [["a", "b"]] * 2).high == 0.5
