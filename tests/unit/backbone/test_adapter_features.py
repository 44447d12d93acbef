"""Features of named adapters on disk: the folder knows which adapters, in which order, and refuses any other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from adapter_samples import ROWS, adapted, worst
from facetrm.backbone.lora.adapters import adapter_tensors
from facetrm.backbone.store import FeatureStore, encode
from facetrm.backbone.transformer import BackboneConfig, load_encoder
from facetrm.core.errors import BackboneError, StoreError
from fakes import HashEncoder, tiny_decoder


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return tiny_decoder(tmp_path_factory.mktemp("stored") / "llama")


def test_features_of_adapters_are_kept_by_name_and_fingerprint(base, tmp_path):
    encoder = adapted(base)
    asked = ["style-2", "code"]
    store = encode(encoder, ROWS, tmp_path / "f", adapters=asked, shard_rows=4, quiet=True)
    assert store.adapters == ("style-2", "code")
    assert worst(store.features(ROWS), encoder.encode(ROWS, adapters=asked)) < 1e-5
    assert store.features([]).response_NAD.shape == (0, 2, encoder.hidden_size)
    # An adapter that has nothing to do with these features may come and go.
    encoder.remove_adapter("math")
    assert len(encode(encoder, ROWS, tmp_path / "f", adapters=asked, quiet=True)) == len(store)
    assert FeatureStore(tmp_path / "f", encoder=encoder).adapters == store.adapters
    with pytest.raises(BackboneError, match="no adapter 'math'"):
        encode(encoder, ROWS, tmp_path / "f", adapters=["math"], quiet=True)
    adapter_tensors(encoder.model, name="code")["layers.0.mlp.up_proj.lora_A.weight"].add_(1)
    with pytest.raises(StoreError, match="its adapter 'code' is a different one"):
        FeatureStore(tmp_path / "f", encoder=encoder)
    encoder.remove_adapter("code")
    with pytest.raises(StoreError, match="encoded by style-2, code, not by style-2"):
        FeatureStore(tmp_path / "f", encoder=encoder)


def test_features_of_other_adapters_lie_below_and_are_found_by_the_encoder(base, tmp_path):
    encoder, folder = adapted(base), tmp_path / "f"
    first = encode(encoder, ROWS, folder, adapters=["style-2", "code"], quiet=True)
    turned = encode(encoder, ROWS[:4], folder, adapters=["code", "style-2"], quiet=True)
    bare = encode(encoder, ROWS[:3], folder, quiet=True)
    assert first.folder == folder
    assert {turned.folder.parent, bare.folder.parent} == {folder}
    assert (len(turned), len(bare)) == (4, 3)
    assert FeatureStore(folder, encoder=encoder, adapters=["code", "style-2"]).folder == turned.folder
    assert FeatureStore(folder, encoder=encoder, adapters=[]).folder == bare.folder
    with pytest.raises(StoreError, match="holds features of 3 encoders, and 3 of them match the request"):
        FeatureStore(folder, encoder=encoder)
    with pytest.raises(StoreError, match="holds features of 3 encoders"):
        FeatureStore(folder)
    adapter_tensors(encoder.model, name="code")["layers.0.mlp.up_proj.lora_A.weight"].add_(1)
    trained = encode(encoder, ROWS[:2], folder, adapters=["style-2", "code"], quiet=True)
    assert (len(trained), trained.folder.parent) == (2, folder)
    assert worst(trained.features(ROWS[:2]), encoder.encode(ROWS[:2], adapters=["style-2", "code"])) < 1e-5


def test_features_of_the_bare_trunk_are_the_same_whatever_adapters_it_holds(base, tmp_path):
    bare = load_encoder(BackboneConfig(path=str(base)))
    manifest = encode(bare, ROWS[:3], tmp_path / "f", quiet=True).manifest
    assert "adapters" not in json.loads((tmp_path / "f" / "manifest.json").read_text())
    assert manifest.encoder == bare.fingerprint
    assert len(encode(adapted(base), ROWS[:5], tmp_path / "f", quiet=True)) == 5
    with pytest.raises(StoreError, match="a HashEncoder has no adapters"):
        encode(HashEncoder(8, adapters=2), ROWS, tmp_path / "g", adapters=["math"], quiet=True)
