"""The recipes with a router and other data than the quickstart's, from their files to a scored row, made small."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import yaml

from command_line import command
from facetrm.data.rubric import read_rubric
from facetrm.data.sources import MTMC_TASKS
from fakes import tiny_decoder, tiny_encoder
from tiny_runs import write_rows

RECIPES = Path(__file__).parents[2] / "recipes"
WORDS = ("why", "sky", "blue", "red", "tea", "sun", "sea", "owl", "fig", "yes", "no", "oak")
TASKS = {"letters": ("warmth", "brevity"), "tales": ("plot",)}
TINY = (
    "tiny.shape={hidden: 16, layers: 2, heads: 2, inner: 32}",
    "tiny.training={lesson_steps: 4, read_steps: 4, prefer_steps: 0, lessons: 4, rated: 4, pairs: 2}",
)
SMALL = (
    "samples=10",
    "linear.folds=2",
    "router.settings.steps=40",
    "router.settings.rank=4",
    "lora.rank=2",
    "experts.least=4",
    "base.training.trainer.max_steps=2",
    "experts.training.trainer.max_steps=2",
    "aggregator.concat.steps=10",
    "aggregator.gate.steps=10",
    "aggregator.gate.rank=4",
)


def question(task: str, n: int) -> str:
    return f"{task} {WORDS[n % 12]} {WORDS[n * 5 % 11]} {n}?"


def reply(n: int) -> str:
    return " ".join(WORDS[(n * k + k) % 12] for k in range(1, 3 + n % 7))


def said(n: int) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": reply(n)}]


def asked(task: str, n: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": question(task, n)}]


def decoder(folder: Path) -> list[str]:
    where = [f"backbone.path={tiny_decoder(folder / 'backbone')}", "backbone.max_tokens=256"]
    return [*where, "backbone.dtype=float32", *SMALL]


def published(folder: Path) -> list[str]:
    rubric, written = read_rubric("dmoerm-zh"), {name: label for label, name in MTMC_TASKS.items()}
    rows, about = [], []
    for task in rubric.tasks:
        for n in range(44):
            label = written[task.name] if n % 6 else "代码理解与生成"
            replies = {"response": [reply(n), reply(n + 3)], "rank": [2, 1]}
            rows.append({"label": label, "src": [question(task.name, n)], "tgt": [], **replies})
            aspect = f"{task.name}/{task.capabilities[n % 2].name}"
            pair = {"prompt": asked(task.name, n), "responses": said(n) + said(n + 3), "aspect": aspect}
            about.append({**pair, "task": task.name})
    write_rows(folder / "mtmc-rlhf" / "train.jsonl", rows)
    labels = write_rows(folder / "labels" / "preferences.jsonl", about)
    return [*decoder(folder), f"data.folder={folder}", f"data.capabilities=[{labels}]"]


def own(folder: Path) -> list[str]:
    tasks = [
        {
            "name": task,
            "description": f"Writes {task}.",
            "capabilities": [{"name": c, "description": f"its {c}", "better": f"more {c}"} for c in names],
        }
        for task, names in TASKS.items()
    ]
    (folder / "rubric.yaml").write_text(json.dumps({"name": "mine", "language": "en", "tasks": tasks}))
    pairs, about = [], []
    for task, names in TASKS.items():
        for n in range(60):
            side = {"task": task} if n % 5 else {}
            pairs.append({"prompt": asked(task, n), "chosen": said(n), "rejected": said(n + 3), **side})
            aspect = f"{task}/{names[n % len(names)]}"
            about.append({"prompt": asked(task, n), "responses": said(n) + said(n + 3), "aspect": aspect})
    return [
        *decoder(folder),
        "lora.layers=last 1",
        f"data.preferences=[{write_rows(folder / 'preferences.jsonl', pairs)}]",
        f"data.capabilities=[{write_rows(folder / 'labels' / 'preferences.jsonl', about)}]",
        f"data.rubric={folder / 'rubric.yaml'}",
    ]


def gated(folder: Path) -> list[str]:
    few = ["data.tasks=[chat, code]", "data.preferences=120", "data.labelled=60", "data.test=40"]
    return [*TINY, *SMALL, *few, "lora.layers=last 1"]


def routed(folder: Path) -> list[str]:
    rows = ["data.ratings=300", "data.preferences=250", "data.test=60", "router.least=30"]
    rows += ["router.settings.steps=20", "router.settings.rank=4"]
    heads = ["experts.ridge={folds: 2, bootstrap: 10, unfit: mean}", "gate.settings.steps=10", "gate.settings.rank=4"]
    return [*TINY, *rows, *heads, "compare.samples=10", "compare.bag_of_words=0"]


def categories(folder: Path) -> list[str]:
    """Write a pack: two answers to each prompt, rated in what the recipe names, and pairs of its categories."""
    tasks = yaml.safe_load((RECIPES / "real-tasks.yaml").read_text())["data"]["tasks"]
    attribute = {"type": "integer", "min": 0, "max": 4, "direction": "higher_is_better"}
    sources = {
        n: {"attributes": {name: attribute}} for n, name in enumerate(x for names in tasks.values() for x in names)
    }
    (folder / "sources.json").write_text(json.dumps({"rated": sources}))
    rated, pairs = [], []
    for number, (task, names) in enumerate([*tasks.items(), ("translation", [])]):
        for n in range(40):
            row = {"category": task, "source": task, "split": "test" if n % 4 == 3 else "train"}
            pairs.append(
                {**row, "id": f"p{number}-{n}", "prompt": asked(task, n), "chosen": said(n), "rejected": said(n + 3)}
            )
            ratings = [dict.fromkeys(names, (n + side) % 5) for side in (0, 1)]
            rated += [
                {
                    **row,
                    "id": f"r{number}-{n}-{side}",
                    "messages": asked(task, 100 + n) + said(n + side),
                    "ratings": given,
                }
                for side, given in enumerate(ratings)
                if given
            ]
    write_rows(folder / "rated.jsonl", rated)
    write_rows(folder / "preferences.jsonl", pairs)
    where = [f"backbone.path={tiny_encoder(folder / 'backbone')}", "backbone.max_tokens=128"]
    return [f"data.folder={folder}", *where, *SMALL, "lora.layers=last 1"]


DATA = {
    "real-tasks": categories,
    "dmoerm-paper": published,
    "dmoerm-own-data": own,
    "lora-gated": gated,
    "armorm-routed": routed,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", DATA)
def test_a_recipe_runs_from_its_file_to_a_scored_row(name: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    sets = [part for item in DATA[name](tmp_path / "data") for part in ("--set", item)]
    ran = command("run", RECIPES / f"{name}.yaml", "--out", tmp_path / "run", *sets)
    assert ran.code == 0, ran.err
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    rows = write_rows(tmp_path / "rows.jsonl", [{"messages": asked("letters", 3) + said(4)}])
    scored = command("score", tmp_path / "run", "--data", rows)
    assert scored.code == 0, scored.err
    (row,) = map(json.loads, scored.out.splitlines())
    assert math.isfinite(row["reward"])
    assert abs(row["reward"] - row["base"] - math.fsum(row["contributions"].values())) <= 1e-5
    assert row["model"] == metrics["hashes"]["model"]
    if name == "dmoerm-paper":
        assert set(metrics["tasks"]) == set(MTMC_TASKS.values())
        assert metrics["assigned"]["routed_total"] > 0, "other labels are routed"
        assert not any(expert["name"].endswith("/overall") for expert in metrics["experts"])
        assert metrics["fallback"] is None
    if name == "dmoerm-own-data":
        assert {expert["name"] for expert in metrics["experts"]} >= {"letters/overall", "tales/plot"}
        assert metrics["fallback"]["train"] > 0
    if name == "real-tasks":
        assert {e["name"] for e in metrics["experts"]} >= {"math/gsm8k-is_correct", "code/overall"}
        assert metrics["assigned"]["routed_total"] > 0, "a category that is no task is routed"
    if name == "lora-gated":
        assert abs(sum(row["weights"].values()) - 1) <= 1e-5, "the prompt weighs the experts"
    if name == "armorm-routed":
        assert "routed" in metrics["pair_accuracy"]["noisy"]
        assert metrics["routing"]["gates"]
