"""Debiasing: the convention, the searches, what cannot be reached, and the audit inside prompts."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from facetrm.core.config import parse_config
from facetrm.core.errors import ConfigError, FitError
from facetrm.evaluate.length_audit import within_prompt_rank_correlation
from facetrm.fit.debias import (
    PUBLISHED_GRID,
    Debias,
    DebiasConfig,
    correlation_table,
    debias_matrix,
    fit_debias,
)

NAMES = ("help", "verbosity", "safe", "code")
SEEDS = st.integers(0, 2**16)


def scores(seed: int = 0, n: int = 400, coarse: float | None = None) -> np.ndarray:
    rng = np.random.default_rng(seed)
    v = rng.gamma(2.0, size=n)
    columns = [
        rng.normal(size=n) + rng.uniform(0.2, 1.5) * v,
        v,
        rng.normal(size=n) - rng.uniform(0.2, 1.5) * v,
        rng.normal(size=n) + 0.3 * np.sqrt(v),
    ]
    table = np.stack(columns, axis=1) * 0.1 + 0.5
    return table if coarse is None else np.round(table / coarse) * coarse


def rho_of(r: np.ndarray, v: np.ndarray) -> float:
    return float(spearmanr(r, v).statistic)


@settings(max_examples=25, deadline=None)
@given(SEEDS)
def test_matrix_is_the_explicit_formula_and_target_is_zero(seed: int) -> None:
    table = torch.from_numpy(scores(seed, n=60)).float()
    debias = fit_debias(table, names=NAMES, target="verbosity")
    assert debias.lambdas["verbosity"] == 1.0
    out = debias.apply(table)
    for k, name in enumerate(NAMES):
        explicit = table[:, k] - np.float32(debias.lambdas[name]) * table[:, 1]
        assert torch.allclose(out[:, k], explicit, atol=1e-6)
    assert torch.equal(out[:, 1], torch.zeros(60))
    assert torch.equal(torch.eye(4) - debias.matrix_KK, torch.eye(4)[:, 1:2] @ (torch.eye(4) - debias.matrix_KK)[1:2])


def test_debias_matrix_by_hand() -> None:
    matrix = debias_matrix([0.25, 7.0, -0.5], 1)
    assert matrix.tolist() == [[1, 0, 0], [-0.25, 0, 0.5], [0, 0, 1]]
    assert (torch.tensor([2.0, 4.0, 6.0]) @ matrix).tolist() == [1.0, 0.0, 8.0]


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.lists(st.floats(-3, 3), min_size=2, max_size=8))
def test_rho_never_rises_with_lambda(seed: int, lambdas: list[float]) -> None:
    table = scores(seed, n=80)
    values = [rho_of(table[:, 0] - value * table[:, 1], table[:, 1]) for value in sorted(lambdas)]
    assert all(later <= earlier + 1e-12 for earlier, later in itertools.pairwise(values))


@settings(max_examples=25, deadline=None)
@given(SEEDS)
def test_two_sided_bisection_reaches_the_tolerance(seed: int) -> None:
    table = scores(seed)
    debias = fit_debias(table, names=NAMES, target="verbosity")
    out = debias.apply(torch.from_numpy(table)).numpy()
    for row in debias.table:
        assert row.reached
        assert row.reason == ""
        k = NAMES.index(row.name)
        assert abs(rho_of(out[:, k], table[:, 1])) <= 1e-3 + 1e-4
        assert row.before == pytest.approx(rho_of(table[:, k], table[:, 1]))
        assert np.sign(row.lambda_) == np.sign(row.before) or abs(row.before) <= 1e-3
    assert debias.max_abs_rho <= 1e-3
    assert [row.name for row in debias.table] == ["help", "safe", "code"]


def test_one_sided_leaves_negative_correlation() -> None:
    table = scores()
    debias = fit_debias(table, names=NAMES, target="verbosity", config=DebiasConfig(sided="one"))
    rows = {row.name: row for row in debias.table}
    assert rows["safe"].lambda_ == 0.0
    assert rows["safe"].before == rows["safe"].after < -0.2
    assert rows["safe"].reached
    assert abs(rows["help"].after) <= 1e-3
    two = fit_debias(table, names=NAMES, target="verbosity")
    assert two.lambdas["safe"] < 0
    assert two.lambdas["help"] == debias.lambdas["help"]


@settings(max_examples=25, deadline=None)
@given(SEEDS)
def test_pearson_is_the_regression_slope(seed: int) -> None:
    table = scores(seed)
    debias = fit_debias(table, names=NAMES, target="verbosity", config=DebiasConfig(correlation="pearson"))
    for row in debias.table:
        k = NAMES.index(row.name)
        assert row.lambda_ == pytest.approx(np.polyfit(table[:, 1], table[:, k], 1)[0], rel=1e-5)
        assert row.before == pytest.approx(np.corrcoef(table[:, k], table[:, 1])[0, 1])
        assert abs(row.after) < 1e-5
    one = fit_debias(table, names=NAMES, target="verbosity", config=DebiasConfig(correlation="pearson", sided="one"))
    assert one.lambdas["safe"] == 0.0


def published_search(r: np.ndarray, v: np.ndarray, threshold: float) -> float | None:
    """Walk the published grid upward: the first value at or below the threshold, None where the walk ends."""
    steps = [0, 0.01, 0.025, 0.05, 0.075, 0.1, 0.125, 0.15] + [i / 100 for i in range(20, 100, 5)]
    for step in steps:
        if spearmanr(r - step * v, v).statistic <= threshold:
            return step
    return None


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.sampled_from([0.03, 0.028, 0.2]))
def test_grid_is_the_published_walk(seed: int, threshold: float) -> None:
    table = scores(seed, n=120)
    config = DebiasConfig(search="grid", threshold=threshold)
    debias = fit_debias(table, names=NAMES, target="verbosity", config=config)
    for row in debias.table:
        expected = published_search(table[:, NAMES.index(row.name)], table[:, 1], threshold)
        stepped_over = row.before > threshold and row.after < -threshold
        assert row.reached == (expected is not None and not stepped_over)
        assert row.lambda_ == (0.95 if expected is None else expected)
        assert bool(row.reason) == (not row.reached)


@pytest.mark.parametrize("slope", [0.12, 0.5, 0.93])
def test_the_grid_has_not_reached_what_it_steps_over(slope: float) -> None:
    table = scores()
    table[:, 0] = slope * table[:, 1] + 0.2
    row = fit_debias(table, names=NAMES, target="verbosity", config=DebiasConfig(search="grid")).table[0]
    assert (row.before, row.after) == (pytest.approx(1.0), pytest.approx(-1.0))
    assert not row.reached
    assert "steps over zero: rho 1.0000 becomes -1.0000" in row.reason


@pytest.mark.parametrize("slope", [-0.07, -0.5, -3.0])
def test_the_grid_has_not_reached_a_copy_turned_upside_down(slope: float) -> None:
    table = scores()
    table[:, 0] = slope * table[:, 1] + 0.2
    row = fit_debias(table, names=NAMES, target="verbosity", config=DebiasConfig(search="grid")).table[0]
    assert row.after == pytest.approx(-1.0)
    assert not row.reached
    assert "an affine copy of the target: rho is -1.0000" in row.reason


def test_grid_that_ends_is_reported_and_never_one(capsys: pytest.CaptureFixture[str]) -> None:
    table = scores()
    table[:, 0] = 3.0 * table[:, 1] + 0.001 * table[:, 0]
    debias = fit_debias(table, names=NAMES, target="verbosity", config=DebiasConfig(search="grid"))
    row = debias.table[0]
    assert (row.lambda_, row.reached) == (PUBLISHED_GRID[-1], False)
    assert "no grid value" in row.reason
    assert row.after > 0.9
    event = json.loads(capsys.readouterr().err.splitlines()[0])
    assert (event["expert"], event["reached"]) == ("help", False)


def test_coarse_scores_take_the_least_rho_and_say_so(capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(4)
    v = rng.integers(0, 3, 90) / 2.0
    r = np.clip(np.round(v * 2 + rng.normal(size=90)), 0, 3) / 3.0
    debias = fit_debias(np.stack([r, v], axis=1), names=("r", "v"), target="v")
    row = debias.table[0]
    assert not row.reached
    assert "too coarse" in row.reason
    assert json.loads(capsys.readouterr().err)["expert"] == "r"
    sweep = [abs(rho_of(r - value * v, v)) for value in np.linspace(0.001, 2.0, 4000)]
    assert 1e-3 < abs(row.after) < abs(row.before)
    assert abs(row.after) == pytest.approx(min(sweep), abs=1e-9)


def test_coarse_result_survives_float32() -> None:
    for seed in range(20):
        table = scores(seed, n=200, coarse=0.1)
        debias = fit_debias(table, names=NAMES, target="verbosity")
        out = (table @ debias.matrix_KK.double().numpy())[:, [0, 2, 3]]
        for row, column in zip(debias.table, out.T, strict=True):
            assert rho_of(column, table[:, 1]) == pytest.approx(row.after, abs=1e-9)


def test_affine_copy_of_the_target_is_reported() -> None:
    table = scores()
    table[:, 0] = 0.5 * table[:, 1] + 0.2
    for config in (DebiasConfig(), DebiasConfig(correlation="pearson")):
        row = fit_debias(table, names=NAMES, target="verbosity", config=config).table[0]
        assert row.lambda_ == pytest.approx(0.5, rel=1e-5)
        assert not row.reached
        assert "affine copy" in row.reason


def test_monotone_copy_of_the_target_can_be_debiased() -> None:
    table = scores()
    table[:, 0] = np.exp(table[:, 1])
    row = fit_debias(table, names=NAMES, target="verbosity").table[0]
    assert row.before == pytest.approx(1.0)
    assert row.reached


def test_max_lambda_is_a_cap_that_is_reported() -> None:
    table = scores()
    free = fit_debias(table, names=NAMES, target="verbosity")
    cap = 0.5 * abs(free.lambdas["safe"])
    debias = fit_debias(table, names=NAMES, target="verbosity", config=DebiasConfig(max_lambda=cap))
    row = next(row for row in debias.table if row.name == "safe")
    assert row.lambda_ == -cap
    assert not row.reached
    assert "max_lambda" in row.reason
    assert row.before < row.after < -1e-3


def test_constant_expert_is_reported_and_constant_target_refused() -> None:
    table = scores()
    table[:, 2] = 0.3
    debias = fit_debias(table, names=NAMES, target="verbosity")
    row = debias.table[1]
    assert (row.lambda_, row.reached) == (0.0, False)
    assert "constant at 0.3" in row.reason
    assert row.to_dict()["after"] is None
    assert debias.max_abs_rho <= 1e-3
    with pytest.raises(FitError, match="'safe' is constant on the 400 reference rows"):
        fit_debias(table, names=NAMES, target="safe")


def test_within_prompt_mode_clears_what_pooling_hides() -> None:
    rng = np.random.default_rng(3)
    prompts = np.repeat(np.arange(300), 2)
    level = np.repeat(rng.normal(size=300), 2)
    v = level + 0.3 * rng.normal(size=600)
    r = 0.5 * rng.normal(size=600) - 0.9 * level + 1.0 * v
    table = np.stack([r, v], axis=1)
    pooled = fit_debias(table, names=("r", "v"), target="v")
    inside = fit_debias(table, names=("r", "v"), target="v", config=DebiasConfig(centre_by_prompt=True), groups=prompts)
    audits = []
    for debias in (pooled, inside):
        reward = debias.apply(torch.from_numpy(table))[:, 0].numpy()
        audits.append(within_prompt_rank_correlation(reward, v, prompts))
    assert audits[0].low > 0.05
    assert audits[1].low < 0.0 < audits[1].high
    with pytest.raises(ConfigError, match="centre_by_prompt needs prompts"):
        fit_debias(table, names=("r", "v"), target="v", config=DebiasConfig(centre_by_prompt=True))
    table[:, 0] = 0.1 + 0.2 * np.arange(600) // 2 / 7
    row = fit_debias(
        table, names=("r", "v"), target="v", config=DebiasConfig(centre_by_prompt=True), groups=prompts
    ).table[0]
    assert "constant" in row.reason


def test_correlation_table_on_reference_and_held_out() -> None:
    reference, held = np.split(scores(0, n=4000), [400])
    debias = fit_debias(reference, names=NAMES, target="verbosity")
    for table, limit in ((reference, 1.1e-3), (held, 0.15)):
        rows = correlation_table(torch.from_numpy(table), debias)
        assert [row.name for row in rows] == list(NAMES)
        for k, row in enumerate(rows):
            assert row.spearman_before == pytest.approx(rho_of(table[:, k], table[:, 1]))
            assert row.pearson_before == pytest.approx(np.corrcoef(table[:, k], table[:, 1])[0, 1])
            if row.name == "verbosity":
                assert np.isnan(row.spearman_after)
            else:
                assert abs(row.spearman_after) <= limit
                after = table[:, k] - debias.lambdas[row.name] * table[:, 1]
                assert row.pearson_after == pytest.approx(np.corrcoef(after, table[:, 1])[0, 1], abs=1e-5)
    length = np.arange(len(reference))
    assert correlation_table(reference, debias, against_N=length)[0].spearman_before == pytest.approx(
        rho_of(reference[:, 0], length)
    )


def test_identity_changes_nothing() -> None:
    table = torch.from_numpy(scores()).float()
    none = Debias.identity(NAMES)
    assert torch.equal(none.apply(table), table)
    assert none.max_abs_rho == 0.0
    with pytest.raises(FitError, match="no target"):
        correlation_table(table, none)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: fit_debias(t, names=NAMES, target="verbosty"), "did you mean 'verbosity'"),
        (lambda t: fit_debias(t[:2], names=NAMES, target="verbosity"), "at least 3 rows"),
        (lambda t: fit_debias(t, names=NAMES[:2], target="verbosity"), "for 2 experts"),
        (lambda t: fit_debias(np.where(t == t[7, 2], np.nan, t), names=NAMES, target="verbosity"), "row 7, 'safe'"),
        (lambda t: parse_config(DebiasConfig, {"grid": [0.2, 0.1]}, place="debias"), "ascending"),
        (lambda t: parse_config(DebiasConfig, {"sided": "three"}, place="debias"), "'three'"),
        (
            lambda t: fit_debias(
                t, names=NAMES, target="safe", config=DebiasConfig(centre_by_prompt=True), groups=[1, 2]
            ),
            r"groups \[2\] for 400",
        ),
    ],
)
def test_bad_input_is_named(call, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises((ConfigError, FitError), match=message):
        call(scores())


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_audit_is_the_mean_of_spearman_over_prompts(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, 12, 40)
    reward, length = rng.integers(0, 4, 40), rng.integers(1, 5, 40)
    each = []
    for name in np.unique(groups):
        rows = groups == name
        if len(np.unique(length[rows])) > 1:
            same = len(np.unique(reward[rows])) == 1
            each.append(0.0 if same else rho_of(reward[rows], length[rows]))
    assume(each)
    found = within_prompt_rank_correlation(reward, length, groups, samples=50)
    assert found.value == pytest.approx(np.mean(each), abs=1e-12)
    assert found.low <= found.value <= found.high


def test_audit_on_pairs_counts_signs() -> None:
    reward, length = [2, 1, 1, 2, 3, 3, 5, 4, 9], [20, 10, 30, 10, 4, 8, 6, 6, 1]
    found = within_prompt_rank_correlation(reward, length, [0, 0, 1, 1, 2, 2, 3, 3, 4])
    assert found.value == pytest.approx((1 - 1 + 0) / 3)
    longer = within_prompt_rank_correlation([2, 1, 9, 3], [7, 5, 6, 2], ["a", "a", "b", "b"])
    assert (longer.value, longer.low, longer.high) == (1.0, 1.0, 1.0)


def test_audit_of_pairs_resamples_their_prompts() -> None:
    # Forty pairs of one prompt and one of another: by pairs the interval is narrow, by prompts there are two draws.
    reward, length = np.tile([2.0, 1.0], 41), np.tile([7, 5], 41)
    reward[-2:] = [1.0, 2.0]
    pairs, prompts = np.repeat(np.arange(41), 2), ["a"] * 80 + ["b"] * 2
    by_pair = within_prompt_rank_correlation(reward, length, pairs)
    by_prompt = within_prompt_rank_correlation(reward, length, pairs, clusters=prompts)
    assert by_pair.value == by_prompt.value == pytest.approx(39 / 41)
    assert by_pair.low > 0.8
    assert by_prompt.low == -1.0


def test_audit_without_a_usable_prompt_and_with_bad_rows() -> None:
    assert np.isnan(within_prompt_rank_correlation([1, 2, 3], [5, 5, 7], [0, 0, 1]).value)
    with pytest.raises(FitError, match="one of each per row"):
        within_prompt_rank_correlation([1, 2], [1], [0, 0])
    with pytest.raises(FitError, match="row 1"):
        within_prompt_rank_correlation([1, np.nan], [1, 2], [0, 0])
