"""Every head and every alpha against scikit-learn's Ridge, on masks that overlap anyhow."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from facetrm.data.objectives import Objective
from facetrm.fit.heads.label_blocks import assign_folds
from facetrm.fit.heads.ridge import RidgeConfig, fit_linear_experts

ALPHAS = (1e-4, 1e-2, 1.0, 1e2, 1e4)


def problem(layout: str, n: int = 260, d: int = 24, k: int = 5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(7)
    x = (rng.normal(size=(n, d)) * rng.uniform(0.2, 3.0, d) + rng.normal(size=d) * 5).astype(np.float32)
    y = x @ rng.normal(size=(d, k)) * 0.05 + rng.normal(size=(n, k)) * 0.3
    if layout == "disjoint":
        block = np.arange(n) * 3 // n
        y[block != 0, :2] = np.nan
        y[block != 1, 2:4] = np.nan
        y[block != 2, 4] = np.nan
    elif layout == "nested":
        y[100:, 1] = np.nan
        y[:50, 2] = np.nan
    elif layout == "scattered":
        y[rng.random((n, k)) < 0.4] = np.nan
    return x, y, np.repeat(np.arange(n // 2), 2)


def objectives(k: int) -> list[Objective]:
    return [Objective(name=f"o{i}", low=0, high=1, kind="continuous") for i in range(k)]


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("layout", ["full", "disjoint", "nested", "scattered"])
@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("alpha", ALPHAS)
def test_each_objective_and_alpha_equals_ridge(layout: str, intercept: bool, alpha: float) -> None:
    x, y, groups = problem(layout)
    weights = np.random.default_rng(1).uniform(0.1, 3.0, len(x))
    for weight in (None, weights):
        config = RidgeConfig(alphas=(alpha,), folds=2, intercept=intercept, bootstrap=0)
        fit = fit_linear_experts(
            torch.from_numpy(x), y, objectives=objectives(5), groups=groups, config=config, weights=weight
        )
        for k in range(5):
            rows = np.isfinite(y[:, k])
            oracle = Ridge(alpha=alpha, fit_intercept=intercept, solver="cholesky", tol=1e-12)
            oracle.fit(x[rows].astype(np.float64), y[rows, k], None if weight is None else weight[rows])
            assert relative(fit.experts.weight_KD[k].numpy(), oracle.coef_) < 1e-6
            seen = fit.experts.rate(torch.from_numpy(x)).numpy()[:, k]
            assert np.abs(seen - oracle.predict(x.astype(np.float64))).max() < 2e-5


@pytest.mark.parametrize("layout", ["full", "disjoint", "scattered"])
def test_published_recipe_equals_a_loop_over_objectives_and_alphas(layout: str) -> None:
    x, y, groups = problem(layout)
    config = RidgeConfig(alphas=ALPHAS, folds=1, intercept=False, refit="train", bootstrap=0)
    fit = fit_linear_experts(torch.from_numpy(x), y, objectives=objectives(5), groups=groups, config=config)
    fold = assign_folds(groups, np.isfinite(y), folds=1, validation=0.2, seed=0)
    chosen = set()
    for k, report in enumerate(fit.reports):
        train, test = np.isfinite(y[:, k]) & (fold == 0), np.isfinite(y[:, k]) & (fold == 1)
        oracles = [
            Ridge(alpha=a, fit_intercept=False, solver="cholesky").fit(x[train].astype(np.float64), y[train, k])
            for a in ALPHAS
        ]
        errors = [np.mean((o.predict(x[test].astype(np.float64)) - y[test, k]) ** 2) for o in oracles]
        best = int(np.argmin(errors))
        chosen.add(best)
        assert report.alpha == ALPHAS[best]
        assert report.mse == pytest.approx(errors[best], rel=1e-8)
        assert report.mse_mean == pytest.approx(np.mean((y[train, k].mean() - y[test, k]) ** 2), rel=1e-8)
        assert report.held_out == test.sum()
        assert relative(fit.experts.weight_KD[k].numpy(), oracles[best].coef_) < 1e-6
    assert fit.experts.bias_K.abs().max() == 0


def test_cross_validation_equals_a_loop_over_folds() -> None:
    x, y, groups = problem("scattered")
    config = RidgeConfig(alphas=ALPHAS, folds=4, bootstrap=0, seed=3)
    fit = fit_linear_experts(torch.from_numpy(x), y, objectives=objectives(5), groups=groups, config=config)
    fold = assign_folds(groups, np.isfinite(y), folds=4, validation=0.2, seed=3)
    for k, report in enumerate(fit.reports):
        rows = np.isfinite(y[:, k])
        errors = []
        for alpha in ALPHAS:
            predicted = np.full(len(y), np.nan)
            for f in range(4):
                oracle = Ridge(alpha=alpha).fit(x[rows & (fold != f)].astype(np.float64), y[rows & (fold != f), k])
                predicted[fold == f] = oracle.predict(x[fold == f].astype(np.float64))
            errors.append(np.mean((predicted[rows] - y[rows, k]) ** 2))
        assert report.alpha == ALPHAS[int(np.argmin(errors))]
        assert report.mse == pytest.approx(min(errors), rel=1e-8)


@pytest.mark.parametrize("alpha", [1e-4, 1.0])
def test_fewer_rows_than_features(alpha: float) -> None:
    x, y, groups = problem("full", n=30, d=80)
    config = RidgeConfig(alphas=(alpha,), folds=2, bootstrap=0)
    fit = fit_linear_experts(torch.from_numpy(x), y, objectives=objectives(5), groups=groups, config=config)
    oracle = Ridge(alpha=alpha, solver="svd").fit(x.astype(np.float64), y)
    assert relative(fit.experts.weight_KD.numpy(), oracle.coef_) < 1e-6


def test_large_means_lose_nothing() -> None:
    x, y, groups = problem("full")
    x = (x.astype(np.float64) + 3e4).astype(np.float32)
    config = RidgeConfig(alphas=(1e-2,), folds=2, bootstrap=0)
    fit = fit_linear_experts(torch.from_numpy(x), y, objectives=objectives(5), groups=groups, config=config)
    oracle = Ridge(alpha=1e-2, solver="svd").fit(x.astype(np.float64), y)
    assert relative(fit.experts.weight_KD.numpy(), oracle.coef_) < 1e-6
