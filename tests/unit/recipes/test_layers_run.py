"""Experts choose their layers in a whole fit: a trunk whose last layer hides what an objective needs."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from facetrm import Objective, Preference, Rating, RewardModel, fit_armorm, load_model
from facetrm.backbone.store import FeatureStore
from facetrm.backbone.transformer import BackboneConfig, TransformerEncoder, load_encoder
from facetrm.core.errors import BackboneError, ConfigError, FacetrmError
from facetrm.recipes.run import Run, read_recipe
from fakes import chat, tiny_decoder
from tiny_runs import RECIPE, run, write_recipe

HIDDEN_DIMENSIONS = 29
OBJECTIVES = [Objective(name=name, low=0, high=1, kind="continuous") for name in ("own-inner", "own-last")]
QUICK = {"settings": {"steps": 10, "hidden": 4, "rank": 4}}
RIDGE = {"folds": 3, "bootstrap": 0}


def hiding(folder: Path) -> TransformerEncoder:
    """Return a decoder whose final norm hides the first dimensions; the state after layer 1 has all of them."""
    encoder = load_encoder(BackboneConfig(path=str(tiny_decoder(folder)), device="cpu"))
    with torch.no_grad():
        encoder.model.norm.weight[:HIDDEN_DIMENSIONS] = 0.0
        for layer in encoder.model.layers[1:]:  # what layer 2 adds does not tell them either
            layer.self_attn.o_proj.weight.mul_(0.05)
            layer.mlp.down_proj.weight.mul_(0.05)
    return encoder


def rows(encoder: TransformerEncoder, count: int, *, seed: int) -> list[Rating]:
    made, letters = random.Random(seed), "abcdefgh"
    talks = [chat(f"question {seed} {n // 2}", "".join(made.choice(letters) for _ in range(12))) for n in range(count)]
    found = encoder.encode(talks, layers=[1, "last"])
    inner_N, last_N = found.response(1)[:, 0], found.response("last")[:, -1]
    unit = [((x - x.mean()) / x.std() * 0.15 + 0.5).clamp(0, 1).tolist() for x in (inner_N, last_N)]
    return [
        Rating(messages=talk, ratings={"own-inner": a, "own-last": b}) for talk, a, b in zip(talks, *unit, strict=True)
    ]


def pairs(ratings: list[Rating]) -> list[Preference]:
    found = []
    for one, other in zip(ratings[::2], ratings[1::2], strict=True):
        best, worst = sorted((one, other), key=lambda r: -r.ratings["own-inner"])
        found.append(Preference(prompt=one.messages[:-1], responses=(best.messages[-1], worst.messages[-1])))
    return found


def correlation(model: RewardModel, ratings: list[Rating], name: str) -> float:
    scores = [score.scores[name] for score in model.score([r.messages for r in ratings])]
    return float(np.corrcoef(scores, [r.ratings[name] for r in ratings])[0, 1])


def test_an_objective_that_only_an_inner_layer_reads_is_found_and_improves(tmp_path: Path) -> None:
    encoder = hiding(tmp_path / "trunk")
    rated, held_out = rows(encoder, 360, seed=1), rows(encoder, 80, seed=2)
    models = {}
    for name, layers in (("chosen", [1, "last"]), ("last", ["last"])):
        experts = {"layers": layers, "ridge": RIDGE, "cross_fit": 2, "preference": True}
        given = {"objectives": OBJECTIVES, "backbone": encoder, "gate": QUICK, "experts": experts}
        models[name] = fit_armorm(rated, pairs(rated), **given)
    assert models["chosen"].mixture().linear_experts.reads == (1, "last", "last")
    assert models["last"].layers == ()
    before, after = (correlation(models[name], held_out, "own-inner") for name in ("last", "chosen"))
    assert after > 0.95 > before + 0.2
    assert correlation(models["chosen"], held_out, "own-last") > 0.9
    models["chosen"].save(tmp_path / "model", backbone="copy")
    again = load_model(tmp_path / "model", device="cpu")
    assert [s.reward for s in again.score([r.messages for r in held_out[:5]])] == [
        s.reward for s in models["chosen"].score([r.messages for r in held_out[:5]])
    ]
    with pytest.raises(BackboneError, match="layer 7, of a trunk of 2 layers") as caught:
        fit_armorm(rated, pairs(rated), objectives=OBJECTIVES, backbone=encoder, experts={"layers": [7, "last"]})
    assert "numbers from 1 to 1, or last" in str(caught.value)


@pytest.fixture(scope="module")
def layered(tmp_path_factory: pytest.TempPathFactory) -> Run:
    tiny = {**RECIPE["tiny"], "shape": {**RECIPE["tiny"]["shape"], "layers": 2}}
    experts = {**RECIPE["experts"], "layers": ["last", 1]}
    return run(tmp_path_factory.mktemp("layered") / "run", tiny=tiny, experts=experts)


def test_a_run_shows_the_table_and_keeps_the_layers(layered: Run, capfd: pytest.CaptureFixture[str]) -> None:
    table = layered.metrics["layers"]
    assert list(table) == [o.name for o in layered.rows.objectives]
    for name, row in table.items():
        assert list(row["mse"]) == list(row["spearman"]) == ["1", "last"]
        reads = dict(zip(layered.model.mixture().names, layered.model.mixture().linear_experts.reads, strict=False))
        assert reads[name] == row["chosen"]
        near = [layer for layer, mse in row["mse"].items() if mse <= min(row["mse"].values()) + row["standard_error"]]
        assert str(row["chosen"]) == near[-1]
    assert FeatureStore(layered.folder / "features").layers == (1, "last")
    page = (layered.folder / "report.html").read_text()
    assert "Which layer knows what" in page
    assert page.count('<td class="n"><strong>') >= len(table)
    saved = yaml.safe_load((layered.folder / "config.resolved.yaml").read_text())
    assert saved["experts"]["layers"] == [1, "last"]
    again = json.loads((layered.folder / "metrics.json").read_text())
    assert again["layers"] == table


def test_a_run_of_the_last_layer_has_no_table(tiny_run: Run) -> None:
    assert "layers" not in tiny_run.metrics
    assert "Which layer knows what" not in (tiny_run.folder / "report.html").read_text()


@pytest.mark.parametrize("layers", ["[0]", "[-1, last]", "[first]", "[]", "[true]", "[1.5]", "7", "last"])
def test_a_layer_that_cannot_be_is_a_clear_error(tmp_path: Path, layers: str) -> None:
    path = write_recipe(tmp_path / "recipe.yaml")
    with pytest.raises((ConfigError, FacetrmError)) as caught:
        read_recipe(path, [f"experts.layers={layers}"])
    assert "experts.layers" in str(caught.value)
    assert "last" in str(caught.value) or layers == "7"
