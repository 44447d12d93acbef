"""The share of unknown tokens: in each row read, in features on disk, in each score, and said once a call."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import gated_models
from facetrm.backbone.config import BackboneConfig
from facetrm.backbone.encoder import Features
from facetrm.backbone.shards import Manifest, to_features
from facetrm.backbone.store import FeatureStore, encode
from facetrm.backbone.tiny import TinyShape, tiny_decoder
from facetrm.backbone.transformer import TransformerEncoder, load_encoder
from facetrm.backbone.words import BagOfWords
from facetrm.model.reward_model import RewardModel
from fakes import chat, tiny_encoder
from fakes import tiny_decoder as byte_decoder

KNOWN = chat("alpha beta gamma", "delta alpha")
HALF = chat("alpha zzz beta yyy", "xxx delta www gamma")
STRANGE = chat("one two three four five", "six seven eight nine ten eleven")


@pytest.fixture(scope="module")
def words() -> TransformerEncoder:
    shape = TinyShape(hidden=32, layers=2, heads=4, inner=48)
    model, tokenizer = tiny_decoder(["alpha", "beta", "gamma", "delta"], shape=shape)
    return TransformerEncoder(model, tokenizer, config=BackboneConfig(path="tiny"))


def share(encoder: TransformerEncoder, row: Any) -> float:
    ids = encoder.tokenize(row).ids
    return ids.count(encoder.tokenizer.unk_token_id) / len(ids)


def test_each_row_says_how_much_of_it_is_unknown(words: TransformerEncoder):
    rows = [KNOWN, HALF, STRANGE]
    expected = [share(words, row) for row in rows]
    assert expected[0] == 0 < expected[1] < expected[2] < 1
    assert [words.tokenize(row).unknown for row in rows] == expected
    assert words.encode(rows).unknown_N.tolist() == pytest.approx(expected)
    assert words.encode(rows, adapters=None).select(torch.tensor([2, 0])).unknown_N.tolist() == pytest.approx(
        [expected[2], 0.0]
    )


def test_above_a_tenth_the_log_says_so_once_a_call(words: TransformerEncoder, capsys: pytest.CaptureFixture[str]):
    words.encode([KNOWN] * 3)
    assert capsys.readouterr().err == ""
    words.encode([KNOWN, HALF, STRANGE, HALF])
    (line,) = capsys.readouterr().err.splitlines()
    said = json.loads(line)
    assert (said["rows"], said["of"], said["limit"]) == (3, 4, 0.1)
    assert said["most"] == pytest.approx(share(words, STRANGE), abs=1e-3)


def test_a_score_says_how_much_of_its_row_is_unknown(words: TransformerEncoder):
    model = RewardModel(words, {"all": gated_models.mixture()})
    scores = model.score([KNOWN, STRANGE])
    assert [score.unknown for score in scores] == pytest.approx([0, share(words, STRANGE)])
    assert scores[1].to_dict()["unknown"] == scores[1].unknown
    assert "settings" not in scores[1].to_dict()


def test_a_score_says_which_settings_were_shortened(words: TransformerEncoder):
    mixtures = {"all": gated_models.mixture()}
    shorter = words.shortened(truncation="drop_oldest", max_tokens=10)
    (score,) = RewardModel(shorter, mixtures).score([STRANGE])
    assert score.truncated
    assert score.to_dict()["settings"] == {"truncation": "drop_oldest", "max_tokens": 10}


def test_byte_tokenizers_know_every_word(tmp_path: Path):
    encoder = load_encoder(BackboneConfig(path=str(byte_decoder(tmp_path / "bytes")), device="cpu"))
    assert encoder.tokenize(STRANGE).unknown == 0
    encoder.tokenizer.unk_token = encoder.tokenizer.eos_token  # as tokenizers of GPT-2's kind have it
    assert encoder.tokenizer.eos_token_id in encoder.tokenize(STRANGE).ids
    assert encoder.tokenize(STRANGE).unknown == 0


def test_a_bidirectional_encoder_says_it_too(tmp_path: Path):
    encoder = load_encoder(BackboneConfig(path=str(tiny_encoder(tmp_path / "bert")), device="cpu"))
    row = chat("\u4e2d", "\u6587 \u5b57")
    assert encoder.tokenize(row).unknown == pytest.approx(share(encoder, row))
    assert encoder.tokenize(row).unknown > 0.3


def test_features_on_disk_keep_it_and_older_ones_read_as_known(words: TransformerEncoder, tmp_path: Path):
    rows = [KNOWN, HALF, STRANGE]
    store = encode(words, rows, tmp_path / "f", quiet=True)
    assert store.features(rows).unknown_N.tolist() == pytest.approx([share(words, row) for row in rows])
    (_, features), *_ = FeatureStore(tmp_path / "f").shards()
    old = {
        "prompt": features.prompt_ND,
        "response": features.response_NAD,
        "length": features.length_N,
        "tokens": features.tokens_N,
        "truncated": features.truncated_N,
    }
    assert to_features(old).unknown_N.tolist() == [0, 0, 0]
    assert len(Manifest.read(tmp_path / "f").shards) == 1


def test_features_without_it_are_of_known_words():
    none = torch.zeros(2, dtype=torch.int64)
    features = Features(torch.zeros(2, 4), torch.zeros(2, 1, 4), none, none, none.bool())
    assert features.unknown_N.tolist() == [0, 0]
    assert Features.concat([features, features]).unknown_N.shape == (4,)


def test_words_that_a_bag_does_not_count_are_unknown():
    assert BagOfWords(["alpha", "beta"]).encode([chat("alpha zzz", "beta yyy")]).unknown_N.tolist() == [0.5]
    assert BagOfWords(64).encode([STRANGE]).unknown_N.tolist() == [0]
