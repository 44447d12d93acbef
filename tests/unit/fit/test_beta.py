"""The factor that turns margins into log odds, and the pairs that it and the fits may read."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from facetrm.backbone.encoder import Features
from facetrm.core.errors import FitError
from facetrm.data.objectives import Objective
from facetrm.fit.gate.unconditional import fit_beta, fit_unconditional
from facetrm.fit.pairs import score_pairs
from facetrm.model.experts import LinearExperts
from preferences import random_tensor


def test_few_log_odds_that_are_all_right_leave_beta_near_one() -> None:
    margin_N = np.full(15, 0.5)
    assert fit_beta(margin_N) > 100, "the likelihood alone grows forever"
    assert 1 < fit_beta(margin_N, log_odds=True) < 10


def test_many_pairs_decide_beta_whatever_it_starts_near() -> None:
    draw = np.random.default_rng(0)
    margin_N = draw.normal(size=20000)
    signs = np.where(draw.random(20000) < 1 / (1 + np.exp(-3.0 * margin_N)), 1.0, -1.0)
    assert fit_beta(margin_N * signs, log_odds=True) == pytest.approx(3.0, rel=0.06)
    assert fit_beta(margin_N * signs, log_odds=True) == pytest.approx(fit_beta(margin_N * signs), rel=0.01)


def test_a_pull_toward_equal_weights_is_one_in_units_of_their_spread() -> None:
    draw = np.random.default_rng(1)
    spread_K = np.array([1.0, 10.0, 0.1])
    d_NK = draw.normal(size=(400, 3)) * spread_K
    signs = np.where(draw.random(400) < 1 / (1 + np.exp(-(d_NK / spread_K).sum(axis=1))), 1.0, -1.0)
    found = fit_unconditional(d_NK * signs[:, None], gated=[True] * 3, ridge=1e4, toward="equal")
    u_K = found.weights_K * found.beta * np.sqrt((d_NK**2).mean(axis=0))
    assert u_K == pytest.approx([u_K.mean()] * 3, rel=1e-3)
    assert u_K.mean() > 0.5, "a strong pull makes them equal, not small"
    small = fit_unconditional(d_NK * signs[:, None], gated=[True] * 3, ridge=1e4)
    assert small.beta * np.abs(small.weights_K * np.sqrt((d_NK**2).mean(axis=0))).max() < 0.01


def sides(*, truncated: bool) -> tuple[Features, Features]:
    made = []
    for seed in (1, 2):
        length_N = torch.full((6,), 4)
        cut_N = torch.zeros(6, dtype=torch.bool)
        cut_N[2] = truncated
        prompt_ND = random_tensor(6, 8, seed=0)
        prompt_ND[2] = random_tensor(8, seed=seed)
        made.append(Features(prompt_ND, random_tensor(6, 1, 8, seed=seed), length_N, length_N + 3, cut_N))
    return made[0], made[1]


def test_a_pair_that_was_cut_on_its_sides_may_have_two_prompts() -> None:
    experts = LinearExperts([Objective(name="a", low=0, high=1)], random_tensor(1, 8, seed=3), torch.zeros(1))
    chosen, rejected = sides(truncated=True)
    pairs = score_pairs(chosen, rejected, experts=experts, groups=list("abcdef"), weights=None)
    assert len(pairs) == 6
    chosen, rejected = sides(truncated=False)
    with pytest.raises(FitError, match="pair 2 have different prompt features"):
        score_pairs(chosen, rejected, experts=experts, groups=list("abcdef"), weights=None)
