"""``facetrm eval MODEL --on audit`` on a real model: a planted bias is found and named, and the exit code is 3."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from audit_samples import FirstWins, Parts, luck, random_pairs
from benchmark_samples import write_lines
from command_line import assert_refused, command
from facetrm.core.errors import ModelError
from facetrm.data.records import conversation_key
from facetrm.evaluate.audit import audit as audit_of
from facetrm.evaluate.audit import without_debiasing
from facetrm.explain.edits import edit
from facetrm.hub import load_model
from facetrm.recipes.evaluation import systems
from facetrm.recipes.evaluation.cache import ScoreCache
from facetrm.recipes.evaluation.systems import System, cached_scorer
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


def test_a_killed_audit_scores_no_answer_twice(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, settings = tmp_path / "out", thresholds(tmp_path)
    monkeypatch.setattr(systems, "_BATCH", 40)
    plain, asked, calls = systems._scored, [], []

    def dies_at(last: int) -> None:
        def counted(scorer: Any, conversations: Any) -> Any:
            if len(calls) == last:
                raise KeyboardInterrupt
            calls.append(len(conversations))
            asked.extend((id(scorer), conversation_key(one)) for one in conversations)
            return plain(scorer, conversations)

        monkeypatch.setattr(systems, "_scored", counted)

    dies_at(3)
    said = audit(models / "long", out, "--thresholds", settings)
    assert said.code == 130
    assert "run the same command again to continue" in said.err
    assert (out / "scores.jsonl").read_bytes().count(b"\n") == 120, "three batches, edits among them"
    before = {key for _, key in asked}
    asked.clear()
    dies_at(-1)
    assert audit(models / "long", out, "--thresholds", settings).code == 3
    first = asked[0][0]
    again = {key for scorer, key in asked if scorer == first}
    assert again
    assert not again & before, "a finished answer was scored again"
    found = json.loads((out / "results.json").read_text())["models"]["long"]
    assert found["scored"] == len(asked)
    assert found["tokens"] > 0
    whole = (out / "audit.json").read_text()
    fresh = tmp_path / "fresh"
    audit(models / "long", fresh, "--thresholds", settings)
    assert json.loads((fresh / "audit.json").read_text()) == json.loads(whole)
    dies_at(len(calls))
    assert audit(models / "long", out, "--thresholds", settings).code == 3, "nothing is left to score"
    line = ("eval", models / "long", "--on", "world", "--pairs", 40, "--out", out, "--device", "cpu", "--json")
    benchmark = command(*line)
    assert benchmark.code == 0, benchmark.err
    assert json.loads(benchmark.out)["models"]["long"]["scored"] == 0, "a benchmark takes the scores of the audit"


def test_an_audit_through_the_cache_is_the_same(tmp_path: Path) -> None:
    pairs = random_pairs(30)
    parts = Parts(luck=luck, size=lambda text: len(text) / 300)
    for name, scorer in (("single", parts), ("grouped", FirstWins(parts, 0.1))):
        cache = ScoreCache(tmp_path)
        cached = cached_scorer(System(name, name, "model", name, scorer), cache)
        found, expected = audit_of(cached, pairs), audit_of(scorer, pairs)
        assert near(found.to_dict(), expected.to_dict())
        cache.close()
        rows = parts.rows
        again = cached_scorer(System(name, name, "model", name, scorer), ScoreCache(tmp_path))
        assert audit_of(again, pairs).to_dict() == found.to_dict()
        assert parts.rows == rows, f"{name}: the second run asks for nothing"
        assert again.spent.scored == 0


def near(one: Any, other: Any) -> bool:
    """Return whether two trees have the same keys, and numbers that differ by no more than rounding."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(near(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(near(a, b) for a, b in zip(one, other, strict=True))
    return bool(one == pytest.approx(other, abs=1e-6)) if isinstance(one, float) else bool(one == other)


def test_an_answer_without_a_reward_ends_the_audit_with_its_name(tmp_path: Path) -> None:
    parts = Parts(bad=lambda text: float("nan") if "heron" in text.lower() else 1.0)
    cache = ScoreCache(tmp_path)
    with pytest.raises(ModelError, match="no reward") as caught:
        audit_of(cached_scorer(System("parts", "parts", "model", "parts", parts), cache), random_pairs(10))
    cache.close()
    assert "'parts' on the answer '" in str(caught.value)


def test_a_score_of_an_earlier_version_is_not_taken_for_a_whole_one(tmp_path: Path) -> None:
    held = {"reward": 1.0, "tokens": 3, "truncated": False, "contributions": {}, "ratings": {}, "problem": ""}
    lines = [{"model": "m", "row": "old", "score": held}, {"model": "m", "row": "new", "score": {**held, "base": 0.5}}]
    write_lines(tmp_path / "scores.jsonl", lines)
    cache = ScoreCache(tmp_path)
    assert cache.get("m", "old") is None
    found = cache.get("m", "new")
    assert found is not None
    assert found.base == 0.5
    cache.put("m", {"next": found})
    cache.close()
    assert len((tmp_path / "scores.jsonl").read_text().splitlines()) == 3, "nothing is cut off"
