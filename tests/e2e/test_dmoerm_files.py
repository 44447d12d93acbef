"""DMoERM on files of one's own: tasks on part of the rows, labels of ``facetrm label``, ranked groups; refusals."""

from __future__ import annotations

import copy
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from command_line import Said, assert_refused, command
from facetrm.hub.load import load_model
from fakes import tiny_decoder
from label_server import KEY, label_server
from tiny_runs import recipe, write_recipe, write_rows

QUICK: dict[str, Any] = {
    "evaluate_every": 2,
    "gain": 0.0,
    "trainer": {"max_steps": 2, "learning_rate": 0.01, "per_device_train_batch_size": 8},
}
RUBRIC = {
    "name": "own",
    "tasks": [
        {
            "name": task,
            "description": "what people ask for there",
            "capabilities": [
                {"name": name, "description": f"how much {name}", "better": f"more {name}"} for name in names
            ],
        }
        for task, names in (("talk", ["warmth", "wit"]), ("sums", ["rigour"]))
    ],
}
WORDS = {"talk": "tell me a tale about", "sums": "please add"}


def prompt(n: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"{WORDS[task_of(n)]} {n}"}]


def task_of(n: int) -> str:
    return ("talk", "sums")[n % 2]


def answers(n: int, count: int) -> list[dict[str, str]]:
    """The more ``worth``, the better; the server of the labels says so too."""
    worth = sorted(((n * 7 + 3 * k) % 11 for k in range(count)), reverse=True)
    return [{"role": "assistant", "content": f"a{n % 5} worth {w}"} for w in worth]


def ranked(n: int, count: int, **fields: Any) -> dict[str, Any]:
    return {"id": f"r{n}", "prompt": prompt(n), "responses": answers(n, count), **fields}


