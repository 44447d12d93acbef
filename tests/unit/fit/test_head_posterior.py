"""Posterior of the heads: brute force, scikit-learn, coverage on planted data, and the errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from sklearn.linear_model import BayesianRidge

from facetrm.core.errors import FitError, ModelError
from facetrm.data.objectives import Objective
from facetrm.fit.heads.ridge import RidgeConfig, fit_linear_experts
from facetrm.model.uncertainty.posterior import HeadPosterior, PosteriorGroup

OBJECTIVES = [Objective(name=f"o{k}", low=0, high=1, kind="continuous") for k in range(3)]


def planted(n: int, d: int = 8, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng, heads = np.random.default_rng(seed), np.random.default_rng(99).normal(size=(d, 3))
    x = rng.normal(size=(n, d)) + 2.0
    return x, x @ heads * 0.1 + np.array([0.1, 0.3, 1.0]) * rng.normal(size=(n, 3))


def fitted(x: np.ndarray, y: np.ndarray, *, alpha: float, intercept: bool, weights: np.ndarray | None = None):
    config = RidgeConfig(alphas=(alpha,), folds=3, intercept=intercept, bootstrap=0)
    return fit_linear_experts(
        torch.from_numpy(x),
        y,
        objectives=OBJECTIVES,
        groups=np.arange(len(x)),
        config=config,
        weights=weights,
        uncertainty=True,
    )


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
def test_variances_equal_brute_force(intercept: bool, weighted: bool) -> None:
    x, y = planted(60)
    y[::4, 1] = np.nan  # another set of rows
    w = np.random.default_rng(1).uniform(0.5, 2.0, size=60) if weighted else np.ones(60)
    new = planted(7, seed=5)[0]
    posterior = fitted(x, y, alpha=3.0, intercept=intercept, weights=w).posterior
    assert posterior is not None
    assert len(posterior.groups) == 2
    mean_NK = posterior.mean_variance(torch.from_numpy(new)).numpy()
    new_NK = posterior.rating_variance(torch.from_numpy(new)).numpy()
    for k in range(3):
        rows = np.isfinite(y[:, k])
        ones, penalty = np.ones((len(x), int(intercept))), np.diag([3.0] * 8 + [0.0] * int(intercept))
        full, root = np.hstack([x, ones])[rows], np.sqrt(w[rows])[:, None]
        z, target = full * root, y[rows, k] * root[:, 0]
        inverse = np.linalg.inv(z.T @ z + penalty)
        hat = z @ inverse @ z.T
        noise = ((target - hat @ target) ** 2).sum() / (rows.sum() - np.trace(hat))
        at = np.hstack([new, np.ones((7, int(intercept)))])
        expected = noise * np.einsum("nd,de,ne->n", at, inverse, at)
        assert mean_NK[:, k] == pytest.approx(expected, rel=1e-4)
        assert new_NK[:, k] == pytest.approx(expected + noise, rel=1e-4)


def test_variances_equal_those_of_bayesian_ridge() -> None:
    x, y = planted(400)
    oracle = BayesianRidge(fit_intercept=False, max_iter=1000, tol=1e-10).fit(x, y[:, 1])
    alpha = float(oracle.lambda_ / oracle.alpha_)  # its ratio of precisions is the ridge penalty
    posterior = fitted(x, y, alpha=alpha, intercept=False).posterior
    assert posterior is not None
    new = planted(9, seed=5)[0]
    _, deviation = oracle.predict(new, return_std=True)
    found = posterior.rating_variance(torch.from_numpy(new))[:, 1].sqrt().numpy()
    assert found == pytest.approx(deviation, rel=1e-3)


def test_ninety_percent_intervals_cover_ninety_percent() -> None:
    hits = []
    for seed in range(5):
        x, y = planted(80, seed=seed)
        new, ratings = planted(600, seed=1000 + seed)
        fit = fitted(x, y, alpha=0.1, intercept=True)
        assert fit.posterior is not None
        half = 1.6449 * fit.posterior.rating_variance(torch.from_numpy(new)).sqrt().numpy()
        hits.append(np.abs(fit.experts.rate(torch.from_numpy(new).float()).detach().numpy() - ratings) <= half)
    for coverage in np.concatenate(hits).mean(axis=0):
        assert 0.85 <= coverage <= 0.95


def test_the_heads_are_the_same_with_and_without() -> None:
    x, y = planted(60)
    config = RidgeConfig(alphas=(0.1, 10.0), folds=3, bootstrap=0)
    one, other = (
        fit_linear_experts(
            torch.from_numpy(x), y, objectives=OBJECTIVES, groups=np.arange(60), config=config, uncertainty=asked
        )
        for asked in (False, True)
    )
    assert one.posterior is None
    assert torch.equal(one.experts.weight_KD, other.experts.weight_KD)
    assert torch.equal(one.experts.bias_K, other.experts.bias_K)


def test_state_restores_the_same_bits_and_a_missing_tensor_is_named() -> None:
    x, y = planted(60)
    posterior = fitted(x, y, alpha=3.0, intercept=True).posterior
    assert posterior is not None
    tensors, spec = posterior.state()
    tensors = load_tensors(save_tensors(tensors))
    new = torch.from_numpy(planted(5, seed=5)[0])
    again = HeadPosterior.from_state(tensors, spec)
    assert torch.equal(again.mean_variance(new), posterior.mean_variance(new))
    with pytest.raises(ModelError, match=r"0\.noise_J"):
        HeadPosterior.from_state({k: v for k, v in tensors.items() if k != "0.noise_J"}, spec)


def test_a_constant_objective_has_no_posterior() -> None:
    x, y = planted(60)
    y[:, 2] = 0.5
    config = RidgeConfig(alphas=(1.0,), folds=3, bootstrap=0, unfit="mean")
    fit = fit_linear_experts(
        torch.from_numpy(x), y, objectives=OBJECTIVES, groups=np.arange(60), config=config, uncertainty=True
    )
    assert fit.posterior is not None
    assert torch.isnan(fit.posterior.mean_variance(torch.from_numpy(x))).all(dim=0).tolist() == [False, False, True]


def test_errors_name_the_fix() -> None:
    x, y = planted(60)
    config = RidgeConfig(folds=1, refit="train", bootstrap=0)
    with pytest.raises(FitError, match="refit: all"):
        fit_linear_experts(
            torch.from_numpy(x), y, objectives=OBJECTIVES, groups=np.arange(60), config=config, uncertainty=True
        )
    with pytest.raises(FitError, match="no degree of freedom"):
        fitted(*planted(9, d=40), alpha=1e-9, intercept=True)
    group = PosteriorGroup((0,), torch.eye(2), torch.zeros(2), torch.ones(1), 0.0)
    with pytest.raises(ModelError, match=r"heads \[0, 0\] for 1 experts"):
        HeadPosterior([group, group], experts=1)
