"""Deviations scaled to held-out ratings: coverage for any noise, several layers, correlations, and sums of ratings."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from facetrm.backbone.encoder import Features
from facetrm.data.objectives import Objective
from facetrm.fit.heads.held_out_scale import NORMAL, residual_correlation
from facetrm.fit.heads.layer_choice import fit_layered_experts
from facetrm.fit.heads.ridge import LinearFit, RidgeConfig, fit_linear_experts

D, K = 12, 3
OBJECTIVES = [Objective(name=f"o{k}", low=0, high=1, kind="continuous") for k in range(K)]
MIXED_KK = np.array([[1.0, 0.8, 0.0], [0.0, 0.6, 0.0], [0.0, 0.0, 1.0]])  # of o0 and o1, the noise correlates by 0.8


def planted(rows: int, *, seed: int, kind: str = "normal") -> tuple[np.ndarray, np.ndarray]:
    rng, heads = np.random.default_rng(seed), np.random.default_rng(99).normal(size=(D, K))
    x = rng.normal(size=(rows, D)) + 1.0
    draw = {
        "normal": rng.normal(size=(rows, K)),
        "uniform": rng.uniform(-1.7, 1.7, size=(rows, K)),
        "heavy": rng.standard_t(3, size=(rows, K)),
        "two values": rng.choice([-1.0, 1.0], size=(rows, K)),
    }
    return x, x @ heads * 0.05 + 0.1 * draw[kind] @ MIXED_KK


def fitted(x: np.ndarray, y: np.ndarray, *, alpha: float = 0.1) -> LinearFit:
    config = RidgeConfig(alphas=(alpha,), folds=5, bootstrap=0)
    return fit_linear_experts(
        torch.from_numpy(x), y, objectives=OBJECTIVES, groups=np.arange(len(x)), config=config, uncertainty=True
    )


def features_of(vectors: list[torch.Tensor], layers: tuple[int | str, ...]) -> Features:
    none = torch.zeros(len(vectors[0]), dtype=torch.int64)
    stacked = torch.stack(vectors, dim=1)
    return Features(torch.zeros_like(vectors[0]), stacked, none + 5, none + 9, none.bool(), layers=layers)


@pytest.mark.parametrize("kind", ["normal", "uniform", "heavy"])
@pytest.mark.parametrize("rows", [60, 400])
def test_ninety_percent_of_new_ratings_lie_within_the_scaled_deviation(kind: str, rows: int) -> None:
    hits = []
    for seed in range(4):
        x, y = planted(rows, seed=seed, kind=kind)
        new, ratings = planted(1000, seed=1000 + seed, kind=kind)
        fit = fitted(x, y)
        assert fit.posterior is not None
        half = NORMAL * fit.posterior.deviation(torch.from_numpy(new)).numpy()
        hits.append(np.abs(fit.experts.rate(torch.from_numpy(new).float()).detach().numpy() - ratings) <= half)
    for coverage in np.concatenate(hits).mean(axis=0):
        assert 0.85 <= coverage <= 0.95


def test_normal_intervals_of_uniform_noise_are_too_wide_and_the_factor_says_so() -> None:
    fit = fitted(*planted(800, seed=0, kind="uniform"))
    assert fit.posterior is not None
    assert fit.posterior.scale_K[2] < 0.97  # 0.9 * 1.7 / (1.645 * 1.7 / sqrt(3)) = 0.95; o0 and o1 mix two draws


@pytest.mark.parametrize("kind", ["normal", "uniform", "two values"])
def test_the_deviation_of_a_weighted_sum_covers_the_sum_of_new_ratings(kind: str) -> None:
    coefficients_K = torch.tensor([0.7, 0.5, 0.6])
    hits, alone = [], []
    for seed in range(4):
        x, y = planted(300, seed=seed, kind=kind)
        new, ratings = planted(1000, seed=1000 + seed, kind=kind)
        fit, new_ND = fitted(x, y), torch.from_numpy(new)
        assert fit.posterior is not None
        variance_NK = fit.posterior.rating_variance(new_ND)
        total_N = fit.posterior.sum_deviation(variance_NK, coefficients_K.expand(1000, -1)).numpy()
        error_N = np.abs((fit.experts.rate(new_ND.float()).detach().numpy() - ratings) @ coefficients_K.numpy())
        hits.append(error_N <= NORMAL * total_N)
        alone.append(error_N <= NORMAL * (variance_NK @ coefficients_K**2).sqrt().numpy())
    assert 0.87 <= np.concatenate(hits).mean() <= (0.97 if kind == "two values" else 0.93)  # sums of few values
    if kind == "normal":
        assert np.concatenate(alone).mean() < 0.83  # errors that count as independent hide that they correlate


def test_more_features_than_ratings_need_no_large_factor() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 100)), rng.normal(size=(50, K)) * 0.1
    fit = fitted(x, y, alpha=1e-3)  # the heads all but go through their ratings, so each has leverage near 1
    assert fit.posterior is not None
    assert bool(((fit.posterior.scale_K > 0.5) & (fit.posterior.scale_K < 2.0)).all())


def test_an_answer_far_from_the_training_answers_has_a_larger_deviation() -> None:
    x, y = planted(100, seed=0)
    fit = fitted(x, y)
    assert fit.posterior is not None
    steps = torch.from_numpy(x.mean(axis=0) + np.linspace(0, 30, 7)[:, None] * np.eye(D)[0])
    for of_objective_N in fit.posterior.deviation(steps).T:
        assert bool((of_objective_N.diff() > 0).all())


def test_correlations_are_those_of_the_noise_and_zero_without_common_rows() -> None:
    x, y = planted(1500, seed=0)
    y[:, 2] = np.where(np.arange(1500) < 20, y[:, 2], np.nan)
    fit = fitted(x, y)
    assert fit.posterior is not None
    found_KK = fit.posterior.correlation_KK
    assert found_KK[0, 1] == pytest.approx(0.8, abs=0.05)
    assert found_KK[0, 2] == found_KK[1, 2] == 0.0
    assert found_KK.diagonal().tolist() == [1.0] * K


def test_correlations_of_different_rows_have_no_negative_eigenvalue() -> None:
    residual_NK = np.full((120, 3), np.nan)
    one = np.random.default_rng(0).normal(size=40)
    residual_NK[:40, :2] = np.stack([one, one], axis=1)  # o0 = o1
    residual_NK[40:80, 1:] = np.stack([one, one], axis=1)  # o1 = o2
    residual_NK[80:, ::2] = np.stack([one, -one], axis=1)  # o0 = -o2: no matrix of correlations says all three
    found_KK = residual_correlation(residual_NK)
    assert float(torch.linalg.eigvalsh(found_KK.double()).min()) > -1e-6
    assert found_KK.diagonal().tolist() == pytest.approx([1.0] * 3, abs=1e-6)
    assert torch.equal(found_KK, found_KK.T)


def test_heads_of_several_layers_have_the_posteriors_of_their_own_layers() -> None:
    made = torch.Generator().manual_seed(0)
    inner_ND, last_ND = 40.0 * torch.randn(300, D, generator=made), torch.randn(300, D, generator=made)
    noise_NK = 0.05 * torch.randn(300, K, generator=made)
    clean_NK = torch.stack([inner_ND[:, 0] / 40, last_ND[:, 0], last_ND[:, 1]], dim=1)
    y = (0.5 + 0.1 * clean_NK + noise_NK).double().numpy()
    y[::3, 2] = np.nan
    features = features_of([inner_ND, last_ND], (4, "last"))
    config, groups = RidgeConfig(alphas=(1e-3,), folds=5, bootstrap=0), np.arange(300)
    found = fit_layered_experts(
        features,
        y,
        layers=(4, "last"),
        objectives=OBJECTIVES,
        groups=groups,
        config=config,
        uncertainty=True,
    ).fit
    posterior = found.posterior
    assert posterior is not None
    assert found.experts.reads == (4, "last", "last")
    assert sorted((group.layer, group.columns) for group in posterior.groups if group.layer != 4) == [
        ("last", (1,)),
        ("last", (2,)),
    ]
    assert posterior.known == (True, True, True)
    with torch.no_grad():
        rated_NK = found.experts(features).double().numpy()
    inside_NK = np.abs(rated_NK - y) <= NORMAL * posterior.deviation(features).numpy()
    assert inside_NK[np.isfinite(y)].mean() == pytest.approx(0.9, abs=0.04)
    alone = fit_linear_experts(
        last_ND, y, objectives=OBJECTIVES, groups=groups, config=config, uncertainty=True
    ).posterior
    assert alone is not None
    own_NK, alone_NK = posterior.deviation(features), alone.deviation(last_ND)
    assert torch.allclose(own_NK[:, 1:], alone_NK[:, 1:], rtol=1e-4)
    assert not torch.allclose(own_NK[:, 0], alone_NK[:, 0], rtol=0.2)
    of_inner = fit_linear_experts(
        inner_ND, y, objectives=OBJECTIVES, groups=groups, config=config, uncertainty=True
    ).posterior
    assert of_inner is not None
    assert torch.allclose(own_NK[:, 0], of_inner.deviation(inner_ND)[:, 0], rtol=1e-2)
