"""Bidirectional encoders: what a row gives depends neither on its neighbours nor on padding; exact mode to the bit."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertModel,
    ModernBertConfig,
    ModernBertModel,
    PreTrainedModel,
    RobertaConfig,
    RobertaModel,
)

from facetrm.backbone.transformer import BackboneConfig, TransformerEncoder
from fakes import chat, tiny_encoder

SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "initializer_range": 0.2,
    "pad_token_id": 0,
}
SPECIAL = {"bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
TRUNKS = {
    "bert": lambda words: BertModel(BertConfig(**SHAPE, vocab_size=words, max_position_embeddings=128)),
    "modernbert, window of 8": lambda words: ModernBertModel(
        ModernBertConfig(**SHAPE, **SPECIAL, vocab_size=words, local_attention=8, global_attn_every_n_layers=2)
    ),
    "roberta, positions from the padding": lambda words: RobertaModel(
        RobertaConfig(**SHAPE | {"pad_token_id": 1}, vocab_size=words, max_position_embeddings=130)
    ),
}
ROWS = [chat(f"question {n % 4}, put at some length", "well " * (n % 5) + f"answer {n}") for n in range(10)]
ROWS += [chat("hi", "yes"), chat("one", "two", "three", "four", system="be brief")]


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory) -> Path:
    return tiny_encoder(tmp_path_factory.mktemp("pooling") / "bert")


@pytest.fixture(scope="module", params=list(TRUNKS))
def trunk(request: pytest.FixtureRequest, tokenizer_folder: Path) -> PreTrainedModel:
    torch.manual_seed(0)
    return TRUNKS[request.param](len(AutoTokenizer.from_pretrained(tokenizer_folder))).eval()


def encoder_of(trunk: PreTrainedModel, folder: Path, **settings: Any) -> TransformerEncoder:
    config = BackboneConfig(path="in memory", device="cpu", max_tokens=128, kind="encoder", **settings)
    return TransformerEncoder(trunk, AutoTokenizer.from_pretrained(folder), config=config)


def alone(trunk: PreTrainedModel, ids: tuple[int, ...], types: tuple[int, ...]) -> torch.Tensor:
    """The hidden states of one row as plain Transformers gives them, without padding and without a mask."""
    segments = {"token_type_ids": torch.tensor([types])} if isinstance(trunk, BertModel | RobertaModel) else {}
    with torch.no_grad():
        return trunk(input_ids=torch.tensor([ids]), **segments).last_hidden_state[0]


@pytest.mark.parametrize("budget", [1, 60, 10_000])
def test_batches_and_padding_change_no_mean(trunk, tokenizer_folder, budget):
    encoder = encoder_of(trunk, tokenizer_folder, token_budget=budget)
    features = encoder.encode(ROWS)
    for n, messages in enumerate(ROWS):
        row = encoder.tokenize(messages)
        prompt_D = alone(trunk, row.prompt_ids, row.prompt_types).mean(0)
        answer_D = alone(trunk, row.ids, row.types)[row.response_start : row.response_start + row.length].mean(0)
        assert torch.allclose(features.prompt_ND[n], prompt_D, atol=1e-5)
        assert torch.allclose(features.response_NAD[n, 0], answer_D, atol=1e-5)
    distances = torch.cdist(features.response_NAD[:, 0], features.response_NAD[:, 0])
    assert distances.fill_diagonal_(1).min() > 0.01


def test_exact_mode_gives_the_same_bits_in_every_grouping(trunk, tokenizer_folder):
    encoder = encoder_of(trunk, tokenizer_folder, mode="exact")
    expected = encoder.encode(ROWS)
    generator = random.Random(0)
    for _ in range(10):
        order = generator.sample(range(len(ROWS)), k=generator.randint(1, len(ROWS)))
        features = encoder.encode([ROWS[n] for n in order])
        assert torch.equal(features.prompt_ND, expected.prompt_ND[order])
        assert torch.equal(features.response_NAD, expected.response_NAD[order])


def test_a_device_is_waited_for_once_a_pass(trunk, tokenizer_folder, monkeypatch):
    encoder = encoder_of(trunk, tokenizer_folder)
    waits: list[int] = []
    cpu = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: waits.append(len(tensor)) or cpu(tensor))
    encoder.encode(ROWS)
    assert waits == [len({row[:-1] for row in ROWS}), len(ROWS)]
