"""Hundreds of mutations of manifests and configurations through ``load_model``: an error of ours, or a model."""

from __future__ import annotations

import copy
import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from test_classifier import classifier

from facetrm import load_model
from facetrm.backbone.transformer import BackboneConfig, load_encoder
from facetrm.core.errors import FacetrmError
from facetrm.model.reward_model import RewardModel
from facetrm.model.store import model_hash
from fakes import tiny_decoder
from gated_models import mixture
from published_samples import write_checkpoint

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**12), 10**12),
    st.sampled_from([0, -1, 1, 2, 7, 10**7, 2**63, 10**40, 0.5, -0.0, 1e308, float("inf"), float("nan")]),
    st.sampled_from(
        ["", "x", "all", "cuda:99", "/etc/passwd", "../..", "hf://a/b", "none", "\x1b[2J", "é" * 300, "\ud800"]
    ),
    st.sampled_from([[], [1], ["a", "a"], {}, {"a": {"b": [None]}}, [[[[]]]], [0] * 300, {"": ""}]),
)
ADDED = ("", "path", "trust_remote_code", "adapter", "auto_map", "quantization_config")
KINDS = ("manifest", "native backbone", "classifier", "published")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """Return a folder of each kind, and the file that is mutated in it."""
    root = tmp_path_factory.mktemp("models")
    encoder = load_encoder(BackboneConfig(path=str(tiny_decoder(root / "tiny")), device="cpu", mode="exact"))
    RewardModel(encoder, {"all": mixture()}).save(root / "native", backbone="copy")
    shutil.copytree(root / "native", root / "inner")
    classifier(root / "classifier")
    write_checkpoint(root / "published")
    return {
        "manifest": (root / "native", root / "native" / "manifest.json"),
        "native backbone": (root / "inner", root / "inner" / "backbone" / "config.json"),
        "classifier": (root / "classifier", root / "classifier" / "config.json"),
        "published": (root / "published", root / "published" / "config.json"),
    }


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of every value in a nested one, outermost first."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, item in items for found in ((*path, key), *places(item, (*path, key)))]


def mutate(value: Any, data: st.DataObject) -> Any:
    """Change, drop, rename or add one thing somewhere in ``value``."""
    value = copy.deepcopy(value)
    *path, key = data.draw(st.sampled_from(places(value)))
    holder = value
    for step in path:
        holder = holder[step]
    how = data.draw(st.sampled_from(["change", "change", "change", "drop", "rename", "add"]))
    if how == "drop":
        del holder[key]
    elif how == "rename" and isinstance(holder, dict):
        holder[data.draw(st.sampled_from(ADDED))] = data.draw(VALUES)
    else:
        holder[key] = data.draw(VALUES)
    return value


def resealed(value: Any) -> Any:
    """Return a manifest whose hash fits what it says, where one can be made: a mutation by somebody who knows how."""
    try:
        sealed = {**value, "hash": model_hash(value)}
        sealed.pop("checksum", None)
        return sealed
    except (AttributeError, KeyError, TypeError, ValueError):
        return value


@pytest.mark.parametrize("kind", KINDS)
def test_a_mutated_folder_ends_in_a_model_or_an_error_of_ours(kind: str, folders: dict[str, tuple[Path, Path]]) -> None:
    folder, path = folders[kind]
    original = path.read_text(encoding="utf-8")
    held = json.loads(original)
    refused: list[FacetrmError] = []

    @seed(7)
    @settings(max_examples=80, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def read(data: st.DataObject) -> None:
        value = mutate(held, data)
        if kind == "manifest" and data.draw(st.booleans()):
            value = resealed(value)
        path.write_text(json.dumps(value), encoding="utf-8")
        start = time.process_time()
        try:
            load_model(folder, device="cpu")
        except FacetrmError as exc:
            refused.append(exc)
        assert time.process_time() - start < 2, value

    start = time.process_time()
    try:
        read()
    finally:
        path.write_text(original, encoding="utf-8")
    assert time.process_time() - start < 15
    assert len(refused) > 20, "mutations matter"
    assert not [error for error in refused if error.place is None or not error.fix or len(str(error)) > 3_000]
