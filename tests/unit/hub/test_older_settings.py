"""Exports name their settings as Transformers 4 reads them; it ignores the names of Transformers 5 without a word."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, LlamaConfig

from facetrm import export_published, toy_model
from facetrm.hub.export import older_positions


def test_an_export_names_its_base_and_its_special_tokens_for_both_versions(tmp_path: Path) -> None:
    model = toy_model()
    model.encoder.model.config.rope_parameters["rope_theta"] = 123456.0  # type: ignore[attr-defined]
    folder = export_published(model, tmp_path / "exported")
    config = json.loads((folder / "config.json").read_text())
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == 123456.0
    assert config["rope_scaling"] is None
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    assert settings["additional_special_tokens"] == ["<system>", "<user>", "<assistant>"]
    assert "extra_special_tokens" not in settings
    assert set(settings["additional_special_tokens"]) <= set(AutoTokenizer.from_pretrained(folder).all_special_tokens)
    loaded = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True, dtype=torch.float32)
    assert loaded.config.rope_parameters == {"rope_theta": 123456.0, "rope_type": "default"}


def test_scaling_survives_in_both_versions() -> None:
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaling["original_max_position_embeddings"] = 8192
    new = LlamaConfig(rope_parameters={**scaling, "rope_theta": 500000.0}).to_dict()
    older = older_positions(new)
    assert older == {"rope_theta": 500000.0, "rope_scaling": scaling}
    old = {name: value for name, value in new.items() if name != "rope_parameters"}
    assert LlamaConfig(**old, **older).rope_parameters == new["rope_parameters"]
    assert LlamaConfig(**new, **older).rope_parameters == new["rope_parameters"]


@pytest.mark.parametrize(
    ("settings", "older"),
    [
        ({}, {}),
        (
            {"model_type": "gpt_neox", "rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.25}},
            {
                "rope_theta": 1e4,
                "rope_scaling": None,
                "partial_rotary_factor": 0.25,
                "rotary_emb_base": 1e4,
                "rotary_pct": 0.25,
            },
        ),
        (
            {"rope_parameters": {"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}}},
            {"rope_theta": 1e6, "rope_scaling": None, "rope_local_base_freq": 1e4},
        ),
    ],
)
def test_other_families(settings: dict[str, object], older: dict[str, object]) -> None:
    assert older_positions(settings) == older
