"""Gemma 2 caps its attention's products; an attention that drops the cap gives plausible, wrong features."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import Gemma2Config, Gemma2Model
from transformers.models.gemma2.modeling_gemma2 import Gemma2PreTrainedModel

from facetrm.backbone.transformer import BackboneConfig, load_encoder
from fakes import chat, tiny_tokenizer


def test_the_cap_is_kept_whatever_attention_transformers_would_choose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = tiny_tokenizer("gemma")
    config = Gemma2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=512,
        query_pre_attn_scalar=8,
        attn_logit_softcapping=1.0,
        initializer_range=0.3,
    )
    torch.manual_seed(0)
    Gemma2Model(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    monkeypatch.setattr(Gemma2PreTrainedModel, "_supports_sdpa", True)  # as Transformers 5.0 has it
    encoder = load_encoder(BackboneConfig(path=str(tmp_path), device="cpu", mode="exact"))
    row = chat("hi", "a longer answer, in which attention has something to choose from")
    ids = torch.tensor([encoder.tokenize(row).ids])
    capped = Gemma2Model.from_pretrained(tmp_path, attn_implementation="eager").eval()
    with torch.no_grad():
        want = capped(ids, use_cache=False).last_hidden_state[0, -1]
        capped.config.attn_logit_softcapping = None
        for layer in capped.layers:
            layer.self_attn.attn_logit_softcapping = None
        without = capped(ids, use_cache=False).last_hidden_state[0, -1]
    found = encoder.encode([row]).response_NAD[0, 0]
    assert torch.allclose(found, want, atol=1e-5)
    assert (without - want).abs().max() > 0.05
