from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from facetrm.backbone.encoder import Encoder
from facetrm.core.config import Section
from facetrm.core.errors import ModelError
from facetrm.model.aggregate import WeightEdit
from facetrm.model.reward_model import RewardModel
from facetrm.model.store import model_hash
from fakes import HashEncoder
from reward_models import HIDDEN, QUESTIONS, mixture, model, routed


def hash_encoder(spec: dict[str, object]) -> Encoder:
    assert spec["kind"] == "hash"
    return HashEncoder(int(str(spec["hidden_size"])), seed=int(str(spec["seed"])))


def load(folder: Path) -> RewardModel:
    return RewardModel.load(folder, load_encoder=hash_encoder)


@pytest.mark.parametrize("make", [model, routed])
def test_a_loaded_model_gives_bit_equal_scores(make: Callable[[], RewardModel], tmp_path: Path) -> None:
    saved = make()
    saved.save(tmp_path / "model")
    loaded = load(tmp_path / "model")
    assert loaded.score(QUESTIONS) == saved.score(QUESTIONS)
    assert loaded.hash == saved.hash
    assert loaded.provenance == saved.provenance
    assert loaded.mixture(loaded.tasks[0]).beta == 3.0
    assert [p.suffix for p in sorted((tmp_path / "model").iterdir()) if p.suffix not in (".json", ".safetensors")] == []


def test_equal_models_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        routed().save(tmp_path / name)
    files = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert files == ["manifest.json", "mixture-0.safetensors", "mixture-1.safetensors", "router.safetensors"]
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_edits_and_the_debias_table_are_saved(tmp_path: Path) -> None:
    table = [{"expert": "test-helpful", "lambda": 0.25}]
    parts = mixture().with_edit(WeightEdit(drop=(0,), scale=((1, 2.0),)))
    parts.debias = table
    RewardModel(HashEncoder(HIDDEN), {"all": parts}).save(tmp_path / "model")
    loaded = load(tmp_path / "model")
    assert loaded.mixture().aggregator.edit == parts.aggregator.edit
    assert loaded.mixture().debias == table
    assert loaded.score(QUESTIONS)[0].weights["test-helpful"] == 0.0


