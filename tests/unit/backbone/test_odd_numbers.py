"""Numbers in the files of others that JSON cannot hold, or that stand there as text."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import transformers as tf

from facetrm.backbone.config import BackboneConfig
from facetrm.backbone.lora.adapters import CONFIG_FILE, LoraSettings
from facetrm.backbone.store import FeatureStore, encode
from facetrm.backbone.transformer import TransformerEncoder, load_encoder
from facetrm.core.errors import BackboneError
from fakes import chat, tiny_decoder, tiny_tokenizer

ROW = chat("is it so?", "yes")


def changed(folder: Path, file: str, **values: Any) -> BackboneConfig:
    path = tiny_decoder(folder / "m") / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    return BackboneConfig(path=str(folder / "m"), device="cpu")


@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("nested", [False, True])
def test_a_config_with_a_number_that_is_not_finite_is_read(tmp_path: Path, number: float, nested: bool):
    value: Any = {"a": [1, {"b": number}]} if nested else [0.0, number]
    encoder = load_encoder(changed(tmp_path, "config.json", time_step_limit=value))
    plain = load_encoder(BackboneConfig(path=str(tiny_decoder(tmp_path / "plain")), device="cpu"))
    assert encoder.fingerprint not in ("", plain.fingerprint)
    assert load_encoder(encoder.save_backbone(tmp_path / "copy")).fingerprint == encoder.fingerprint
    encode(encoder, [ROW], tmp_path / "f", quiet=True)
    assert FeatureStore(tmp_path / "f", encoder=encoder).fingerprint == encoder.fingerprint


def test_state_space_models_are_encoded(tmp_path: Path):
    tokenizer = tiny_tokenizer("chatml")
    config = tf.Mamba2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        state_size=8,
        num_hidden_layers=1,
        num_heads=4,
        head_dim=16,
        n_groups=1,
        chunk_size=8,
    )
    assert any(math.isinf(x) for x in config.time_step_limit)
    read = BackboneConfig(path="mamba", max_tokens=64)
    encoder = TransformerEncoder(tf.Mamba2Model(config).eval(), tokenizer, config=read)
    assert len(encode(encoder, [ROW], tmp_path / "f", quiet=True)) == 1


@pytest.mark.parametrize(("stated", "tokens"), [("64", 64), (" 64 ", 64), ("6.4e1", 64), ("1e30", 512), ("inf", 512)])
def test_a_limit_that_stands_as_text_is_read(tmp_path: Path, stated: str, tokens: int):
    encoder = load_encoder(changed(tmp_path, "tokenizer_config.json", model_max_length=stated))
    assert encoder.max_tokens == tokens
    assert encoder.encode([ROW]).length_N.tolist() == [4]


@pytest.mark.parametrize("stated", ["lots", "", True, [512], {"tokens": 512}, "x" * 10_000])
def test_a_limit_that_is_no_number_is_refused(tmp_path: Path, stated: Any):
    config = changed(tmp_path, "tokenizer_config.json", model_max_length=stated)
    with pytest.raises(
        BackboneError, match=r"tokenizer_config\.json: model_max_length is .*not a number; write"
    ) as raised:
        load_encoder(config)
    assert len(str(raised.value)) < 400


@pytest.mark.parametrize("alpha", [math.inf, math.nan])
def test_an_adapter_whose_scale_is_not_finite_is_refused(tmp_path: Path, alpha: float):
    encoder = load_encoder(BackboneConfig(path=str(tiny_decoder(tmp_path / "m")), device="cpu"))
    encoder.add_adapter("one", LoraSettings(rank=2))
    encoder.save_adapter("one", tmp_path / "one")
    path = tmp_path / "one" / CONFIG_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), "lora_alpha": alpha}))
    with pytest.raises(BackboneError, match=rf"{CONFIG_FILE}: the scale of 'layers.0.* is (inf|nan); write"):
        encoder.add_adapter("two", tmp_path / "one")
    assert encoder.adapters == ("one",)
