"""A window that only the mask knows, two threads on one trunk, and weights that changed: nothing goes unnoticed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import transformers as tf

from facetrm.backbone.transformer import BackboneConfig, load_encoder
from fakes import chat, tiny_decoder, tiny_tokenizer

SHAPE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
WINDOWED = {
    "phimoe": tf.PhimoeConfig(**SHAPE, num_key_value_heads=2, num_local_experts=4, sliding_window=16),
    "mistral": tf.MistralConfig(**SHAPE, num_key_value_heads=2, sliding_window=16),
}


@pytest.mark.parametrize("name", WINDOWED)
def test_fast_mode_follows_a_window_or_does_not_pack(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer, config = tiny_tokenizer("llama3"), WINDOWED[name]
    config.vocab_size, config.max_position_embeddings, config.initializer_range = len(tokenizer), 512, 0.3
    torch.manual_seed(0)
    tf.AutoModel.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    rows = [
        chat("a question that is longer than the window is wide", f"answer {n} " + "and so on " * 6) for n in range(3)
    ]
    fast, exact = (
        load_encoder(BackboneConfig(path=str(tmp_path), device="cpu", mode=mode)).encode(rows).response_NAD
        for mode in ("fast", "exact")
    )
    assert torch.allclose(fast, exact, atol=1e-4)
    said = "the layers do not pass a window of 16 tokens on" in capsys.readouterr().err
    assert said == (name == "phimoe")


def test_two_threads_read_with_one_encoder(tmp_path: Path) -> None:
    encoder = load_encoder(BackboneConfig(path=str(tiny_decoder(tmp_path)), device="cpu"))
    rows = [[chat(f"question {n} {k}", f"answer {'x' * k}") for k in range(6)] for n in range(8)]
    want = [encoder.encode(part).response_NAD for part in rows]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda part: encoder.encode(part).response_NAD, rows))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, want, strict=True))
    assert encoder.model.config._attn_implementation == "sdpa"


def test_the_fingerprint_follows_the_weights(tmp_path: Path) -> None:
    encoder = load_encoder(BackboneConfig(path=str(tiny_decoder(tmp_path)), device="cpu"))
    names = [encoder.fingerprint]
    for parameter in encoder.model.parameters():
        parameter.data.add_(0.01)
    names.append(encoder.fingerprint)
    encoder.model.to(torch.bfloat16)
    names.append(encoder.fingerprint)
    assert len(set(names)) == 3
    assert encoder.fingerprint == names[2]
