"""One of our models that reads less of long conversations: what fits is scored alike, and nothing else may change."""

from __future__ import annotations

from pathlib import Path

import pytest

from facetrm import load_model
from facetrm.core.errors import BackboneError, ConfigError, ModelError
from facetrm.hub.load import _shortened
from facetrm.model.reward_model import RewardModel
from fakes import HashEncoder, chat
from gated_models import SIZE, mixture, model
from published_samples import ROWS

LONG = chat("word " * 600, "an answer at the end")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("native")
    model(place / "backbone-of-its-own").save(place / "model", backbone="copy")
    return place / "model"


def test_what_fits_is_scored_alike_and_what_does_not_is_cut_and_said(folder: Path) -> None:
    whole = load_model(folder, device="cpu")
    shorter = load_model(folder, device="cpu", settings={"truncation": "drop_oldest", "max_tokens": 500})
    assert [s.reward for s in shorter.score(ROWS)] == [s.reward for s in whole.score(ROWS)]
    with pytest.raises(BackboneError):
        whole.score([LONG])
    (cut,) = shorter.score([LONG])
    assert cut.truncated
    assert shorter.encoder.shortening == {"truncation": "drop_oldest", "max_tokens": 500}
    assert shorter.mixture().names == whole.mixture().names
    assert shorter.provenance == whole.provenance


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        ({"dtype": "bfloat16"}, ModelError, "'dtype' cannot be changed"),
        ({"truncation": "drop_oldest", "layer": 1}, ModelError, "'layer' cannot be changed"),
        ({"max_tokens": 100_000}, BackboneError, "max_tokens is 100000"),
        ({"max_tokens": 1}, (BackboneError, ConfigError), "max_tokens"),
        ({"truncation": "middle"}, ConfigError, "truncation"),
    ],
)
def test_nothing_else_may_change(settings: dict[str, object], error: type[Exception], said: str, folder: Path) -> None:
    with pytest.raises(error, match=said):
        load_model(folder, device="cpu", settings=settings)


def test_an_encoder_that_cannot_read_less_is_an_error_that_says_so(tmp_path: Path) -> None:
    hashed = RewardModel(HashEncoder(SIZE), {"all": mixture()})
    with pytest.raises(ModelError, match="a HashEncoder has no token limit"):
        _shortened(hashed, {"max_tokens": 10}, tmp_path)
