from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from facetrm.backbone.transformer import BackboneConfig, load_encoder
from facetrm.core.config import parse_config
from facetrm.core.errors import BackboneError, ConfigError
from fakes import tiny_decoder, tiny_encoder


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return tiny_decoder(tmp_path_factory.mktemp("whole") / "decoder")


@pytest.fixture
def broken(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "broken"))


def config_edit(folder: Path, **changes) -> None:
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


def weights_edit(folder: Path, change) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def remove(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).unlink()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


QUERY = "model.layers.1.self_attn.q_proj.weight"
CASES = {
    "no config": (lambda f: remove(f, "config.json"), "no file 'config.json'", "save_pretrained"),
    "config not JSON": (lambda f: (f / "config.json").write_text("{"), "not JSON", "save_pretrained"),
    "config a list": (lambda f: (f / "config.json").write_text("[]"), "no 'model_type'", "save_pretrained"),
    "no architecture": (lambda f: config_edit(f, model_type=None), "no 'model_type'", "save_pretrained"),
    "unknown architecture": (lambda f: config_edit(f, model_type="lama"), "cannot be loaded .*lama", "save_pretrained"),
    "encoder-decoder": (lambda f: config_edit(f, model_type="t5"), "'t5' is an encoder-decoder", "a decoder or an"),
    "code of its own": (
        lambda f: config_edit(f, model_type="mine", auto_map={"AutoConfig": "mine.Config", "AutoModel": "mine.Model"}),
        "needs code that comes with the model",
        "trust_remote_code: true",
    ),
    "no weights": (lambda f: remove(f, "model.safetensors"), "no weights", "save_pretrained"),
    "truncated weights": (lambda f: cut(f / "model.safetensors"), "not a whole safetensors file", "copy it again"),
    "a tensor is missing": (
        lambda f: weights_edit(f, lambda t: t.pop(QUERY)),
        r"tensors missing: layers.1.self_attn.q_proj.weight",
        "belong to this config",
    ),
    "a tensor of another shape": (
        lambda f: weights_edit(f, lambda t: t.update({QUERY: torch.zeros(16, 32)})),
        r"tensors of another shape: layers.1.self_attn.q_proj.weight",
        "belong to this config",
    ),
    "an unknown tensor of the trunk": (
        lambda f: weights_edit(f, lambda t: t.update({"model.layers.1.self_attn.q_proj.bias": torch.zeros(32)})),
        "unknown to the architecture: .*q_proj.bias",
        "belong to this config",
    ),
    "fewer layers than weights": (
        lambda f: config_edit(f, num_hidden_layers=1),
        r"unknown to the architecture: .* and 6 more",
        "belong to this config",
    ),
    "no tokenizer": (lambda f: remove(f, "tokenizer.json"), "no tokenizer", "save the tokenizer"),
    "tokenizer not JSON": (lambda f: (f / "tokenizer.json").write_text("?"), "cannot be loaded", "save_pretrained"),
    "more tokens than embeddings": (
        lambda f: (
            config_edit(f, vocab_size=200),
            weights_edit(
                f, lambda t: t.update({k: t[k][:200].clone() for k in ("model.embed_tokens.weight", "lm_head.weight")})
            ),
        ),
        "the tokenizer produces ids up to 259, the model has 200",
        "saved with this model",
    ),
    "no template": (
        lambda f: remove(f, "chat_template.jinja"),
        "no chat template",
        "backbone.template to a Jinja file, or to plain",
    ),
    "a template that is no template": (
        lambda f: (f / "chat_template.jinja").write_text("{% for %}"),
        "the chat template cannot be read",
        "backbone.template",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_malformed_folder_names_itself_and_the_fix(broken, case):
    spoil, problem, fix = CASES[case]
    spoil(broken)
    with pytest.raises(BackboneError, match=f"(?s){problem}") as caught:
        load_encoder(BackboneConfig(path=str(broken)))
    assert str(broken) in str(caught.value) or "chat template" in caught.value.place
    assert fix in caught.value.fix


def test_a_whole_folder_loads_after_all_that(broken):
    assert load_encoder(BackboneConfig(path=str(broken))).hidden_size == 32


def test_heads_beside_the_trunk_are_left_out(broken):
    weights_edit(broken, lambda t: t.update({"score.weight": torch.zeros(1, 32), "gating.x": torch.zeros(2)}))
    assert load_encoder(BackboneConfig(path=str(broken))).kind == "decoder"


@pytest.mark.parametrize(
    ("settings", "problem", "fix"),
    [
        ({"path": "./nowhere"}, "nowhere: no such folder", "config.json"),
        ({"path": "{whole}/config.json"}, "config.json: no such folder", "config.json"),
        ({"path": "nobody/no-such-model"}, "no-such-model: cannot be loaded", "Hub"),
        ({"device": "abacus"}, "device 'abacus' is not there", "device: auto"),
        ({"max_tokens": 9999}, "max_tokens 9999 is above the 512 positions", "to 512 or less"),
        ({"template": "/no/such.jinja"}, "no such template", "the name plain"),
        ({"path": "{bert}", "template": "plain"}, "an encoder reads plain text", "remove backbone.template"),
    ],
)
def test_a_wrong_setting_names_its_value_and_the_fix(whole, tmp_path, settings, problem, fix):
    settings = {"path": "{whole}", **settings}
    bert = tiny_encoder(tmp_path / "bert") if settings["path"] == "{bert}" else ""
    settings["path"] = settings["path"].format(whole=whole, bert=bert)
    with pytest.raises(BackboneError, match=problem) as caught:
        load_encoder(BackboneConfig(**settings))
    assert fix in caught.value.fix


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"kind": "both"}, r"'kind' is 'both'.*'decoder'"),
        ({"max_tokens": 1}, "'max_tokens' is 1"),
        ({"token_budget": 0}, "'token_budget' is 0"),
        ({"truncation": "left"}, r"'truncation' is 'left'.*'drop_oldest'"),
        ({"date": "{{ x }}"}, "write a date in letters"),
        ({"dtyp": "float32"}, "unknown setting 'dtyp'.*did you mean 'dtype'"),
    ],
)
def test_a_wrong_section_is_a_config_error(settings, problem):
    with pytest.raises(ConfigError, match=f"recipe.yaml: .*{problem}"):
        parse_config(BackboneConfig, {"path": "x", **settings}, place="recipe.yaml")
