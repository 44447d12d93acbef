"""``facetrm eval MODEL --on audit`` on a real model: a planted bias is found and named, and the exit code is 3."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmark_samples import write_lines
from command_line import assert_refused, command
from facetrm.evaluate.audit import without_debiasing
from facetrm.explain.edits import edit
from facetrm.hub import load_model
from facetrm.recipes.run import Run

SETTINGS: dict[str, Any] = {
    "samples": 100,
    "edits": ["pad", "cut_end", "respace"],
    "max_flip_rate": {"pad": 0.3},
    "max_length_correlation": 0.5,
    "min_matched_accuracy": None,
    "max_ece": None,
}


@pytest.fixture(scope="module")
def models(tiny_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny run's model with nearly all weight on the length of the answer and no debiasing, and without length."""
    folder = tmp_path_factory.mktemp("biased")
    model = load_model(tiny_run.folder, device="cpu")
    edit(without_debiasing(model), pin={"length": 0.98}).save(folder / "long", backbone="copy")
    edit(model, drop=["length"]).save(folder / "plain", backbone="copy")
    return folder


def thresholds(folder: Path, **changed: Any) -> Path:
    path = folder / "audit.yaml"
    path.write_text(yaml.safe_dump({**SETTINGS, **changed}))
    return path


def audit(model: object, out: Path, *more: object, data: object = "world") -> Any:
    line = ("eval", model, "--on", "audit", "--data", data, "--pairs", 40, "--out", out, "--device", "cpu")
    return command(*map(str, (*line, *more)))


def test_a_planted_length_expert_is_found_and_named(models: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    said = audit(models / "long", out, "--thresholds", thresholds(tmp_path))
    assert said.code == 3, said
    for setting in ("max_length_correlation", "max_flip_rate.pad"):
        (line,) = [line for line in said.err.splitlines() if setting in line]
        assert line.startswith("facetrm: long: ")
        assert line.endswith("moved most: length")
        assert setting in said.out
    found = json.loads((out / "audit.json").read_text())["long"]
    (size,) = [one for one in found["biases"] if one["feature"] == "tokens"]
    assert size["now"]["correlation"]["value"] > 0.8
    assert size["movers"][0]["objective"] == "length"
    (pad,) = [one for one in found["effects"] if one["edit"] == "pad"]
    assert pad["in_sd"]["low"] > 1.0, "padding lifts"
    assert pad["lifted"]["value"] > 0.9
    assert pad["movers"][0]["objective"] == "length"
    (cut,) = [one for one in found["effects"] if one["edit"] == "cut_end"]
    assert cut["in_sd"]["high"] < 0.0
    (respace,) = [one for one in found["effects"] if one["edit"] == "respace"]
    assert respace["change"]["value"] == pytest.approx(0.0, abs=1e-4)
    results = json.loads((out / "results.json").read_text())
    assert results["benchmarks"] == {}
    assert results["audit"]["data"] == "world"
    assert any("moved most: length" in sentence for sentence in results["audit"]["findings"]["long"])


def test_without_it_nothing_is_blamed_on_length(models: Path, tmp_path: Path) -> None:
    lenient = thresholds(tmp_path, max_flip_rate={}, max_length_correlation=1.0, max_null_change=None)
    said = audit(models / "plain", tmp_path / "out", "--thresholds", lenient)
    assert said.code == 0, said
    assert "Thresholds that fail: none" in said.out
    found = json.loads((tmp_path / "out" / "audit.json").read_text())["plain"]
    moved = [mover for one in (*found["biases"], *found["effects"]) for mover in one["movers"]]
    assert moved
    assert all(mover["objective"] != "length" or mover["change"] == 0.0 for mover in moved)


def test_bad_thresholds_and_data_are_refused_before_anything_is_written(models: Path, tmp_path: Path) -> None:
    model, out = models / "long", tmp_path / "out"
    misspelt = thresholds(tmp_path, max_flip_rates={"pad": 0.1})
    assert_refused(audit(model, out, "--thresholds", misspelt), str(misspelt), "did you mean 'max_flip_rate'")
    assert_refused(audit(model, out, "--thresholds", thresholds(tmp_path, max_ece=2)), "max_ece")
    assert_refused(audit(model, out, "--thresholds", tmp_path / "none.yaml"), "none.yaml")
    empty = write_lines(tmp_path / "empty.jsonl", [])
    assert_refused(audit(model, out, data=empty), str(empty))
    torn = write_lines(tmp_path / "torn.jsonl", [{"prompt": "a", "chosen": "b", "rejected": "c"}, '{"prompt": '])
    assert_refused(audit(model, out, data=torn), f"{torn}:2")
    assert_refused(audit(model, out, data=tmp_path / "none.jsonl"), "none.jsonl")
    assert_refused(command("eval", model, "--on", "audit", "--out", out), "no pairs to audit on", "--data FILE")
    assert_refused(command("eval", "length", "--on", "desk", "--data", "desk", "--out", out), "--data", "--on audit")
    assert_refused(
        command("eval", "length", "--on", "desk", "--thresholds", misspelt, "--out", out), "--thresholds", "--on audit"
    )
    stored = write_lines(tmp_path / "scores.jsonl", [{"id": "1", "scores": [1, 0]}])
    assert_refused(audit(stored, out), "is a file of scores", "give a model")
    assert not list(out.glob("*.json*"))
