"""Bad model folders, edits and questions on the real command line: refused with value, place and fix."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from command_line import assert_refused, command
from facetrm.model.store import model_hash
from facetrm.recipes.run import Run
from reward_models import model, routed
from tiny_runs import GOOD, PAIR, write_rows

Spoil = Callable[[Path], None]


def spoiled(tiny_run: Run, folder: Path) -> Path:
    """Return a copy of the run's model folder that may be spoiled."""
    return Path(shutil.copytree(tiny_run.folder / "model", folder / "model"))


def rewrite(change: Callable[[dict[str, Any]], object], *, sign: bool = True) -> Spoil:
    """Return what edits the manifest; ``sign`` makes its hash right again, so that deeper checks are reached."""

    def spoil(folder: Path) -> None:
        path = folder / "manifest.json"
        manifest = json.loads(path.read_text())
        change(manifest)
        if sign:
            manifest.pop("checksum", None)
            manifest["hash"] = model_hash(manifest)
        path.write_text(json.dumps(manifest))

    return spoil


def weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Spoil:
    """Return what changes the tensors of the mixture and signs the folder again."""

    def spoil(folder: Path) -> None:
        path = folder / "mixture-0.safetensors"
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        rewrite(lambda manifest: manifest["mixtures"][0].update(sha256=digest))(folder)

    return spoil


def bytes_of(name: str, data: bytes) -> Spoil:
    return lambda folder: (folder / name).write_bytes(data) and None


def without(name: str) -> Spoil:
    def spoil(folder: Path) -> None:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return spoil


def tokens_moved(folder: Path) -> None:
    path = folder / "backbone" / "chat_template.jinja"
    path.write_text(path.read_text().replace("<end>", "<end> <end>", 1))


def bit_flipped(folder: Path) -> None:
    path = folder / "backbone" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