def test_saving_again_replaces_a_model_and_nothing_else(tmp_path: Path) -> None:
    routed().save(tmp_path / "model")
    model().save(tmp_path / "model")
    assert load(tmp_path / "model").hash == model().hash
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == ["manifest.json", "mixture-0.safetensors"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(ModelError, match="is not a model folder"):
        model().save(tmp_path / "other")
    assert (tmp_path / "other" / "thesis.txt").read_text() == "mine"


class PathSettings(Section):
    path: str
    seen: bool = False


class PathEncoder(HashEncoder):
    """A hash encoder whose word vectors are seeded by a file in a local folder."""

    def __init__(self, path: Path) -> None:
        super().__init__(HIDDEN, seed=int((path / "seed.txt").read_text()))
        self.path = path

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256((self.path / "seed.txt").read_bytes()).hexdigest()

    def spec(self) -> dict[str, object]:
        return {"path": str(self.path)}

    def save_backbone(self, folder: Path) -> PathSettings:
        shutil.copytree(self.path, folder)
        return PathSettings(path=str(folder), seen=True)


def test_a_copied_backbone_moves_with_the_folder(tmp_path: Path) -> None:
    source = tmp_path / "backbone"
    source.mkdir()
    (source / "seed.txt").write_text("7")
    saved = RewardModel(PathEncoder(source), {"all": mixture()})
    saved.save(tmp_path / "copy", backbone="copy")
    saved.save(tmp_path / "reference", backbone="reference")
    (tmp_path / "copy").rename(tmp_path / "moved")
    expected = saved.score(QUESTIONS)
    (source / "seed.txt").write_text("8")

    def opens(spec: dict[str, object]) -> Encoder:
        return PathEncoder(Path(str(spec["path"])))

    moved = RewardModel.load(tmp_path / "moved", load_encoder=opens)
    assert moved.score(QUESTIONS) == expected
    manifest = json.loads((tmp_path / "moved" / "manifest.json").read_text())
    assert manifest["encoder"]["spec"] == {"path": "backbone", "seen": True}
    moved.save(tmp_path / "moved", backbone="copy")
    assert RewardModel.load(tmp_path / "moved", load_encoder=opens).hash == saved.hash
    with pytest.raises(ModelError, match="encoder's fingerprint"):
        RewardModel.load(tmp_path / "reference", load_encoder=opens)
    with pytest.raises(ModelError, match="cannot be copied"):
        model().save(tmp_path / "none", backbone="copy")
    assert not (tmp_path / "none" / "manifest.json").exists()


def rewrite(folder: Path, change: Callable[[dict[str, Any]], None], *, sign: bool = True) -> None:
    """Edit the manifest; ``sign`` makes its own hash right again, so that deeper checks are reached."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    if sign:
        manifest.pop("checksum", None)
        manifest["hash"] = model_hash(manifest)
    path.write_text(json.dumps(manifest))


def retensor(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """Edit the tensors and sign them: what a wrong program, not a broken disk, would leave."""
    path = folder / "mixture-0.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    rewrite(folder, lambda m: m["mixtures"][0].update(sha256=digest))


def set_tensor(name: str, value: torch.Tensor) -> Callable[[Path], None]:
    return lambda folder: retensor(folder, lambda tensors: tensors.update({name: value}))


def drop_tensor(name: str) -> Callable[[Path], None]:
    return lambda folder: retensor(folder, lambda tensors: tensors.__delitem__(name))


def flip_byte(folder: Path) -> None:
    data = bytearray((folder / "mixture-0.safetensors").read_bytes())
    data[-3] ^= 1
    (folder / "mixture-0.safetensors").write_bytes(bytes(data))


def not_safetensors(folder: Path) -> None:
    (folder / "mixture-0.safetensors").write_bytes(b"\x80\x04pickle")
    digest = hashlib.sha256(b"\x80\x04pickle").hexdigest()
    rewrite(folder, lambda m: m["mixtures"][0].update(sha256=digest))


def spec(*path: str, value: object) -> Callable[[Path], None]:
    """Set a key below the first mixture's spec; the value ``...`` removes it."""

    def change(manifest: dict[str, Any]) -> None:
        node = manifest["mixtures"][0]["spec"]
        for key in path[:-1]:
            node = node[key]
        if value is ...:
            del node[path[-1]]
        else:
            node[path[-1]] = value

    return lambda folder: rewrite(folder, change)


GATE = "aggregator.gate"
MALFORMED: dict[str, tuple[Callable[[Path], object], str]] = {
    "no manifest": (lambda f: (f / "manifest.json").unlink(), "no file 'manifest.json'"),
    "manifest cut short": (
        lambda f: (f / "manifest.json").write_text('{"format": 1,'),
        r"manifest.json:1:\d+: not JSON",
    ),
    "manifest is a list": (lambda f: (f / "manifest.json").write_text("[]"), "kind is 'list'"),
    "another kind": (lambda f: rewrite(f, lambda m: m.update(kind="lora")), "kind is 'lora'"),
    "a later version": (
        lambda f: rewrite(f, lambda m: m.update(format=3)),
        "format version is 3, but this release reads 1 and 2",
    ),
    "edited by hand": (
        lambda f: rewrite(f, lambda m: m["mixtures"][0]["spec"].update(beta=9.0), sign=False),
        "does not match its hash",
    ),
    "no mixtures": (lambda f: rewrite(f, lambda m: m.pop("mixtures")), "key 'mixtures' is missing"),
    "mixtures is a number": (lambda f: rewrite(f, lambda m: m.update(mixtures=3)), "malformed"),
    "no encoder": (lambda f: rewrite(f, lambda m: m.pop("encoder"), sign=False), "key 'encoder' is missing"),
    "weight file missing": (lambda f: (f / "mixture-0.safetensors").unlink(), "'mixture-0.safetensors' is missing"),
    "weight file outside": (
        lambda f: rewrite(f, lambda m: m["mixtures"][0].update(file="../x.safetensors")),
        "is outside the folder",
    ),
    "flipped byte": (flip_byte, "sha256 is .* the file was changed"),
    "not safetensors": (not_safetensors, "not a safetensors file"),
    "missing tensor": (drop_tensor(f"{GATE}.bias_K"), "tensor 'bias_K' is missing"),
    "missing head": (drop_tensor("experts.weight_KD"), "weight_KD"),
    "extra tensor": (set_tensor(f"{GATE}.logit_scale", torch.ones(1)), "tensor 'logit_scale' is unexpected"),
    "extra part": (set_tensor("value_head.weight", torch.ones(1)), "tensor 'value_head.weight' is unexpected"),
    "extra expert tensor": (set_tensor("experts.bias", torch.ones(3)), "tensor 'experts.bias' is unexpected"),
    "wrong shape": (set_tensor("aggregator.debias_KK", torch.eye(3)), r"shape \[3, 3\], not \[4, 4\]"),
    "wrong head shape": (set_tensor("experts.weight_KD", torch.ones(2, 16)), "3 objectives"),
    "not finite": (set_tensor("aggregator.reference_K", torch.full((4,), float("inf"))), "'reference_K' is not finite"),
    "all closed": (set_tensor(f"{GATE}.gated_K", torch.zeros(4, dtype=torch.bool)), "no choice is allowed"),
    "a unit of zero": (set_tensor(f"{GATE}.unit_K", torch.zeros(4)), "unit_K has values that are not above 0"),
    "unknown aggregator": (spec("aggregator", "kind", value="vote"), "aggregator: unknown kind 'vote'"),
    "unknown experts": (spec("experts", "kind", value="lora"), "experts: unknown kind 'lora'"),
    "unknown gate key": (spec("aggregator", "gate", "heads", value=4), "malformed shape"),
    "other gate size": (spec("aggregator", "gate", "choices", value=7), r"shape \[4\], not \[7\]"),
    "bad edit": (spec("aggregator", "edit", value={"drop": "all"}), "malformed edit"),
    "impossible edit": (
        spec("aggregator", "edit", value={"drop": [9], "scale": [], "pin": []}),
        "objective number 9",
    ),
    "no beta": (spec("beta", value=...), "malformed entry: 'beta'"),
    "bad beta": (spec("beta", value=-1.0), "beta is -1.0"),
    "bad objective": (spec("experts", "objectives", value=[{"name": "x", "low": 1, "high": 0}]), "low 1.* below high"),
    "other encoder": (
        lambda f: rewrite(f, lambda m: m["encoder"]["spec"].update(seed=4)),
        "the encoder's fingerprint is .*, but the model was fitted on",
    ),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_folder_is_a_model_error_with_place_and_fix(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    model().save(folder)
    load(folder)
    damage, message = MALFORMED[name]
    damage(folder)
    with pytest.raises(ModelError, match=message) as caught:
        load(folder)
    assert str(folder) in str(caught.value.place)
    assert caught.value.fix


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"give a folder that RewardModel\.save wrote"):
        load(tmp_path / "nowhere")


class _Failing(HashEncoder):
    """An encoder whose backbone cannot be written."""

    def save_backbone(self, folder):
        raise ModelError("no space left", place=folder)


def test_a_save_that_fails_leaves_the_old_backbone(tmp_path):
    ours = model()
    (tmp_path / "backbone").mkdir()
    (tmp_path / "backbone" / "weights").write_text("old")
    (tmp_path / "manifest.json").write_text("{}")
    failing = RewardModel(_Failing(HIDDEN), ours.mixtures)
    with pytest.raises(ModelError, match="no space left"):
        failing.save(tmp_path, backbone="copy")
    assert (tmp_path / "backbone" / "weights").read_text() == "old"
