"""The recipe of the world, made small, then every verb on what it left."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from command_line import Said, command
from facetrm.data.read.files import write_records
from facetrm.data.world import World
from facetrm.report.run_report import SYSTEM_TITLES
from tiny_runs import OF_ROUTED

ROOT = Path(__file__).parents[2]
SMALL = (
    "data.ratings=300",
    "data.preferences=150",
    "data.test=100",
    "tiny.shape={hidden: 16, layers: 1, heads: 2, inner: 32}",
    "tiny.training={lesson_steps: 6, read_steps: 6, prefer_steps: 2, lessons: 4, rated: 4, pairs: 2}",
    "experts.ridge={folds: 2, bootstrap: 10, unfit: mean}",
    "gate.settings.steps=20",
    "compare.samples=10",
    "compare.bag_of_words=32",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("world") / "run"


@pytest.fixture(scope="module")
def ran(folder: Path) -> Said:
    sets = [part for item in SMALL for part in ("--set", item)]
    return command("run", ROOT / "recipes" / "world.yaml", "--out", folder, *sets)


def test_the_run_shows_what_it_found(ran: Said, folder: Path) -> None:
    assert ran.code == 0, ran.err
    for title in (title for name, title in SYSTEM_TITLES.items() if name not in OF_ROUTED):
        assert title in ran.out, title
    metrics = json.loads((folder / "metrics.json").read_text())
    gate = metrics["pair_accuracy"]["true"]["gate"]
    assert f"{100 * gate:.1f}" in ran.out
    for text in (
        "Accuracy on 100 held-out pairs",
        "almond-verbosity on the reference set",
        f"Spearman {metrics['weight_recovery_spearman']:.2f}",
        f"Open {folder / 'report.html'}",
        f"facetrm explain {folder}",
    ):
        assert text in ran.out, text
    assert max(map(len, ran.out.splitlines())) <= 200
    stages = [line for line in ran.err.splitlines() if line.startswith("stage  name=")]
    assert len(stages) > 5, "progress is lines of text"


def test_the_run_is_whole(ran: Said, folder: Path) -> None:
    assert ran.code == 0
    metrics = json.loads((folder / "metrics.json").read_text())
    assert set(metrics["pair_accuracy"]["true"]) == set(SYSTEM_TITLES) - OF_ROUTED
    assert metrics["backbone_training"]["steps"] == 14
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "ArmoRM on the embedded world" in page
    assert (folder / "model" / "backbone").is_dir(), "the model can be moved"


def test_then_it_scores_rows_of_the_world(ran: Said, folder: Path, tmp_path: Path) -> None:
    write_records(tmp_path / "pairs.jsonl", World().preferences(5, part="test", start=10))
    said = command("score", folder, "--data", tmp_path / "pairs.jsonl", "--out", tmp_path / "scores.jsonl")
    assert said.code == 0, said.err
    rows = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    assert len(rows) == 10
    assert {row["model"] for row in rows} == {json.loads((folder / "metrics.json").read_text())["hashes"]["model"]}
    for row in rows:
        assert abs(row["reward"] - row["base"] - sum(row["contributions"].values())) <= 1e-5
        assert sum(row["weights"].values()) == pytest.approx(1.0, abs=1e-5)
        assert row["truncated"] is False


def test_then_it_explains_itself(ran: Said, folder: Path, tmp_path: Path) -> None:
    assert command("explain", folder, "--html", tmp_path / "pair.html").code == 0
    assert (tmp_path / "pair.html").stat().st_size > 5_000
    shown = json.loads(command("explain", folder, "--json").out)
    assert abs(shown["margin"] - sum(line["difference"] for line in shown["lines"])) <= 1e-5
    assert command("explain", folder, "--overall").code == 0


def test_then_the_same_command_repeats_nothing(ran: Said, folder: Path) -> None:
    sets = [part for item in SMALL for part in ("--set", item)]
    before = json.loads((folder / "metrics.json").read_text())
    said = command("run", ROOT / "recipes" / "world.yaml", "--out", folder, *sets, "--log-json")
    assert said.code == 0
    after = json.loads((folder / "metrics.json").read_text())
    assert after["hashes"] == before["hashes"]
    assert after["pair_accuracy"] == before["pair_accuracy"]
    events = [json.loads(line) for line in said.err.splitlines()]
    assert {"event": "backbone", "found": str(folder / "backbone")} in events
