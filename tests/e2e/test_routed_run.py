"""ArmoRM behind a router: one set of experts, a gate for each task that has pairs enough, the gate of all elsewhere."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from command_line import assert_refused, command
from facetrm.data.read.files import read_preferences
from facetrm.data.world import TASKS, World
from facetrm.hub.load import load_model
from facetrm.recipes.run import Run
from tiny_runs import recipe, run, write_recipe, write_rows

ROUTER: dict[str, Any] = {"settings": {"steps": 60, "hidden": 8, "samples": 20}, "least": 20, "threshold": 0.25}

ALLOWED = ("--allow", "precision-drift")  # two numbers of a tiny random trunk may be near a tie


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run(tmp_path_factory.mktemp("routed") / "run", router=ROUTER)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "pairs.jsonl"
    return write_rows(path, [json.loads(p.model_dump_json()) for p in World().preferences(20, part="test")])


def test_a_task_with_pairs_enough_has_a_gate_of_its_own(done: Run) -> None:
    routed = json.loads((done.folder / "metrics.json").read_text())["routing"]
    counts = dict.fromkeys(TASKS, 0)
    for p in World().preferences(150, part="gate"):
        counts[str(p.task)] += 1
    assert routed["assigned"]["given"] == counts
    assert set(routed["gates"]) == {task for task, count in counts.items() if count >= 20}
    assert routed["shared"] == {task: count for task, count in counts.items() if count < 20}
    assert routed["gates"]
    assert routed["shared"], "else this says less"
    assert set(done.model.mixtures) == {*TASKS, "all"}
    shared = done.model.mixture("all")
    for task in TASKS:
        mixture = done.model.mixture(task)
        assert mixture.experts is shared.experts, "one set of experts"
        same = mixture.aggregator is shared.aggregator
        assert same == (task in routed["shared"])
    assert sum(routed["used"].values()) == 120


def test_the_routed_model_is_the_one_that_is_saved(done: Run, rows: Path) -> None:
    talks = [talk for p in read_preferences(rows) for talk in (p.chosen, p.rejected)]
    loaded = load_model(done.folder)
    assert loaded.hash == done.model.hash != done.fit.model.hash
    used = set()
    for mine, theirs in zip(done.model.score(talks), loaded.score(talks), strict=True):
        assert mine.to_dict() == theirs.to_dict()
        assert theirs.routed in TASKS
        assert theirs.task == (theirs.routed if theirs.confidence >= 0.25 else "all")
        assert theirs.base + math.fsum(theirs.contributions.values()) == pytest.approx(theirs.reward, abs=1e-5)
        assert math.fsum(theirs.weights.values()) == pytest.approx(1.0, abs=1e-5)
        used.add(theirs.task)
    assert len(used) > 1
    own = next(task for task in done.metrics["routing"]["gates"])
    features = loaded.features(talks[:4], task=own)
    with torch.no_grad():
        assert not torch.equal(loaded.mixture(own)(features).weights_NK, loaded.mixture("all")(features).weights_NK)


def test_every_figure_is_documented(done: Run) -> None:
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"`([\w.-]+?)(?:\.<\w+>)?`", page))
    routing = done.metrics["routing"]
    parts = [done.metrics, routing, routing["router"], routing["assigned"], next(iter(routing["gates"].values()))]
    assert {name for part in parts for name in part if not name.endswith("_total")} <= documented


def test_its_margins_stand_beside_those_of_one_gate(done: Run) -> None:
    metrics = done.metrics
    assert {"gate", "routed"} <= set(metrics["pair_accuracy"]["noisy"])
    pairs = list(World().preferences(120, part="test"))
    model = load_model(done.folder)
    first, last = (
        [s.reward for s in model.score([getattr(p, side) for p in pairs])] for side in ("chosen", "rejected")
    )
    right = sum(a > b for a, b in zip(first, last, strict=True)) / len(pairs)
    assert metrics["pair_accuracy"]["noisy"]["routed"] == pytest.approx(right, abs=0.01)
    page = (done.folder / "report.html").read_text()
    for part in ('id="router"', 'id="tasks"', "of these, below the threshold", "Below a confidence of 0.25"):
        assert part in page


def test_it_explains_and_the_doctor_finds_no_fault(done: Run, rows: Path) -> None:
    said = command("explain", done.folder)
    assert said.code == 0, said.err
    said = command("explain", done.folder, "--data", rows, "--overall", "--json")
    assert said.code == 0, said.err
    assert set(json.loads(said.out)["tasks"]) <= {*TASKS, "all"}
    said = command("doctor", done.folder, "--data", rows, "--device", "cpu", "--json", *ALLOWED)
    assert said.code == 0, said.out


def test_a_fall_back_that_is_no_task_is_refused(tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "r.yaml", recipe(router={**ROUTER, "fallback": "chta"}))
    assert_refused(
        command("run", path, "--out", tmp_path / "run"), "router.fallback: unknown task 'chta'", "did you mean 'chat'?"
    )
