"""The linear head that a gate is compared with searches over at least as many strengths, and with more folds."""

from __future__ import annotations

import numpy as np
import torch

from facetrm.backbone.encoder import Features
from facetrm.fit.bradley_terry import BradleyTerryConfig, fit_bradley_terry
from facetrm.fit.gate.config import GateConfig
from facetrm.recipes.armorm.config import CompareSection


def test_the_linear_head_has_at_least_the_search_of_the_gate() -> None:
    linear, gate = CompareSection().linear, GateConfig()
    assert set(linear.ridges) >= set(gate.ridge)
    assert 1.0 / linear.folds <= gate.validation  # at least as much data in each fit of the search


def test_the_search_tries_every_strength_and_keeps_the_best() -> None:
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(size=(120, 20))).float()
    x[:, 0] += 1.0  # the one direction that says something
    blank, n = torch.zeros(120, dtype=torch.int64), torch.zeros_like(x)
    chosen, rejected = (
        Features(n, side[:, None], blank, blank, torch.zeros(120, dtype=torch.bool))
        for side in (x, torch.zeros_like(x))
    )
    config = BradleyTerryConfig()
    fit = fit_bradley_terry(chosen, rejected, groups=[str(i) for i in range(120)], config=config)
    assert set(fit.losses) == set(config.ridges)
    assert fit.losses[fit.ridge] == min(fit.losses.values())
    assert fit.ridge not in (min(config.ridges),)  # without a search, the weakest strength would overfit here
