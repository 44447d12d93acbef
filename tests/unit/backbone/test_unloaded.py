"""A backbone without its weights counts as the loaded one does."""

from __future__ import annotations

from pathlib import Path

import pytest

from facetrm.backbone.config import BackboneConfig
from facetrm.backbone.transformer import load_encoder
from facetrm.backbone.unloaded import read_unloaded
from facetrm.core.errors import BackboneError
from facetrm.data.records import conversation
from own_files import questions, save_backbone, turns


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_backbone(tmp_path_factory.mktemp("unloaded") / "backbone")


def test_tokens_parameters_and_limit_are_those_of_the_loaded_backbone(folder: Path) -> None:
    config = BackboneConfig(path=str(folder), device="cpu")
    found, encoder = read_unloaded(config), load_encoder(config)
    for q in questions(4):
        said = conversation(turns(q.question, q.better))
        assert found.count(said) == len(encoder.tokenize(said).ids)
    assert found.max_tokens == encoder.max_tokens == 64
    assert found.parameters == sum(p.numel() for p in encoder.model.parameters())


def test_a_conversation_above_the_limit_is_counted_whole(folder: Path) -> None:
    found = read_unloaded(BackboneConfig(path=str(folder)))
    assert found.count(conversation(turns("question ?", "kite " * 300))) > 300


def test_the_weights_are_never_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.AutoModel.from_pretrained", lambda *_, **__: pytest.fail("weights were read"))
    assert read_unloaded(BackboneConfig(path=str(folder))).max_tokens == 64


def test_what_cannot_be_read_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match="nowhere: no such folder"):
        read_unloaded(BackboneConfig(path="nowhere"))
    (tmp_path / "model.safetensors").write_bytes(b"x")
    with pytest.raises(BackboneError, match=str(tmp_path)):
        read_unloaded(BackboneConfig(path=str(tmp_path)))
    with pytest.raises(BackboneError, match="no such template"):
        read_unloaded(BackboneConfig(path=str(folder), template="nowhere.jinja"))
