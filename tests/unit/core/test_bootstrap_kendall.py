"""Rank correlations of scores and ratings: Kendall's interval covers the truth, and whole prompts are resampled."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kendalltau

from facetrm.core.statistics import bootstrap_kendall


def test_kendall_is_scipys_and_its_interval_widens_with_fewer_prompts() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=200)
    y = x + rng.normal(size=200)
    alone = bootstrap_kendall(x, y, [str(n) for n in range(200)], samples=200)
    assert alone.value == pytest.approx(kendalltau(x, y).statistic)
    assert alone.low < alone.value < alone.high
    shared = rng.normal(size=(20, 1)).repeat(10, axis=1).ravel()
    together = bootstrap_kendall(x + 3 * shared, y + 3 * shared, [str(n // 10) for n in range(200)], samples=200)
    apart = bootstrap_kendall(x + 3 * shared, y + 3 * shared, [str(n) for n in range(200)], samples=200)
    assert together.high - together.low > 1.3 * (apart.high - apart.low), "rows of a prompt err together"


def test_kendalls_interval_covers_the_truth() -> None:
    truth = 2 / np.pi * np.arcsin(0.6)  # of two normal variables with correlation 0.6
    inside = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=80)
        y = 0.6 * x + 0.8 * rng.normal(size=80)
        found = bootstrap_kendall(x, y, [str(n) for n in range(80)], samples=100, seed=seed)
        inside += found.low <= truth <= found.high
    assert 50 <= inside <= 60


def test_a_constant_rating_has_no_correlation() -> None:
    found = bootstrap_kendall(np.arange(5.0), np.ones(5), list("abcde"), samples=10)
    assert np.isnan([found.value, found.low, found.high]).all()
