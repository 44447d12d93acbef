"""Quantile heads: the loss of an exact solver, coverage, order, tails, and the errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import QuantileRegressor

from facetrm.backbone.encoder import Features
from facetrm.core.errors import FitError, ModelError
from facetrm.data.objectives import Objective
from facetrm.fit.heads.quantile import QuantileConfig, fit_layered_quantiles, fit_quantile_heads, pinball
from facetrm.model.uncertainty.quantile_heads import QuantileHeads

OBJECTIVES = [Objective(name="o0", low=0, high=1, kind="continuous")]


def planted(n: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Ratings whose noise is larger where the first feature is larger."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(size=(n, 5)) * np.array([1.0, 1.0, 10.0, 1.0, 0.1]) + 1.0
    noise = (0.05 + 0.3 * (x[:, 0] - 1.0)) * rng.normal(size=n)
    return x, (x @ np.array([0.2, -0.1, 0.02, 0.0, 1.0]) + noise)[:, None]


@pytest.mark.parametrize("weighted", [True, False])
def test_the_loss_is_within_one_percent_of_an_exact_solver(weighted: bool) -> None:
    x, y = planted(200)
    w = np.random.default_rng(1).uniform(0.2, 2.0, size=200) if weighted else np.ones(200)
    config = QuantileConfig(levels=4, penalty=0.0)
    heads = fit_quantile_heads(torch.from_numpy(x), y, objectives=OBJECTIVES, config=config, weights=w)
    assert heads.levels_Q.tolist() == pytest.approx([0.2, 0.4, 0.6, 0.8])
    for q, level in enumerate([0.2, 0.4, 0.6, 0.8]):
        oracle = QuantileRegressor(quantile=level, alpha=0.0).fit(x, y[:, 0], sample_weight=w)
        own = x @ heads.weight_KQD[0, q].double().numpy() + float(heads.bias_KQ[0, q])
        best, found = (w @ pinball(y[:, 0] - p, level) / w.sum() for p in (oracle.predict(x), own))
        assert best * (1 - 1e-6) <= found <= best * 1.01


def test_intervals_cover_and_widen_where_raters_disagree() -> None:
    x, y = planted(1500)
    y[::3] = np.nan
    heads = fit_quantile_heads(torch.from_numpy(x), y, objectives=OBJECTIVES)
    new, ratings = planted(3000, seed=1)
    low, high = (end[:, 0].numpy() for end in heads.interval(torch.from_numpy(new), coverage=0.9))
    inside, noisy = (low <= ratings[:, 0]) & (ratings[:, 0] <= high), new[:, 0] > 1.5
    for part in (noisy, ~noisy):  # one width for all would cover one part too often and the other too rarely
        assert 0.85 <= inside[part].mean() <= 0.95
    assert (high - low)[noisy].mean() > 1.8 * (high - low)[~noisy].mean()


def test_quantiles_that_cross_are_sorted_and_tails_are_their_means() -> None:
    heads = QuantileHeads(torch.tensor([[[1.0], [0.0], [-1.0]]]), torch.zeros(1, 3), torch.tensor([0.25, 0.5, 0.75]))
    x = torch.tensor([[2.0], [-4.0]])
    assert heads.quantiles(x)[:, 0].tolist() == [[-2.0, 0.0, 2.0], [-4.0, 0.0, 4.0]]
    assert heads.expected(x)[:, 0].tolist() == [0.0, 0.0]
    assert heads.lower_tail(x, share=0.5)[:, 0].tolist() == [-1.0, -2.0]
    low, high = heads.interval(x, coverage=0.25)  # levels 0.375 and 0.625, each halfway between two quantiles
    assert low[:, 0].tolist() == [-1.0, -2.0]
    assert high[:, 0].tolist() == [1.0, 2.0]


def test_errors_name_the_fix() -> None:
    x, y = planted(20)
    heads = fit_quantile_heads(torch.from_numpy(x), y, objectives=OBJECTIVES, config=QuantileConfig(levels=3))
    with pytest.raises(ModelError, match=r"up to 0\.5"):
        heads.interval(torch.from_numpy(x), coverage=0.9)
    with pytest.raises(ModelError, match=r"0\.25 or more"):
        heads.lower_tail(torch.from_numpy(x), share=0.1)
    with pytest.raises(FitError, match="objective 'o0'"):
        fit_quantile_heads(torch.from_numpy(x), np.full((20, 1), np.nan), objectives=OBJECTIVES)
    with pytest.raises(FitError, match="1 labels per row"):
        fit_quantile_heads(torch.from_numpy(x), np.zeros((19, 1)), objectives=OBJECTIVES)


def test_heads_of_several_layers_are_those_of_each_layer() -> None:
    x, y = planted(120)
    inner_ND, last_ND = torch.from_numpy(x).float(), torch.from_numpy(x[:, ::-1].copy()).float()
    none = torch.zeros(120, dtype=torch.int64)
    stacked = torch.stack([inner_ND, last_ND], dim=1)
    features = Features(torch.zeros_like(inner_ND), stacked, none + 5, none + 9, none.bool(), layers=(2, "last"))
    objectives = [Objective(name=name, low=0, high=1, kind="continuous") for name in ("on-last", "on-inner", "both")]
    labels_NK = np.concatenate([y, y, 1 - y], axis=1)
    config = QuantileConfig(levels=3, steps=20)
    found = fit_layered_quantiles(
        [features.select(torch.arange(70)), features.select(torch.arange(70, 120))],
        labels_NK,
        reads=("last", 2, "last"),
        objectives=objectives,
        config=config,
    )
    own = {
        layer: fit_quantile_heads(vectors_ND, labels_NK, objectives=objectives, config=config)
        for layer, vectors_ND in ((2, inner_ND), ("last", last_ND))
    }
    quantiles_NKQ = found.quantiles(features)
    for k, layer in enumerate(("last", 2, "last")):
        expected_NQ = own[layer].quantiles(features.response(layer))[:, k]  # type: ignore[arg-type]
        assert torch.allclose(quantiles_NKQ[:, k], expected_NQ, atol=1e-6)
    with pytest.raises(ModelError, match="the features hold"):
        found.quantiles(features.only([2]))
