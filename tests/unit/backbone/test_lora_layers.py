"""Adapters of some layers: named in three ways, refused where the trunk has no such layers, read by and from PEFT."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from facetrm.backbone.lora.adapters import LoraSettings, adapter_tensors, add_adapter
from facetrm.backbone.lora.switching import adapter_names, first_layer
from facetrm.backbone.transformer import BackboneConfig, load_encoder
from facetrm.core.errors import BackboneError
from fakes import chat, tiny_decoder


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return tiny_decoder(tmp_path_factory.mktemp("layers") / "llama")


@pytest.mark.parametrize(
    ("layers", "expected"), [("last 1", {1}), ("last 2", {0, 1}), ("0-0", {0}), ("all", {0, 1}), (None, {0, 1})]
)
def test_an_adapter_stands_in_the_layers_that_are_named(base, layers, expected):
    encoder = load_encoder(BackboneConfig(path=str(base)))
    add_adapter(encoder.model, LoraSettings(rank=2, layers=layers), seed=0)
    keys = adapter_tensors(encoder.model)
    assert {int(key.split(".")[1]) for key in keys} == expected
    assert {key.split(".")[3] for key in keys} == {f"{p}_proj" for p in ("q", "k", "v", "o", "up", "down", "gate")}
    assert first_layer(encoder.model, ["default"]) == min(expected)


@pytest.mark.parametrize("layers", ["last 3", "1-2", "1-0", "last 0"])
def test_layers_that_a_trunk_does_not_have_are_an_error(base, layers):
    encoder = load_encoder(BackboneConfig(path=str(base)))
    with pytest.raises(BackboneError, match=rf"'{layers}' does not select layers of a LlamaModel with layers 0 to 1"):
        add_adapter(encoder.model, LoraSettings(rank=2, layers=layers), seed=0)
    assert adapter_names(encoder.model) == ()


@pytest.mark.parametrize("layers", ["upper", "last", "last -1", "3", ""])
def test_layers_are_named_in_three_ways(layers):
    with pytest.raises(ValueError, match="names no layers: write all, last 8, or 8-15"):
        LoraSettings(layers=layers)


def test_peft_reads_an_adapter_of_some_layers_and_one_of_a_whole_model_is_read(base, tmp_path):
    encoder = load_encoder(BackboneConfig(path=str(base)))
    encoder.add_adapter("math", LoraSettings(rank=2, layers="last 1"))
    encoder.save_adapter("math", tmp_path / "ours")
    ours = json.loads((tmp_path / "ours" / "adapter_config.json").read_text())
    assert ours["layers_to_transform"] == [1]
    # As PEFT writes one of a model with a head: the path of a layer begins with more than the list's name.
    whole = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=2, target_modules=["q_proj"], layers_to_transform=[1])
    )
    torch.nn.init.normal_(whole.base_model.model.model.layers[1].self_attn.q_proj.lora_B["default"].weight)
    whole.save_pretrained(tmp_path / "theirs")
    encoder.add_adapter("theirs", tmp_path / "theirs")
    assert first_layer(encoder.model, ["theirs"]) == 1
    rows = [chat("what is it", "a thing")]
    with torch.no_grad():
        states = whole(torch.tensor([encoder.tokenize(rows[0]).ids]), output_hidden_states=True).hidden_states[-1][
            0, -1
        ]
    read = encoder.encode(rows, adapters=["theirs"]).response_NAD[0, 0]
    assert (read - states).abs().max() < 1e-5
    assert (read - encoder.encode(rows).response_NAD[0, 0]).abs().max() > 0.01
