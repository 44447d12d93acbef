"""Figures: points by hand, intervals against the library's bootstrap and against theory, pooled and weighted leaves."""

from __future__ import annotations

import math

import numpy as np
import pytest

from facetrm.core.statistics import bootstrap_macro, bootstrap_mean, paired_difference
from facetrm.evaluate.benchmarks.figures import CREDIT, Figure, Term, combined, mean_over, measure_figures


def one(values, strata, groups, figure, **settings):
    found = measure_figures(
        {"s": {CREDIT: np.asarray(values)}}, {"f": figure}, strata=strata, groups=groups, **settings
    )
    return found["f"]["s"]


def test_the_interval_of_a_mean_is_that_of_a_cluster_bootstrap() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(150), 3)
    values = (rng.random(450) < np.repeat(rng.random(150), 3)).astype(float)
    ours = one(values, ["a"] * 450, groups.astype(str).tolist(), mean_over(["a"]), samples=4000)
    theirs = bootstrap_mean(values, groups, samples=4000)
    assert ours.value == pytest.approx(values.mean())
    assert ours.low == pytest.approx(theirs.low, abs=0.01)
    assert ours.high == pytest.approx(theirs.high, abs=0.01)
    assert ours.high - ours.low > 2 * 1.96 * math.sqrt(0.25 / 450), "rows of a prompt are not independent"


def test_a_mean_of_subsets_is_the_macro_average_with_its_interval() -> None:
    rng = np.random.default_rng(1)
    strata = ["a"] * 200 + ["b"] * 60
    values = np.concatenate([rng.random(200) < 0.9, rng.random(60) < 0.5]).astype(float)
    groups = [str(n) for n in range(260)]
    figure = combined([(mean_over(["a"]), 1.0), (mean_over(["b"]), 1.0)], level="total")
    ours, theirs = (
        one(values, strata, groups, figure, samples=4000),
        bootstrap_macro(values, strata, groups, samples=4000),
    )
    assert ours.value == pytest.approx(0.5 * values[:200].mean() + 0.5 * values[200:].mean())
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.01)
    weighted = one(values, strata, groups, combined([(mean_over(["a"]), 3.0), (mean_over(["b"]), 1.0)], level="total"))
    assert weighted.value == pytest.approx(0.75 * values[:200].mean() + 0.25 * values[200:].mean())
    pooled = one(values, strata, groups, mean_over(["a", "b"]))
    assert pooled.value == pytest.approx(values.mean())


def test_few_prompts_give_students_interval() -> None:
    rng = np.random.default_rng(2)
    values, groups = rng.random(20), [str(n // 2) for n in range(20)]
    ours, theirs = one(values, ["a"] * 20, groups, mean_over(["a"])), bootstrap_mean(values, groups)
    assert (ours.value, ours.low, ours.high) == pytest.approx((theirs.value, theirs.low, theirs.high), abs=1e-9)
    two = combined([(mean_over(["a"]), 1.0), (mean_over(["b"]), 1.0)], level="total")
    both = one(np.tile(values, 2), ["a"] * 20 + ["b"] * 20, groups + [f"b{g}" for g in groups], two)
    same = bootstrap_macro(np.tile(values, 2), ["a"] * 20 + ["b"] * 20, groups + [f"b{g}" for g in groups])
    assert (both.low, both.high) == pytest.approx((same.low, same.high), abs=1e-9)


def test_the_interval_covers_what_it_should() -> None:
    rng = np.random.default_rng(3)
    figure = combined([(mean_over(["a"]), 1.0), (mean_over(["b"]), 1.0)], level="total")
    strata, groups = ["a"] * 80 + ["b"] * 120, [str(n) for n in range(200)]
    hits = 0
    for seed in range(200):
        values = np.concatenate([rng.random(80) < 0.8, rng.random(120) < 0.6]).astype(float)
        found = one(values, strata, groups, figure, samples=300, seed=seed)
        hits += found.low <= 0.7 <= found.high
    assert 0.90 <= hits / 200 <= 0.99


def test_two_columns_of_the_same_rows_are_resampled_together() -> None:
    rng = np.random.default_rng(4)
    a = rng.random(300)
    columns = {"x": a, "y": 1.0 - a}
    leaf = frozenset({"s"})
    figure = Figure((Term(leaf, "x", 0.5), Term(leaf, "y", 0.5)), "total")
    found = measure_figures({"s": columns}, {"f": figure}, strata=["s"] * 300, groups=[str(n) for n in range(300)])[
        "f"
    ]["s"]
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5)), "what one gains the other loses"


def test_rows_without_a_value_are_left_out_of_their_column_only() -> None:
    values = np.array([1.0, np.nan, 0.0, 1.0])
    assert one(values, ["a"] * 4, list("wxyz"), mean_over(["a"])).value == pytest.approx(2 / 3)
    empty = one(values, ["a"] * 4, list("wxyz"), mean_over(["none"]))
    assert math.isnan(empty.value)
    assert measure_figures({}, {"f": mean_over(["a"])}, strata=["a"], groups=["g"]) == {"f": {}}


def test_differences_are_paired() -> None:
    rng = np.random.default_rng(5)
    first = (rng.random(400) < 0.7).astype(float)
    second = np.where(rng.random(400) < 0.05, 1 - first, first)
    groups = [str(n) for n in range(400)]
    ours = one(
        first - second, ["a"] * 400, groups, Figure((Term(frozenset({"a"}), CREDIT, 1.0),), "total", (-1.0, 1.0))
    )
    theirs = paired_difference(first - 0.5, second - 0.5, groups)
    assert (ours.value, ours.low, ours.high) == pytest.approx((theirs.value, theirs.low, theirs.high), abs=0.006)
