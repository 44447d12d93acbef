"""Pairs whose answers read the same, in all three kinds of runs: out of fits, ties in accuracy, and said aloud."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from command_line import Said, command
from fakes import tiny_decoder
from tiny_runs import write_recipe, write_rows

KINDS = ("armorm", "dmoerm", "finetune")
N = 60
QUICK = {"evaluate_every": 1, "gain": 0.0, "trainer": {"max_steps": 1, "per_device_train_batch_size": 8}}
TRAINED, TESTED = 40, 20


def asked(n: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"question {n}"}]


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def pair(n: int) -> dict[str, Any]:
    """Every fourth is given with one text twice, every fourth differs only behind what the backbone reads."""
    better, worse = f"good {n}", f"bad {n}"
    if n % 4 == 1:
        worse = better
    if n % 4 == 3:
        better, worse = (f"{'so ' * 200}{end}" for end in (better, worse))
    split = "test" if n >= TRAINED else "train"
    return {"prompt": asked(n), "chosen": said(better), "rejected": said(worse), "split": split}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("equal")
    tiny_decoder(folder / "backbone")
    write_rows(folder / "pairs.jsonl", [pair(n) for n in range(N)])
    rated = [
        {
            "messages": asked(1000 + n) + said(f"answer {n}"),
            "ratings": {"own-worth": n % 5},
            "split": "test" if n >= TRAINED else "train",
        }
        for n in range(N)
    ]
    write_rows(folder / "ratings.jsonl", rated)
    (folder / "objectives.yaml").write_text(yaml.safe_dump([{"name": "own-worth", "low": 0, "high": 4}]))
    wit = {"name": "wit", "description": "how witty", "better": "more wit"}
    task = {"name": "talk", "description": "talk", "capabilities": [wit]}
    (folder / "rubric.yaml").write_text(yaml.safe_dump({"name": "own", "tasks": [task]}))
    return folder


def settings(kind: str, data: Path) -> dict[str, Any]:
    ratings = {"ratings": [str(data / "ratings.jsonl")], "objectives": str(data / "objectives.yaml")}
    files = {"kind": "files", "preferences": [str(data / "pairs.jsonl")]}
    backbone = {"path": str(data / "backbone"), "device": "cpu", "max_tokens": 64, "truncation": "drop_oldest"}
    ridge = {"folds": 2, "bootstrap": 0}
    own: dict[str, dict[str, Any]] = {
        "armorm": {
            "data": files | ratings,
            "experts": {"ridge": ridge},
            "gate": {"settings": {"steps": 2, "rank": 2, "hidden": 4}},
            "compare": {"samples": 20, "bag_of_words": 0, "linear": {"folds": 2}},
        },
        "dmoerm": {
            "data": files | {"rubric": str(data / "rubric.yaml")},
            "lora": {"rank": 2, "layers": "last 1"},
            "linear": {"folds": 2},
            "base": {"training": QUICK},
            "aggregator": {"concat": {"steps": 2, "hidden": 4}},
            "samples": 20,
        },
        "finetune": {
            "data": files | ratings,
            "frozen": {"ridge": ridge, "linear": {"folds": 2}},
            "finetune": {"lora": {"rank": 2}, "trainer": {"max_steps": 1}},
            "samples": 20,
        },
    }
    return {"recipe": kind, "backbone": backbone, **own[kind]}


@pytest.fixture(scope="module", params=KINDS)
def run(request: pytest.FixtureRequest, data: Path) -> tuple[Said, Path]:
    folder = data / str(request.param)
    recipe = write_recipe(data / f"{request.param}.yaml", settings(request.param, data))
    done = command("run", recipe, "--out", folder, "--log-json")
    assert done.code == 0, done.err
    return done, folder


def test_they_are_counted_by_reason(run: tuple[Said, Path]) -> None:
    metrics = json.loads((run[1] / "metrics.json").read_text(encoding="utf-8"))
    reading = metrics["reading"]
    for part, size in (("training", TRAINED), ("test", TESTED)):
        found = {"of": size, "given_equal": size // 4, "equal_after_truncation": size // 4, "read_alike": 0}
        assert reading["equal_pairs"][part] == found
    assert reading["truncated"] == 2 * N // 4
    assert {"event": "reading", **reading} in [json.loads(line) for line in run[0].err.splitlines() if line[0] == "{"]


def test_no_fit_sees_them_and_accuracy_counts_them_as_ties(run: tuple[Said, Path]) -> None:
    metrics = json.loads((run[1] / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["rows"]["preferences"] == TRAINED // 2
    assert metrics["rows"]["preferences_test"] == TESTED
    if metrics["recipe"] == "armorm":
        assert metrics["gate"]["pairs"]["train"] + metrics["gate"]["pairs"]["validation"] == TRAINED // 2
    for system, found in metrics["pair_accuracy"]["noisy"].items():
        right = TESTED * (found if isinstance(found, float) else found["value"])
        assert right - TESTED / 4 == pytest.approx(round(right - TESTED / 4)), f"{system}: ten ties count five"
        assert TESTED / 4 <= right <= 3 * TESTED / 4, system


def test_their_number_stands_beside_the_figures(run: tuple[Said, Path]) -> None:
    said, folder = run
    line = f"{TESTED // 2} of {TESTED} held-out pairs have two answers that read the same"
    assert line in said.out
    assert f"{TRAINED // 2} of {TRAINED} training pairs" in said.out
    assert f"{2 * N // 4} of" in said.out
    page = folder / "report.html"
    if page.exists():
        assert line in page.read_text(encoding="utf-8")


def test_a_run_on_nothing_but_equal_pairs_is_refused(data: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / "pairs.jsonl", [pair(n) for n in range(N) if n % 2 or n >= TRAINED])
    recipe = settings("armorm", data)
    recipe["data"]["preferences"] = [str(tmp_path / "pairs.jsonl")]
    said = command("run", write_recipe(tmp_path / "recipe.yaml", recipe), "--out", tmp_path / "run", "--log-json")
    assert said.code == 2
    assert "all 20 have answers that read the same (10 given with the same text twice, 10 equal after" in said.err