MODELS: dict[str, tuple[Spoil, Sequence[str]]] = {
    "no manifest": (without("manifest.json"), ["no file 'manifest.json'", "RewardModel.save"]),
    "no JSON": (bytes_of("manifest.json", b"{"), ["manifest.json:1:", "not JSON"]),
    "not UTF-8": (bytes_of("manifest.json", b"\xff"), ["manifest.json", "not UTF-8"]),
    "a list": (bytes_of("manifest.json", b"[]"), ["kind is 'list'", "RewardModel.save"]),
    "another kind": (rewrite(lambda m: m.update(kind="lora")), ["kind is 'lora'", "facetrm-reward-model"]),
    "a newer format": (rewrite(lambda m: m.update(format=9)), ["format version is 9", "this release reads 1"]),
    "edited by hand": (
        rewrite(lambda m: m["provenance"].update(data="x"), sign=False),
        ["does not match its hash", "edited by hand"],
    ),
    "no mixtures": (rewrite(lambda m: m.pop("mixtures")), ["key 'mixtures' is missing"]),
    "provenance is text": (rewrite(lambda m: m.update(provenance="x")), ["manifest.json", "provenance is 'x'"]),
    "mixtures are a number": (rewrite(lambda m: m.update(mixtures=3)), ["malformed"]),
    "no weights": (without("mixture-0.safetensors"), ["mixture-0.safetensors' is missing", "again"]),
    "other weights": (bytes_of("mixture-0.safetensors", b"junk"), ["mixture-0.safetensors", "sha256", "was changed"]),
    "weights outside": (rewrite(lambda m: m["mixtures"][0].update(file="../x")), ["'../x' is outside the folder"]),
    "weights not numbers": (
        weights(lambda t: t["experts.weight_KD"].fill_(float("nan"))),
        ["a weight is not finite", "fit the experts again"],
    ),
    "a tensor missing": (weights(lambda t: t.pop("experts.bias_K")), ["bias_K"]),
    "a tensor more": (weights(lambda t: t.update(extra=torch.zeros(1))), ["'extra' is unexpected", "again"]),
    "a tensor the response has another format": (
        weights(lambda t: t.update({"experts.bias_K": torch.zeros(3)})),
        ["bias", "3"],
    ),
    "an objective upside down": (
        rewrite(lambda m: m["mixtures"][0]["spec"]["experts"]["objectives"][0].update(low=99)),
        ["low 99", "below high"],
    ),
    "the spec is text": (rewrite(lambda m: m["encoder"].update(spec="x")), ["manifest.json", "spec is 'x'", "again"]),
    "the spec is empty": (rewrite(lambda m: m["encoder"].update(spec={})), ["manifest.json", "path is None", "again"]),
    "an unknown setting": (
        rewrite(lambda m: m["encoder"]["spec"].update(trunkation="x")),
        ["manifest.json", "unknown setting 'trunkation'", "did you mean 'truncation'?"],
    ),
    "no word on the backbone": (
        rewrite(lambda m: m["encoder"].pop("backbone")),
        ["manifest.json", "backbone is None", "not copy or reference"],
    ),
    "no backbone": (without("backbone"), ["backbone", "no such folder"]),
    "no configuration": (without("backbone/config.json"), ["backbone", "no file 'config.json'", "save_pretrained"]),
    "no tokenizer": (without("backbone/tokenizer.json"), ["backbone", "no tokenizer", "save the tokenizer"]),
    "a backbone cut off": (
        bytes_of("backbone/model.safetensors", b"\x08"),
        ["model.safetensors", "not a whole safetensors file", "copy it again"],
    ),
    "a flipped bit": (bit_flipped, ["the encoder's fingerprint is", "fitted on", "restore the backbone"]),
    "another template": (tokens_moved, ["the encoder's fingerprint is", "restore the backbone"]),
    "another limit": (
        rewrite(lambda m: m["encoder"]["spec"].update(max_tokens=99)),
        ["the encoder's fingerprint is", "settings"],
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_bad_model_folder(name: str, tiny_run: Run, tmp_path: Path) -> None:
    spoil, fragments = MODELS[name]
    folder = spoiled(tiny_run, tmp_path)
    spoil(folder)
    rows = write_rows(tmp_path / "rows.jsonl", [GOOD])
    assert_refused(command("score", folder, "--data", rows), str(folder), *fragments)


def places(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Return the path of everything inside a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [one for key, item in items for one in ((*path, key), *places(item, (*path, key)))]


def test_a_manifest_with_anything_anywhere_never_shows_a_traceback(tiny_run: Run, tmp_path: Path) -> None:
    """A signed manifest in which one value is of another type, or gone: refused, or read where it does not matter."""
    folder, rows = spoiled(tiny_run, tmp_path), write_rows(tmp_path / "rows.jsonl", [GOOD])
    path, draw = folder / "manifest.json", random.Random(1)
    text = path.read_text()
    everywhere = [place for place in places(json.loads(text)) if place[0] != "provenance" or len(place) == 1]
    refused = 0
    for place in draw.sample(everywhere, 40):
        manifest = json.loads(text)
        owner = manifest
        for key in place[:-1]:
            owner = owner[key]
        value = draw.choice([None, 3, "x", [], {"a": 1}, "gone"])
        if value == "gone" and isinstance(owner, dict):
            del owner[place[-1]]
        else:
            owner[place[-1]] = value
        if isinstance(manifest.get("encoder"), dict):
            manifest.pop("checksum", None)
            manifest["hash"] = model_hash(manifest)
        path.write_text(json.dumps(manifest))
        said = command("score", folder, "--data", rows)
        assert said.code in (0, 2), f"{place} = {value!r}: {said.err}"
        refused += said.code == 2
    assert refused >= 10


def test_a_good_copy_is_read(tiny_run: Run, tmp_path: Path) -> None:
    """The battery above spoils something that works."""
    said = command("score", spoiled(tiny_run, tmp_path), "--data", write_rows(tmp_path / "rows.jsonl", [GOOD]))
    assert said.code == 0
    assert json.loads(said.out)["model"] == tiny_run.fit.model.hash


def test_a_folder_that_is_no_model(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", [GOOD])
    for verb in ("score", "explain"):
        assert_refused(command(verb, tmp_path / "no", "--data", rows), str(tmp_path / "no"), "no such model folder")
        assert_refused(command(verb, tmp_path, "--data", rows), str(tmp_path), "no file 'manifest.json'")
        assert_refused(command(verb, rows, "--data", rows), str(rows), "manifest.json")
    assert_refused(command("explain", tmp_path / "no"), str(tmp_path / "no"), "no such model folder", "facetrm run")


def test_a_model_on_an_encoder_that_cannot_be_loaded(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", [GOOD])
    for make in (model, routed):
        folder = tmp_path / make.__name__
        make().save(folder)
        assert_refused(command("score", folder, "--data", rows), str(folder / "manifest.json"), "unknown setting")


EDITS: dict[str, tuple[Sequence[str], Sequence[str]]] = {
    "drop what is not there": (["--drop", "fern-persna"], ["'fern-persna' is not", "did you mean 'fern-persona'?"]),
    "drop twice": (["--drop", "fern-persona", "--drop", "fern-persona"], ["--drop", "given twice", "once"]),
    "drop nothing": (["--drop", ""], ["--drop", "an empty name"]),
    "scale without a number": (["--scale", "fern-persona"], ["--scale", "'fern-persona' is not name=number"]),
    "scale by words": (["--scale", "fern-persona=much"], ["--scale", "'fern-persona=much' is not name=number"]),
    "scale by nan": (["--scale", "fern-persona=nan"], ["--scale", "is not name=number"]),
    "scale below 0": (["--scale", "fern-persona=-1"], ["'fern-persona' is scaled by -1", "0 or more"]),
    "scale what is not there": (
        ["--scale", "persona=2"],
        ["'persona' is not in this model", "did you mean 'fern-persona'?"],
    ),
    "pin above 1": (["--pin", "fern-persona=2"], ["'fern-persona' is pinned to 2", "in [0, 1]"]),
    "pin too much": (["--pin", "fern-persona=0.9", "--pin", "birch-honesty=0.9"], ["sum to 1.8", "at most 1"]),
    "pin twice": (["--pin", "fern-persona=0", "--pin", "fern-persona=1"], ["--pin", "given twice"]),
    "pin and drop": (["--pin", "fern-persona=1", "--drop", "fern-persona"], ["both dropped and scaled or pinned"]),
    "pin what is taken out": (["--pin", "almond-verbosity=1"], ["'almond-verbosity'", "pin another objective"]),
    "a device that is not there": (["--device", "warp"], ["device 'warp' is not there", "auto"]),
}


@pytest.mark.parametrize("name", EDITS)
def test_a_bad_edit(name: str, tiny_run: Run, tmp_path: Path) -> None:
    options, fragments = EDITS[name]
    rows = write_rows(tmp_path / "rows.jsonl", [GOOD])
    assert_refused(command("score", tiny_run.folder, "--data", rows, *options), *fragments)
    assert_refused(command("explain", tiny_run.folder, *options), *fragments)


def test_dropping_everything_is_refused(tiny_run: Run) -> None:
    options = [part for name in tiny_run.fit.mixture.names for part in ("--drop", name)]
    assert_refused(command("explain", tiny_run.folder, *options), "edit")


ROWS = ["7", "-1", "gate-p9", "²", "1.5", ""]


@pytest.mark.parametrize("row", ROWS)
def test_a_row_that_is_not_there(row: str, tiny_run: Run, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [{**PAIR, "id": "gate-p1"}, PAIR])
    said = command("explain", tiny_run.folder, "--data", path, "--row", row)
    assert_refused(said, str(path), f"no row '{row}' among 2", "gate-p1")


def test_places_that_cannot_be_written(tiny_run: Run, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", [GOOD])
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "folder", tmp_path / "file" / "below"):
        said = command("score", tiny_run.folder, "--data", rows, "--out", out)
        assert_refused(said, str(tmp_path), "check the path, its permissions and the free space")
        said = command("explain", tiny_run.folder, "--html", out)
        assert_refused(said, str(tmp_path), "check the path, its permissions and the free space")
    said = command("encode", "--backbone", tiny_run.folder / "backbone", "--data", rows, "--out", tmp_path / "file")
    assert_refused(said, str(tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "mine"


def test_a_model_folder_without_a_pair_asks_for_rows(tiny_run: Run) -> None:
    folder = tiny_run.folder / "model"
    assert_refused(command("explain", folder), str(folder), "no rows to explain", "give --data FILE")
