"""An encoder that reads less of long conversations, on the same trunk: what fits is read alike."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from adapter_samples import ROWS
from facetrm.backbone.transformer import BackboneConfig, TransformerEncoder, load_encoder
from facetrm.core.errors import BackboneError
from fakes import chat, tiny_decoder

LONG = chat("word " * 150, "an answer at the end")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> TransformerEncoder:
    folder = tiny_decoder(tmp_path_factory.mktemp("shortened") / "llama")
    return load_encoder(BackboneConfig(path=str(folder), device="cpu", mode="exact"))


def test_what_fits_is_read_alike_and_what_does_not_is_cut(encoder: TransformerEncoder):
    with pytest.raises(BackboneError, match="above the limit of 512"):
        encoder.encode([LONG])
    shorter = encoder.shortened(truncation="drop_oldest")
    assert shorter.model is encoder.model
    assert torch.equal(shorter.encode(ROWS).response_NAD, encoder.encode(ROWS).response_NAD)
    assert shorter.encode([LONG]).truncated_N.tolist() == [True]
    assert int(shorter.shortened(max_tokens=64).encode([LONG]).tokens_N) <= 64


def test_it_says_what_differs_from_the_encoder_as_it_was_made(encoder: TransformerEncoder):
    assert encoder.shortening == {}
    assert encoder.shortened().shortening == {}
    assert encoder.shortened().fingerprint == encoder.fingerprint
    shorter = encoder.shortened(truncation="drop_oldest", max_tokens=100)
    assert shorter.shortening == {"truncation": "drop_oldest", "max_tokens": 100}
    assert shorter.fingerprint != encoder.fingerprint
    again = shorter.shortened(max_tokens=80)
    assert again.shortening == {"truncation": "drop_oldest", "max_tokens": 80}
    assert again.shortened(truncation="error").shortening == {"max_tokens": 80}


def test_it_cannot_read_more_than_the_model_was_made_to(encoder: TransformerEncoder, tmp_path: Path):
    for tokens in (513, 1, 0, -3):
        with pytest.raises(BackboneError, match=rf"max_tokens is {tokens}, .*at most 512; give 2 to 512"):
            encoder.shortened(max_tokens=tokens)
    with pytest.raises(BackboneError, match="at most 100"):
        encoder.shortened(max_tokens=100).shortened(max_tokens=101)
