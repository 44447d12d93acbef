from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch.testing import assert_close

from facetrm.core.errors import FitError
from facetrm.fit.gate.unconditional import fit_beta, fit_unconditional
from facetrm.fit.losses import bradley_terry_loss, divergence
from facetrm.fit.pairs import hold_out, pair_weights
from facetrm.fit.projection import fit_projection
from preferences import random_tensor


def differences(n: int, weights: list[float], beta: float, seed: int) -> np.ndarray:
    """Score differences of pairs labelled by a Bradley-Terry judge."""
    rng = np.random.default_rng(seed)
    d_NK = rng.normal(size=(n, len(weights))) * np.array([0.1, 0.02, 0.3, 0.1])[: len(weights)]
    wins_N = rng.uniform(size=n) < 1 / (1 + np.exp(-beta * d_NK @ np.array(weights)))
    return np.where(wins_N[:, None], d_NK, -d_NK)


def test_true_weights_and_beta_are_recovered() -> None:
    found = fit_unconditional(differences(40_000, [0.5, 0.3, 0.2, 0.0], 20.0, 0), gated=[True] * 4, ridge=1e-6)
    np.testing.assert_allclose(found.weights_K, [0.5, 0.3, 0.2, 0.0], atol=0.06)
    assert found.beta == pytest.approx(20.0, rel=0.1)


def test_it_is_the_minimum_over_non_negative_weights() -> None:
    """A general solver on the same objective, from another start, finds nothing lower."""
    d_NK, ridge = differences(400, [0.6, 0.4, 0.0], 15.0, 1), 0.01
    d_NK[:, 2] -= 0.1
    found = fit_unconditional(d_NK, gated=[True] * 3, ridge=ridge)
    spread_K = np.sqrt((d_NK**2).mean(0))

    def objective(v_K: np.ndarray) -> float:
        return float(np.logaddexp(0, -d_NK @ v_K).mean() + ridge / 2 * ((v_K * spread_K) ** 2).sum())

    other = minimize(objective, np.ones(3), method="SLSQP", bounds=[(0, None)] * 3, options={"ftol": 1e-14})
    assert objective(found.weights_K * found.beta) <= other.fun + 1e-8
    assert found.weights_K[2] == 0.0


def test_closed_objectives_get_nothing_and_hopeless_ones_the_uniform() -> None:
    d_NK = differences(500, [0.5, 0.5, 0.0], 20.0, 2)
    found = fit_unconditional(d_NK, gated=[False, True, True])
    assert found.weights_K[0] == 0.0
    assert found.weights_K.sum() == pytest.approx(1.0)
    hopeless = fit_unconditional(-np.abs(d_NK), gated=[True, True, False])
    np.testing.assert_allclose(hopeless.weights_K, [0.5, 0.5, 0.0])


def test_weights_of_pairs_count() -> None:
    a, b = differences(300, [1.0, 0.0], 20.0, 3), differences(300, [0.0, 1.0], 100.0, 4)
    both = np.concatenate([a, b])
    only = fit_unconditional(both, gated=[True, True], weights=np.r_[np.ones(300), np.zeros(300)])
    np.testing.assert_allclose(only.weights_K, fit_unconditional(a, gated=[True, True]).weights_K, atol=1e-4)
    assert only.weights_K[0] > 0.6


def test_beta_is_the_minimum_and_finite_for_separated_pairs() -> None:
    margin_N = differences(20_000, [1.0], 7.0, 5)[:, 0]
    beta = fit_beta(margin_N)
    assert beta == pytest.approx(7.0, rel=0.1)
    assert fit_beta(1000 * margin_N) == pytest.approx(beta / 1000, rel=1e-3)
    assert math.isfinite(fit_beta(np.abs(margin_N)))
    assert fit_beta(np.zeros(3)) == 1.0


@pytest.mark.parametrize(
    ("d_NK", "gated", "word"),
    [
        (np.zeros((0, 2)), [True, True], "no preference pair"),
        (np.ones((3, 2)), [False, False], "no objective may enter"),
        (np.full((3, 2), np.nan), [True, True], "not finite"),
    ],
)
def test_impossible_data_are_named(d_NK: np.ndarray, gated: list[bool], word: str) -> None:
    with pytest.raises(FitError, match=word):
        fit_unconditional(d_NK, gated=gated)