def pair(n: int, **fields: Any) -> dict[str, Any]:
    first, second = answers(n, 2)
    return {"id": f"p{n}", "prompt": prompt(n), "chosen": [first], "rejected": [second], **fields}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of preferences, labels and a rubric: pairs with ``category``, ranked groups with ``task``."""
    folder = tmp_path_factory.mktemp("data")
    split = {n: "test" if n % 5 == 0 else "train" for n in range(200)}
    write_rows(folder / "pairs.jsonl", [pair(n, category=task_of(n), split=split[n]) for n in range(60)])
    write_rows(folder / "bare.jsonl", [pair(n, split=split[n]) for n in range(60, 90)])
    write_rows(folder / "ranked.jsonl", [ranked(n, 3 + n % 2, task=task_of(n), split=split[n]) for n in range(90, 120)])
    write_rows(folder / "asked.jsonl", [pair(n, category=task_of(n), split="train") for n in range(120, 180)])
    (folder / "rubric.yaml").write_text(yaml.safe_dump(RUBRIC))
    with label_server() as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", KEY)
        asked = ["--rubric", str(folder / "rubric.yaml"), "--model", "m", "--base-url", server.url]
        said = command("label", "--data", folder / "asked.jsonl", *asked, "--out", folder / "labels")
    assert said.code == 0, said.err
    tiny_decoder(folder / "backbone")
    return folder


def sections(data: Path, **given: Any) -> dict[str, Any]:
    value: dict[str, Any] = {
        "recipe": "dmoerm",
        "data": {
            "kind": "files",
            "preferences": [str(data / f"{name}.jsonl") for name in ("pairs", "bare", "ranked")],
            "capabilities": [str(data / "labels" / "preferences.jsonl")],
            "rubric": str(data / "rubric.yaml"),
        },
        "backbone": {"path": str(data / "backbone"), "device": "cpu"},
        "router": {"settings": {"steps": 60, "hidden": 8, "samples": 20}},
        "lora": {"rank": 2, "alpha": 4.0, "layers": "last 1"},
        "linear": {"folds": 2},
        "base": {"training": QUICK},
        "experts": {"training": QUICK, "least": 10},
        "aggregator": {"concat": {"steps": 20, "hidden": 8}},
        "samples": 20,
    }
    for path, part in given.items():
        *outer, last = path.split("__")
        inner = value
        for name in outer:
            inner = inner[name]
        inner[last] = part
    return {name: part for name, part in copy.deepcopy(value).items() if part is not None}


def run(data: Path, folder: Path, **given: Any) -> Said:
    return command("run", write_recipe(folder.parent / "own.yaml", sections(data, **given)), "--out", folder)


@pytest.fixture(scope="module")
def done(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "own"
    said = run(data, folder)
    assert said.code == 0, said.err
    return folder


def test_every_row_is_accounted_for(done: Path) -> None:
    metrics = json.loads((done / "metrics.json").read_text())
    numbers = [n for n in range(120) if n % 5]
    assert metrics["rows"]["preferences"] == len(numbers)
    tests = [n for n in range(120) if n % 5 == 0]
    pairs_of = {n: 1 if n < 90 else math.comb(3 + n % 2, 2) for n in range(120)}
    assert metrics["rows"]["preferences_test"] == sum(pairs_of[n] for n in tests)
    assert metrics["rows"]["capabilities"] == 30 * 2 + 30
    given = Counter(task_of(n) for n in numbers if not 60 <= n < 90)
    assert metrics["assigned"]["given"] == given
    assert metrics["assigned"]["routed_total"] == sum(60 <= n < 90 for n in numbers) == 24
    assert metrics["assigned"]["below_total"] == 0
    for task in ("talk", "sums"):
        rows = metrics["tasks"][task]["rows"]
        assert rows["base"] + rows["mix"] == given[task] + metrics["assigned"]["routed"][task]
    assert metrics["tasks"]["talk"]["rows"]["talk/warmth"] == metrics["tasks"]["talk"]["rows"]["talk/wit"] == 30
    assert metrics["tasks"]["sums"]["rows"]["sums/rigour"] == 30
    assert set(metrics["tasks"]["talk"]["experts"]) == {"talk/warmth", "talk/wit", "talk/overall"}
    assert metrics["fallback"] is None
    assert set(metrics["pair_accuracy"]["by_task"]) == {"talk", "sums", "unlabelled"}
    assert metrics["pair_accuracy"]["true"] == {}
    # Prompts say their task in their words, which the router learned from rows and labels alike.
    assert metrics["router"]["counts"]["train"] + metrics["router"]["counts"]["validation"] == len(numbers) - 24 + 60
    assert metrics["router"]["held_out"]["accuracy"]["value"] > 0.9


def test_its_experts_score_groups_of_answers(done: Path, data: Path) -> None:
    said = command("score", done, "--data", data / "ranked.jsonl")
    assert said.code == 0, said.err
    rows = [json.loads(line) for line in said.out.splitlines()]
    assert len(rows) == sum(3 + n % 2 for n in range(90, 120))
    for row in rows:
        assert row["reward"] == pytest.approx(row["base"] + math.fsum(row["contributions"].values()), abs=1e-5)
        assert set(row["contributions"]) in (
            {"talk/warmth", "talk/wit", "talk/overall"},
            {"sums/rigour", "sums/overall"},
        )
    model = load_model(done)
    assert {o.name: o.meaning for o in model.mixture("talk").objectives}["talk/wit"].startswith("how much wit")
    page = (done / "report.html").read_text()
    assert "unlabelled" in page
    assert "true level" not in page


def test_without_labels_about_capabilities_each_task_is_its_own_adapter(data: Path, tmp_path: Path) -> None:
    said = run(data, tmp_path / "bare", data__capabilities=[])
    assert said.code == 0, said.err
    metrics = json.loads((tmp_path / "bare" / "metrics.json").read_text())
    assert metrics["tasks"]["talk"]["left_out"] == {"talk/warmth": 0, "talk/wit": 0}
    assert set(metrics["tasks"]["talk"]["experts"]) == {"talk/overall"}
    assert "too_few_preferences" in said.err
    page = (tmp_path / "bare" / "report.html").read_text()
    assert "Without an expert, because of too few preferences: talk/warmth" in page


BAD: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "an unknown fall-back": (
        {"router__threshold": 0.5, "router__fallback": "tlak"},
        ("router.fallback: unknown task 'tlak'", "did you mean 'talk'?"),
    ),
    "a tiny trunk for files": (
        {"backbone": None, "tiny": recipe()["tiny"]},
        ("'tiny' learns the world's words", "give 'backbone'"),
    ),
    "no backbone": ({"backbone": None}, ("give one of the sections 'backbone' and 'tiny'",)),
    "adapters under adapters": (
        {"backbone__adapters": {"x": "y"}},
        ("'dmoerm' makes its own adapters", "remove backbone.adapters"),
    ),
    "no such file of labels": ({"data__capabilities": ["none.jsonl"]}, ("none.jsonl", "no such file")),
    "no such rubric": ({"data__rubric": "dmorm"}, ("dmorm", "did you mean 'dmoerm'?")),
    "another rubric": (
        {"data__rubric": "general"},
        ("preferences, row 'p0': unknown task 'talk'", "known: chat, code", "remove the task"),
    ),
    "too many experts": (
        {"aggregator__concat": {"hidden": 3}},
        ("aggregator.concat.hidden: 3 units cannot hold the sum of 3 ratings of task 'talk'", "give 6 or more"),
    ),
    "no such layers": ({"lora__layers": "last"}, ("'last' names no layers", "last 8")),
    "a trunk in pieces": (
        {"base__training": {**QUICK, "trainer": {"fsdp": "full_shard"}}},
        ("fsdp is on", "remove fsdp"),
    ),
    "a misspelt argument": (
        {"base__training": {"trainer": {"learning_rat": 1}}},
        ("unknown setting 'base.training.trainer.learning_rat'", "did you mean 'learning_rate'?"),
    ),
    "no step for phase 2": ({"split": {"experts": 0.0}}, ("'split.experts' is 0", "greater than 0")),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_run_is_refused_with_its_place(data: Path, tmp_path: Path, name: str) -> None:
    given, fragments = BAD[name]
    assert_refused(run(data, tmp_path / "run", **given), *fragments)
    assert not (tmp_path / "run" / "model").exists()


def test_a_phase_without_rows_names_its_task(data: Path, tmp_path: Path) -> None:
    write_rows(
        tmp_path / "few.jsonl", [pair(n, category="talk", split="test" if n > 30 else "train") for n in range(40)]
    )
    said = run(data, tmp_path / "run", data__preferences=[str(tmp_path / "few.jsonl")])
    assert_refused(said, "task 'sums': 0 preferences for phase 'base'", "give preferences of at least two prompts")
    only = [pair(n, category="talk", split="test") for n in range(20)]
    write_rows(tmp_path / "only.jsonl", only)
    said = run(data, tmp_path / "other", data__preferences=[str(tmp_path / "only.jsonl")])
    assert_refused(said, "data (files): no rows for part 'overall'", "give more data")
