"""The layer of each objective: found where only an inner layer can read it, the last where there is no difference."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from facetrm.backbone.encoder import Features
from facetrm.data.objectives import Objective
from facetrm.fit.heads.layer_choice import LayeredFit, fit_layered_experts
from facetrm.fit.heads.ridge import RidgeConfig, evaluate_experts, fit_linear_experts

N, D = 400, 24
OBJECTIVES = [Objective(name=name, low=0, high=1, kind="continuous") for name in ("early", "late", "both")]
GROUPS = [f"prompt {n // 4}" for n in range(N)]
CONFIG = RidgeConfig(folds=4, bootstrap=0)


def planted(seed: int = 0, *, scale: float = 1.0) -> tuple[Features, np.ndarray]:
    """Return features of layers 4, 8 and last, and labels that layer 4, the last, and both carry."""
    made = torch.Generator().manual_seed(seed)
    early_ND, late_ND = (torch.randn(N, D, generator=made) for _ in range(2))
    both_ND = torch.randn(N, 4, generator=made)
    inner_ND = torch.cat([early_ND[:, 4:], both_ND], dim=1)
    last_ND = torch.cat([late_ND[:, 4:], both_ND], dim=1)
    turn_DD = torch.linalg.qr(torch.randn(D, D, generator=made)).Q
    noise_NK = 0.02 * torch.randn(N, 3, generator=made)
    labels_NK = 0.5 + 0.1 * torch.stack([inner_ND[:, 0], last_ND[:, 0], both_ND[:, 0]], dim=1) + noise_NK
    response_NAD = torch.stack([scale * inner_ND, torch.randn(N, D, generator=made), last_ND @ turn_DD], dim=1)
    none = torch.zeros(N, dtype=torch.int64)
    prompt_ND = torch.zeros(N, D)
    found = Features(prompt_ND, response_NAD, none + 5, none + 9, none.bool(), layers=(4, 8, "last"))
    return found, labels_NK.numpy()


def fitted(features: Features, labels_NK: np.ndarray, **more: object) -> LayeredFit:
    given = {"layers": features.layers, "objectives": OBJECTIVES, "groups": GROUPS, "config": CONFIG, **more}
    return fit_layered_experts(features, labels_NK, **given)  # type: ignore[arg-type]


def test_an_objective_that_only_an_inner_layer_carries_is_read_there_and_improves() -> None:
    features, labels_NK = planted()
    found = fitted(features, labels_NK)
    chosen = {row.name: row.chosen for row in found.table}
    assert chosen == {"early": 4, "late": "last", "both": "last"}
    assert found.fit.experts.reads == (4, "last", "last")
    early, late, both = found.table
    assert early.spearman[4] > 0.9 > 0.3 > abs(early.spearman["last"])
    assert late.spearman["last"] > 0.9 > 0.3 > abs(late.spearman[4])
    assert both.spearman[4] > 0.9
    assert abs(early.errors[4] - found.fit.reports[0].mse) < 1e-9
    new, new_labels_NK = planted(seed=0)
    fresh = replace(new, response_NAD=new.response_NAD + 0.01)
    at_last = fitted(features.only(["last"]), labels_NK, layers=["last"])
    assert at_last.table == ()
    better, worse = (
        evaluate_experts(fit.fit.experts, fresh, new_labels_NK, groups=GROUPS, bootstrap=0)[0].spearman
        for fit in (found, at_last)
    )
    assert better > worse + 0.3
    values = early.to_dict()
    assert values["chosen"] == 4
    assert list(values["mse"]) == ["4", "8", "last"]


def test_where_layers_do_not_differ_the_last_one_stays() -> None:
    features, labels_NK = planted()
    same = features.response("last")
    turned = torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(7))).Q
    noise_ND = 0.02 * torch.randn(N, D, generator=torch.Generator().manual_seed(8))
    alike = replace(features, response_NAD=torch.stack([same @ turned, same + noise_ND, same], dim=1))
    found = fitted(alike, labels_NK)
    assert [row.chosen for row in found.table] == ["last", "last", "last"]
    for seed in range(5):  # pure noise has a best layer, too
        noise_NK = np.random.default_rng(seed).random((N, 3))
        assert [row.chosen for row in fitted(features, noise_NK).table] == ["last", "last", "last"]


def test_the_scale_of_a_layer_does_not_matter() -> None:
    plain = fitted(*planted())
    for scale in (1e-4, 1e4):
        features, labels_NK = planted(scale=scale)
        features.response_NAD[:, 0, 3] *= 1e3  # one huge dimension, as inner layers have them
        found = fitted(features, labels_NK)
        assert [row.chosen for row in found.table] == [row.chosen for row in plain.table]
        assert abs(found.table[0].spearman[4] - plain.table[0].spearman[4]) < 0.02
        with torch.no_grad():
            rated_N = found.fit.experts(features)[:, 0].double().numpy()
        assert np.corrcoef(rated_N, labels_NK[:, 0])[0, 1] > 0.95, "the heads read the vectors as they are"


def test_one_layer_is_the_fit_without_layers() -> None:
    features, labels_NK = planted()
    alone = features.only(["last"])
    found = fitted(alone, labels_NK, layers=["last"])
    plain = fit_linear_experts(alone, labels_NK, objectives=OBJECTIVES, groups=GROUPS, config=CONFIG)
    assert torch.equal(found.fit.experts.weight_KD, plain.experts.weight_KD)
    assert found.fit.experts.layers == ()
    inner = fitted(features, labels_NK, layers=[4])
    assert inner.table == ()
    assert inner.fit.experts.layers == (4,)


def test_an_objective_without_a_head_stays_at_the_last_layer_and_gaps_are_kept() -> None:
    features, labels_NK = planted()
    labels_NK[:, 1] = 0.25
    labels_NK[::3, 0] = np.nan
    found = fitted(features, labels_NK, config=CONFIG.model_copy(update={"unfit": "mean", "bootstrap": 20}))
    assert [row.chosen for row in found.table] == [4, "last", "last"]
    assert np.isnan(found.table[1].standard_error)
    assert found.table[1].to_dict()["mse"] == {"4": None, "8": None, "last": None}
    low, high = found.fit.reports[0].interval
    assert low < found.fit.reports[0].spearman < high
    assert all(one is not other for one, other in pairwise(found.table))


@pytest.mark.parametrize("layers", [[], [4, 5]], ids=str)
def test_layers_that_are_not_there_are_named(layers: list[int]) -> None:
    with pytest.raises(Exception, match=r"no layer to choose from|hold layers 4, 8, last, not layer 5"):
        fitted(*planted(), layers=layers)