def test_loss_is_stable_and_weighted() -> None:
    margin_N = torch.tensor([1e4, -1e4, 0.0])
    assert_close(bradley_terry_loss(margin_N), torch.tensor((1e4 + math.log(2)) / 3))
    assert_close(bradley_terry_loss(margin_N, torch.tensor([1.0, 0.0, 3.0])), torch.tensor(0.75 * math.log(2)))


def test_divergence_is_that_of_distributions_with_closed_entries() -> None:
    logits_NK = torch.tensor([[0.0, float("-inf"), 1.0], [2.0, float("-inf"), -1.0]], requires_grad=True)
    prior_K = torch.tensor([0.5, 0.0, 0.5])
    value_N = divergence(logits_NK, prior_K)
    for row, value in zip(torch.softmax(logits_NK, -1)[:, [0, 2]].tolist(), value_N.tolist(), strict=True):
        assert value == pytest.approx(sum(w * math.log(w / 0.5) for w in row), abs=1e-6)
    value_N.sum().backward()
    assert logits_NK.grad is not None
    assert bool(torch.isfinite(logits_NK.grad).all())
    assert_close(divergence(prior_K.log()[None], prior_K), torch.zeros(1))


def test_held_out_prompts_are_whole_and_do_not_depend_on_row_order() -> None:
    groups_N = np.repeat(np.arange(50), 3)
    held_N = hold_out(groups_N, 0.2, seed=3)
    assert held_N.sum() == 30
    assert not set(groups_N[held_N]) & set(groups_N[~held_N])
    order = np.random.default_rng(0).permutation(150)
    assert np.array_equal(hold_out(groups_N[order], 0.2, seed=3), held_N[order])
    assert not np.array_equal(hold_out(groups_N, 0.2, seed=4), held_N)


def test_balance_makes_sources_count_alike() -> None:
    sources = ["big"] * 6 + ["small"] * 2
    assert pair_weights(sources).tolist() == [1.0] * 8
    weights = pair_weights(sources, balance=1.0)
    assert weights[:6].sum() == pytest.approx(weights[6:].sum())
    assert weights.mean() == pytest.approx(1.0)
    strong = pair_weights(["a"] * 3, strengths=[1.0, 0.5, None])
    assert strong[0] / strong[1] == pytest.approx(2.0)
    assert strong[2] == pytest.approx((strong[0] + strong[1]) / 2), "a pair that does not say is a typical one"
    assert pair_weights(["a"] * 3, strengths=[0.0, 0.1, 1.0]).argmin() == 0, "strength 0 is the least clear pair"
    with pytest.raises(FitError, match=r"strengths lie in 0\.\.0"):
        pair_weights(["a"] * 2, strengths=[0.0, 0.0])
    with pytest.raises(FitError, match="balance is 2"):
        pair_weights(sources, balance=2.0)


@pytest.mark.parametrize("n", [8, 200])
def test_principal_components_are_white_and_largest_first(n: int) -> None:
    prompt_ND = random_tensor(n, 20, seed=0) * torch.linspace(3, 0.1, 20) + 5.0
    projection = fit_projection(prompt_ND, rank=4, shrinkage=0.0, standardise=False)
    assert projection.projection_DR is not None
    x_NR = (prompt_ND - projection.center_D) @ projection.projection_DR
    assert_close(x_NR.T @ x_NR / n, torch.eye(4), atol=1e-3, rtol=1e-3)
    total, kept = (prompt_ND - prompt_ND.mean(0)).square().sum(), []
    for r in range(4):
        column = projection.projection_DR[:, r] / projection.projection_DR[:, r].norm()
        kept.append(float(((prompt_ND - prompt_ND.mean(0)) @ column).square().sum() / total))
    assert kept == sorted(kept, reverse=True)
    assert float(fit_projection(prompt_ND, rank=4, shrinkage=1.0, standardise=False).projection_DR.abs().max()) < float(  # type: ignore[union-attr]
        projection.projection_DR.abs().max()
    )


def test_no_projection_leaves_or_standardises_the_vector() -> None:
    prompt_ND = random_tensor(50, 6, seed=1) * 4 + 2
    plain = fit_projection(prompt_ND, rank=0, shrinkage=0.1, standardise=False)
    assert torch.equal((prompt_ND - plain.center_D) * plain.spread_D, prompt_ND)
    scaled = fit_projection(prompt_ND, rank=0, shrinkage=0.1, standardise=True)
    x_ND = (prompt_ND - scaled.center_D) * scaled.spread_D
    assert_close(x_ND.square().mean(0), torch.ones(6), atol=1e-4, rtol=1e-4)
