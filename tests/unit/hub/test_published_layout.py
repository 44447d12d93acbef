"""ArmoRM's and QRM's checkpoints, loaded without their code, against an independent float64 formula."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from facetrm import load_model
from facetrm.backbone.checkpoint import quiet_transformers
from facetrm.core.errors import BackboneError, ModelError
from facetrm.data.sources.armorm import ARMORM_OBJECTIVES
from published_samples import QUANTILES, ROWS, change_config, change_tensors, expected, write_checkpoint

SCALE = 1.3  # the checkpoint's logit_scale


@pytest.fixture(scope="module", params=[False, True], ids=["armorm", "qrm"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("published") / "model", quantile=request.param)


@pytest.mark.parametrize("side", [None, "left", "right"])
def test_scores_are_those_of_the_published_formula(checkpoint: Path, side: str | None) -> None:
    want = expected(checkpoint, ROWS, side=side)
    model = load_model(checkpoint)
    for scores in (model.score(ROWS), [model.score([row])[0] for row in ROWS]):
        names = list(scores[0].weights)
        ratings = np.array([[s.scores[n] for n in names] for s in scores])
        weights = np.array([[s.weights[n] for n in names] for s in scores])
        assert np.abs(np.array([s.reward for s in scores]) - want["score"]).max() < 1e-5
        assert np.abs(ratings - want["rewards"]).max() < 1e-5
        assert np.abs(SCALE * weights - want["weights"]).max() < 1e-5
        for score in scores:
            assert score.base == 0
            assert sum(score.contributions.values()) == pytest.approx(score.reward, abs=1e-5)
    assert np.ptp(want["score"]) > 0.01, "the rows differ"
    assert np.ptp(want["weights"], axis=0).max() > 1e-3, "the gate looks at the prompt"


def test_the_published_nineteen_have_their_names_and_scales(checkpoint: Path) -> None:
    mixture = load_model(checkpoint).mixture()
    assert mixture.objectives == ARMORM_OBJECTIVES
    assert mixture.names[0] == "helpsteer-helpfulness"
    assert mixture.names[4] == "helpsteer-verbosity"
    assert mixture.names[18].startswith("code")


def test_another_number_of_objectives_is_numbered(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "m", objectives=3)
    model = load_model(folder)
    assert model.mixture().names == ("objective-0", "objective-1", "objective-2")
    assert [s.reward for s in model.score(ROWS)] == pytest.approx(expected(folder, ROWS)["score"], abs=1e-5)


def test_bfloat16_trunk_keeps_the_heads_in_float32(checkpoint: Path) -> None:
    model = load_model(checkpoint, settings={"dtype": "bfloat16"})
    assert model.mixture().experts.weight_KD.dtype == torch.float32
    near = np.array([s.reward for s in model.score(ROWS)]) - expected(checkpoint, ROWS)["score"]
    assert 1e-6 < np.abs(near).max() < 0.3


def test_a_saved_copy_scores_the_same(checkpoint: Path, tmp_path: Path) -> None:
    model = load_model(checkpoint)
    model.save(tmp_path / "native", backbone="copy")
    again = load_model(tmp_path / "native")
    assert [s.reward for s in again.score(ROWS)] == [s.reward for s in model.score(ROWS)]
    assert again.provenance["layout"] in ("ArmoRM", "QRM")


def test_transformers_alone_would_make_up_a_head(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "m")
    change_config(folder, auto_map=None)
    with quiet_transformers():
        _, report = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert "score.weight" in report["missing_keys"], "the trap that the loader is for"
    assert any(name.startswith("gating") for name in report["unexpected_keys"])
    assert [s.reward for s in load_model(folder).score(ROWS)] == pytest.approx(
        expected(folder, ROWS)["score"], abs=1e-5
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("regression_layer.weight", "tensor 'regression_layer.weight' is missing"),
        ("gating.layers.1.bias", "tensor 'gating.layers.1.bias' is missing"),
        ("gating.logit_scale", "tensor 'gating.logit_scale' is missing"),
        ("reward_transform_matrix", "tensor 'reward_transform_matrix' is missing"),
    ],
)
def test_a_missing_head_is_named(tmp_path: Path, name: str, message: str) -> None:
    folder = write_checkpoint(tmp_path / "m")
    change_tensors(folder, drop=[name])
    with pytest.raises(ModelError, match=message):
        load_model(folder)


def test_a_missing_tensor_of_the_trunk_is_named(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "m")
    change_tensors(folder, drop=["model.layers.1.mlp.up_proj.weight"])
    with pytest.raises(BackboneError, match=r"missing.*layers\.1\.mlp\.up_proj\.weight"):
        load_model(folder)


@pytest.mark.parametrize(
    "name", ["score__weight", "gating__layers__9__weight", "model__layers__0__extra__weight", "v_head"]
)
def test_an_unexpected_tensor_is_named(tmp_path: Path, name: str) -> None:
    folder = write_checkpoint(tmp_path / "m")
    change_tensors(folder, **{name: torch.ones(1, 32)})
    with pytest.raises((ModelError, BackboneError), match=name.replace("__", r"\.")):
        load_model(folder)


def test_a_gate_without_its_prefix_is_explained(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "m")
    held = {k.removeprefix("gating."): v for k, v in load_file(folder / "model.safetensors").items()}
    save_file(held, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks the prefix 'gating\.'.*add the prefix 'gating\.'"):
        load_model(folder)


def test_a_head_of_another_shape_is_named(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "m")
    change_tensors(folder, regression_layer__weight=torch.ones(18, 32))
    with pytest.raises(ModelError, match=r"regression_layer\.weight.*\[18, 32\], not \[19, 32\]"):
        load_model(folder)


def test_quantiles_that_config_does_not_state_are_refused(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "m", quantile=True)
    change_config(folder, num_quantiles=None)
    with pytest.raises(ModelError, match=rf"\[{19 * QUANTILES}, 32\], not \[19, 32\]"):
        load_model(folder)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, "'LlamaForCausalLM' is not a reward model"),
        ({"architectures": None}, "'none' is not a reward model"),
        ({"num_objectives": 0}, "'num_objectives' is malformed"),
        ({"gating_temperature": "warm"}, "'gating_temperature' is malformed"),
        ({"objective_bias": [0.0]}, "'objective_bias' has 1 entries for 19"),
    ],
)
def test_a_bad_configuration_is_named(tmp_path: Path, entries: dict[str, object], message: str) -> None:
    folder = write_checkpoint(tmp_path / "m")
    change_config(folder, **entries)
    with pytest.raises(ModelError, match=message):
        load_model(folder)


def test_a_torn_file_is_named(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "m")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match=r"model\.safetensors: not a complete safetensors file"):
        load_model(folder)


@pytest.mark.parametrize("name", ["hf://somebody/some-model", "hf:/somebody/some-model"])
def test_a_name_on_the_hub_that_cannot_be_fetched_is_explained(name: str) -> None:
    with pytest.raises(ModelError, match="hf://somebody/some-model: cannot be downloaded from the Hub"):
        load_model(name)


@pytest.mark.parametrize("name", ["somebody/some-model", "runs/quickstart", "./x", "x/", "gpt2"])
def test_a_folder_that_is_not_there_is_never_looked_up_on_the_hub(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)  # a quickstart may have been run in the repository
    asked: list[str] = []
    monkeypatch.setattr("facetrm.hub.load.snapshot_download", lambda name, **_: asked.append(name))
    with pytest.raises(ModelError, match="no such model folder"):
        load_model(name)
    assert asked == []


def test_settings_are_for_models_of_others(checkpoint: Path, tmp_path: Path) -> None:
    load_model(checkpoint).save(tmp_path / "native")
    with pytest.raises(ModelError, match="'dtype' cannot be changed"):
        load_model(tmp_path / "native", settings={"dtype": "bfloat16"})
    assert load_model(checkpoint, settings={"max_tokens": 64}).encoder.spec()["max_tokens"] == 64
