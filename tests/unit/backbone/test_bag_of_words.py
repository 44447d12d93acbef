from __future__ import annotations

import math

import pytest
import torch

from facetrm.backbone.encoder import Encoder
from facetrm.backbone.store import encode
from facetrm.backbone.words import BagOfWords, split_words
from facetrm.core.errors import BackboneError, ConfigError
from fakes import chat

ROWS = [
    chat("the cat", "The CAT sat, the cat"),
    chat("a dog", "no"),
    chat("one", "two", "the", "cat", system="the dog"),
]


def test_the_vectors_are_log_counts():
    encoder = BagOfWords(["the", "cat", "dog"])
    assert isinstance(encoder, Encoder)
    features = encoder.encode(ROWS)
    one, two = math.log(2), math.log(3)
    assert torch.allclose(features.prompt_ND[0], torch.tensor([one, one, 0, 0, 0, 0]))
    assert torch.allclose(features.response_NAD[0, 0], torch.tensor([one, one, 0, two, two, 0]))
    assert torch.allclose(features.response_NAD[2, 0], torch.tensor([two, 0, one, 0, one, 0]))
    assert features.length_N.tolist() == [6, 1, 1]
    assert features.tokens_N.tolist() == [8, 3, 6]
    assert encoder.hidden_size == 6
    assert len(encoder.encode([])) == 0


def test_fit_takes_the_words_of_most_conversations():
    # the: 2 conversations, cat: 2, dog: 2 (ties in alphabetical order), all others 1
    assert BagOfWords.fit(ROWS, size=3).spec() == {"kind": "bag_of_words", "vocabulary": ["cat", "dog", "the"]}
    assert BagOfWords.fit(iter(ROWS), size=100).hidden_size == 2 * len(
        {w for r in ROWS for m in r for w in split_words(m.content)}
    )


def test_hashed_words_need_no_vocabulary():
    encoder = BagOfWords(1000)
    features = encoder.encode([chat("alpha", "beta beta"), chat("alpha", "gamma")])
    assert features.response_NAD.shape == (2, 1, 2000)
    assert features.prompt_ND.count_nonzero(dim=1).tolist() == [1, 1]
    assert torch.equal(features.prompt_ND[0], features.prompt_ND[1])
    assert not torch.equal(features.response_NAD[0], features.response_NAD[1])


def test_specs_and_fingerprints():
    fitted = BagOfWords.fit(ROWS, size=4)
    again = BagOfWords.from_spec(fitted.spec())
    assert again.fingerprint == fitted.fingerprint
    assert BagOfWords.from_spec(BagOfWords(7).spec()).hidden_size == 14
    assert len({fitted.fingerprint, BagOfWords(4).fingerprint, BagOfWords.fit(ROWS, size=3).fingerprint}) == 3


def test_through_the_store(tmp_path):
    encoder = BagOfWords.fit(ROWS)
    features = encode(encoder, ROWS, tmp_path / "f").features(ROWS[::-1])
    assert torch.equal(features.response_NAD, encoder.encode(ROWS[::-1]).response_NAD)


def test_errors():
    with pytest.raises(ConfigError, match="no words to count"):
        BagOfWords([])
    with pytest.raises(ConfigError, match="'a' is given twice"):
        BagOfWords(["a", "b", "a"])
    with pytest.raises(ConfigError, match="not a list of words"):
        BagOfWords.from_spec({"vocabulary": "abc"})
    with pytest.raises(BackboneError, match="conversation 1: no prompt"):
        BagOfWords(["a"]).encode([ROWS[0], ROWS[0][:1]])
