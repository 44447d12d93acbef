"""Features of inner layers on disk: a folder knows them, gives those that are asked for, and resumes after a crash."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from adapter_samples import ROWS, worst
from facetrm.backbone.encoder import Features
from facetrm.backbone.store import FeatureStore, encode
from facetrm.backbone.transformer import BackboneConfig, TransformerEncoder, load_encoder
from facetrm.core.errors import BackboneError, StoreError
from fakes import HashEncoder, tiny_decoder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> TransformerEncoder:
    folder = tiny_decoder(tmp_path_factory.mktemp("stored") / "llama")
    return load_encoder(BackboneConfig(path=str(folder), device="cpu"))


def test_the_store_keeps_all_layers_and_gives_those_that_are_asked_for(encoder, tmp_path):
    store = encode(encoder, ROWS, tmp_path / "f", layers=[1, "last"], shard_rows=4, quiet=True)
    assert (store.layers, store.folder) == ((1, "last"), tmp_path / "f")
    wanted = encoder.encode(ROWS, layers=[1, "last"])
    found = store.features(ROWS)
    assert found.layers == (1, "last")
    assert worst(found, wanted) < 1e-5
    assert store.features([]).layers == (1, "last")
    # A run that wants fewer of the layers finds them here, and no row is read again.
    for layers, named in (([1], (1,)), (["last"], ()), (None, ())):
        part = encode(encoder, ROWS, tmp_path / "f", layers=layers, quiet=True)
        assert (part.folder, part.layers) == (tmp_path / "f", named)
        vectors = part.features(ROWS)
        assert vectors.layers == named
        assert torch.equal(vectors.response(), found.response(1 if layers == [1] else "last"))
    more = encode(encoder, [*ROWS, ROWS[0][:1] + ROWS[1][1:]], tmp_path / "f", quiet=True)
    assert more.manifest.layers == (1, "last"), "new rows are read at all layers of the store"
    assert FeatureStore(tmp_path / "f", encoder=encoder).layers == (1, "last")


def test_a_store_of_other_layers_is_left_alone(encoder, tmp_path):
    plain = encode(encoder, ROWS[:3], tmp_path / "f", quiet=True)
    manifest = json.loads((tmp_path / "f" / "manifest.json").read_text())
    assert "layers" not in manifest, "as before there were layers"
    both = encode(encoder, ROWS[:5], tmp_path / "f", layers=[1, 2], quiet=True)
    assert both.folder.parent == plain.folder
    assert (len(plain), len(both)) == (3, 5)
    assert len(encode(encoder, ROWS[:4], tmp_path / "f", quiet=True)) == 4
    assert FeatureStore(tmp_path / "f", encoder=encoder, layers=[1]).folder == both.folder
    assert FeatureStore(tmp_path / "f", encoder=encoder, layers=["last"]).folder == plain.folder
    with pytest.raises(StoreError, match="holds features of 2 encoders, and 2 of them match"):
        FeatureStore(tmp_path / "f", encoder=encoder)
    with pytest.raises(StoreError, match="read at layer last, not at layer 1"):
        FeatureStore(encode(encoder, ROWS[:3], tmp_path / "g", quiet=True).folder, layers=[1])


def test_encoding_of_layers_goes_on_after_a_crash_with_the_same_bytes(encoder, tmp_path, monkeypatch):
    def shards(folder: Path) -> list[bytes]:
        return [path.read_bytes() for path in sorted(folder.glob("*.safetensors"))]

    whole = encode(encoder, ROWS, tmp_path / "whole", layers=[1, "last"], shard_rows=5, quiet=True)
    plain, left = TransformerEncoder.encode, [2]

    def stopping(self, *args, **kwargs) -> Features:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return plain(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(TransformerEncoder, "encode", stopping)
        with pytest.raises(KeyboardInterrupt):
            encode(encoder, ROWS, tmp_path / "f", layers=[1, "last"], shard_rows=5, quiet=True)
    assert 0 < len(FeatureStore(tmp_path / "f")) < len(whole)
    encode(encoder, ROWS, tmp_path / "f", layers=[1, "last"], shard_rows=5, quiet=True)
    assert shards(tmp_path / "f") == shards(tmp_path / "whole")


def test_layers_that_cannot_be_stored_are_refused(encoder, tmp_path):
    with pytest.raises(BackboneError, match="layer 9, of a trunk of 2 layers"):
        encode(encoder, ROWS, tmp_path / "f", layers=[9], quiet=True)
    with pytest.raises(StoreError, match="a HashEncoder reads only its last layer"):
        encode(HashEncoder(8), ROWS, tmp_path / "f", layers=[1], quiet=True)
    assert len(encode(HashEncoder(8), ROWS, tmp_path / "h", layers=["last"], quiet=True)) == len(set(ROWS))
    encode(encoder, ROWS[:2], tmp_path / "g", layers=[1], quiet=True)
    path = tmp_path / "g" / "manifest.json"
    for damaged in (["first"], [0], [2, 1], "last", 3):
        value = {**json.loads(path.read_text()), "layers": damaged}
        path.write_text(json.dumps(value))
        with pytest.raises(StoreError, match="not the manifest of a feature folder"):
            FeatureStore(tmp_path / "g")
