"""DMoERM from its recipe to a readable score: two tasks of the world behind a router, one trunk under all experts."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
from html import unescape
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from command_line import assert_refused, command
from facetrm.data.read.files import read_preferences
from facetrm.data.world import World
from facetrm.explain.edits import edit
from facetrm.fit.trainer import HeadsTrainer
from facetrm.hub.load import load_model
from facetrm.model.concat import ConcatMLP
from facetrm.model.reward_model import RewardModel
from facetrm.recipes.dmoerm.fit import DmoermRun
from facetrm.recipes.evaluation.gathered import gather_results
from facetrm.recipes.run import run_recipe
from tiny_dmoerm import QUICK, SMALL, run, small
from tiny_runs import write_recipe, write_rows

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> DmoermRun:
    folder = tmp_path_factory.mktemp("runs") / "two"
    found: DmoermRun = run_recipe(write_recipe(folder.parent / "two.yaml", small()), out=folder)
    return found


@pytest.fixture(scope="module")
def rows(done: DmoermRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file of test pairs."""
    path = tmp_path_factory.mktemp("rows") / "pairs.jsonl"
    return write_rows(path, [json.loads(p.model_dump_json()) for p in done.judgement.pairs[:12]])


def scored(folder: Path, rows: Path, *options: str) -> list[dict[str, Any]]:
    said = command("score", folder, "--data", rows, "--mode", "exact", *options)
    assert said.code == 0, said.err
    return [json.loads(line) for line in said.out.splitlines()]


def metrics_of(folder: Path) -> dict[str, Any]:
    """Return the figures of a run without what depends on the clock."""
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics.pop("seconds")
    metrics["backbone_training"].pop("seconds", None)
    fits = [*(f for t in metrics["tasks"].values() for f in (t["base"], *t["experts"].values())), metrics["fallback"]]
    for fit in (*fits, *metrics["rivals"]["members"]):
        fit.pop("seconds")
    return dict(metrics)


def test_a_run_leaves_what_it_says(done: DmoermRun) -> None:
    folder = done.folder
    for name in ("config.resolved.yaml", "metrics.json", "report.html", "pair.jsonl", "model/README.md"):
        assert (folder / name).stat().st_size > 0, name
    trained = {"all", "chat", "code", *(n for f in done.fit.inner.values() for n in f.mixture.adapters)}
    assert {path.name for path in (folder / "adapters").iterdir()} == trained
    assert {path.name for path in (folder / "training").iterdir()} == trained
    assert not list((folder / "training").rglob("checkpoint-*"))
    assert {path.name for path in (folder / "rivals" / "adapters").iterdir()} == {"rival-1", "rival-2"}
    assert not [path for path in (folder / "model").rglob("*") if "rival" in path.name], "rivals are no part of a model"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["recipe"] == "dmoerm"
    assert metrics["router"]["held_out"]["accuracy"]["value"] == pytest.approx(done.fit.router.report.accuracy.value)
    assert metrics["assigned"]["given_total"] == 120
    assert list(metrics["tasks"]) == ["chat", "code"]
    for task, found in metrics["tasks"].items():
        assert set(found["experts"]) == {e["name"] for e in metrics["experts"] if e["task"] == task}
        assert f"{task}/overall" in found["experts"]
        assert len(found["experts"]) == 3
        overall = World().preferences_of(SMALL["data"]["tasks"], 120, part="gate")
        assert found["rows"]["base"] + found["rows"]["mix"] == sum(p.task == task for p in overall)
        assert found["aggregator"]["counts"]["train"] == found["rows"]["mix"], "and nothing that experts saw"
    fits = [fit for found in metrics["tasks"].values() for fit in (*found["experts"].values(), found["aggregator"])]
    assert {fit["best_step"] > 0 for fit in fits} == {True, False}, "some were trained to their gain, some were not"
    rivals = {"single_rm", "routed_linear", "linear_bt"}
    rivals |= {f"ensemble_{kind}" for kind in ("mean", "median", "worst", "uncertainty")}
    systems = {"model", "task_rm", "mean_of_experts", "longer", *rivals}
    assert set(metrics["pair_accuracy"]["noisy"]) == set(metrics["pair_accuracy"]["true"]) == systems
    assert set(metrics["pair_accuracy"]["by_task"]) == {"chat", "code"}
    assert set(metrics["pair_accuracy"]["model_minus"]) == systems - {"model"}
    assert sum(metrics["used"].values()) == 60
    for task in ("chat", "code"):
        shares = [e["share"] for e in metrics["experts"] if e["task"] == task]
        assert not shares or sum(shares) == pytest.approx(1.0)
    drawn = [(f"{t}/{n}", x) for t, row in gather_results([folder]).runs[0].shares.items() for n, x in row.items()]
    assert drawn == [(e["name"], e["share"]) for e in metrics["experts"] if e["share"] is not None]
    page = (folder / "report.html").read_text()
    for part in ('id="router"', 'id="capabilities"', 'id="tasks"', "chat/overall", "code/overall"):
        assert part in page
    assert "Undefined" not in page
    assert metrics["verdict"]["accuracy"] == metrics["pair_accuracy"]["noisy"]["model"]
    assert metrics["verdict"]["statement"] in unescape(page)


def test_every_figure_is_documented(done: DmoermRun) -> None:
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"`([\w.-]+?)(?:\.<\w+>)?`", page))
    metrics = json.loads((done.folder / "metrics.json").read_text())
    chat = metrics["tasks"]["chat"]
    inside = (
        "verdict",
        "rows",
        "seeds",
        "hashes",
        "router",
        "assigned",
        "fallback",
        "pair_accuracy",
        "adapters",
        "rivals",
    )
    parts = [metrics, *(metrics[name] for name in inside), metrics["pair_accuracy"]["noisy"], metrics["experts"][0]]
    parts += [chat, chat["base"], chat["aggregator"]]
    assert {name for part in parts for name in part if not name.endswith("_total")} <= documented


def test_a_run_says_which_experts_training_has_moved(done: DmoermRun) -> None:
    metrics = json.loads((done.folder / "metrics.json").read_text())
    fits = {f"{task}/overall": found["base"] for task, found in metrics["tasks"].items()}
    for found in metrics["tasks"].values():
        fits |= found["experts"]
    unmoved = sorted(name for name, fit in fits.items() if not fit["kept"])
    assert metrics["adapters"] == {"trained": len(fits), "unchanged": len(unmoved), "linear_heads": unmoved}
    for name, fit in fits.items():
        assert fit["kept"] == (fit["best_step"] > 0) == (fit["change"] > 0), name
        assert fit["steps"] == 4
        assert fit["rate"] == 0.01
        assert fit["kept"] or (fit["loss"], fit["accuracy"]) == (fit["start_loss"], fit["start"])
    text = (done.folder / "report.html").read_text(encoding="utf-8")
    said = f"{len(unmoved)} of {len(fits)} adapters unchanged" if unmoved else f"All {len(fits)} adapters beat"
    assert said in text


def test_rivals_see_the_same_labels_and_stand_in_every_table(done: DmoermRun) -> None:
    metrics = json.loads((done.folder / "metrics.json").read_text())
    rivals = {"single_rm", "routed_linear", "linear_bt"}
    rivals |= {f"ensemble_{kind}" for kind in ("mean", "median", "worst", "uncertainty")}
    found = metrics["pair_accuracy"]
    for table in (found["noisy"], found["true"], *found["by_task"].values()):
        assert rivals <= table.keys()
    assert rivals <= found["model_minus"].keys()
    for member in metrics["rivals"]["members"]:
        assert member["train"] + member["validation"] == metrics["rows"]["preferences"]
        assert member["steps"] == 8, "the steps of both phases"
    one, other = (m["start_loss"] for m in metrics["rivals"]["members"])
    assert one != other, "members have their own seeds"


def test_the_saved_model_scores_what_the_trained_one_does(done: DmoermRun, rows: Path) -> None:
    talks = [talk for p in read_preferences(rows) for talk in (p.chosen, p.rejected)]
    loaded = load_model(done.folder)
    assert loaded.hash == done.fit.model.hash == load_model(done.folder / "model").hash
    assert loaded.encoder.fingerprint == done.fit.model.encoder.fingerprint
    for mine, theirs in zip(done.fit.model.score(talks), loaded.score(talks), strict=True):
        assert mine.to_dict() == theirs.to_dict()


def test_every_score_shows_its_task_and_its_experts(done: DmoermRun, rows: Path) -> None:
    found = scored(done.folder, rows)
    assert len(found) == 24
    experts = {task: set(fit.mixture.names) for task, fit in done.fit.inner.items()} | {"all": {"all/overall"}}
    for row in found:
        assert set(row["scores"]) == set(row["contributions"])
    talks = [talk for p in read_preferences(rows) for talk in (p.chosen, p.rejected)]
    for score in load_model(done.folder).score(talks):
        assert score.routed in ("chat", "code")
        assert 0.5 <= score.confidence <= 1.0
        assert score.task == (score.routed if score.confidence >= 0.75 else "all")
        assert set(score.ratings) == set(score.contributions) == experts[score.task]
        assert all(map(math.isfinite, score.ratings.values()))
        assert score.base + math.fsum(score.contributions.values()) == pytest.approx(score.reward, abs=1e-5)
    assert {score.task for score in load_model(done.folder).score(talks)} & {"chat", "code"}


def test_a_margin_is_the_difference_of_the_contributions(done: DmoermRun, rows: Path) -> None:
    model = load_model(done.folder)
    moved = 0.0
    for p in read_preferences(rows):
        one, other = model.score([p.chosen, p.rejected])
        assert one.task == other.task
        gaps = [one.contributions[name] - other.contributions[name] for name in one.contributions]
        assert math.fsum(gaps) == pytest.approx(one.reward - other.reward, abs=1e-5)
        moved = max(moved, abs(one.reward - other.reward))
    assert moved > 1e-3


def bare_storages(model: RewardModel) -> dict[str, int]:
    return {name: p.untyped_storage().data_ptr() for name, p in model.encoder.model.named_parameters()}


def test_one_trunk_serves_all_experts(done: DmoermRun) -> None:
    model = load_model(done.folder)
    base = load_file(done.folder / "backbone" / "model.safetensors")
    trunk = dict(model.encoder.model.named_parameters())
    frozen = {name: p for name, p in trunk.items() if "lora_" not in name}
    assert sum(p.numel() for p in frozen.values()) == sum(
        t.numel() for name, t in base.items() if not name.startswith("lm_head")
    )
    assert len(set(bare_storages(model).values())) == len(trunk), "no tensor is there twice"
    adapters = len(model.encoder.adapters)
    assert adapters == 7
    of_one = sum(p.numel() for name, p in trunk.items() if "lora_" in name) // adapters
    assert of_one == sum(p.numel() for name, p in trunk.items() if ".chat." in name)
    # Every mixture reads the same trunk, and the heads hold none of it.
    held = {
        id(p)
        for mixture in model.mixtures.values()
        for p in (*mixture.experts.parameters(), *mixture.aggregator.parameters())
    }
    assert not held & {id(p) for p in trunk.values()}
    saved = [path for path in (done.folder / "model").rglob("*.safetensors") if path.stat().st_size > 0]
    whole = [path for path in saved if any(name.endswith("embed_tokens.weight") for name in load_file(path))]
    assert len(whole) == 1
    # What was trained is an adapter a folder: the trunk is what it was before.
    for name, tensor in base.items():
        inner = name.removeprefix("model.").replace(".weight", ".base_layer.weight")
        plain = name.removeprefix("model.")
        if inner in frozen or plain in frozen:
            assert torch.equal(tensor, frozen[inner if inner in frozen else plain]), name


def test_edits_and_ablation_know_the_experts(done: DmoermRun, rows: Path) -> None:
    model = load_model(done.folder)
    talks = [p.chosen for p in read_preferences(rows)]
    task = next(score.task for score in model.score(talks) if score.task != "all")
    name = model.mixture(task).names[0]
    edited = edit(model, drop=[name])
    changed = False
    for before, after in zip(model.score(talks), edited.score(talks), strict=True):
        if before.task != task:
            assert after.reward == before.reward
            continue
        assert after.contributions[name] == 0.0
        changed |= abs(after.reward - before.reward) > 1e-6
        assert after.base + math.fsum(after.contributions.values()) == pytest.approx(after.reward, abs=1e-5)
    assert changed
    assert edited.hash != model.hash
    dropped = scored(done.folder, rows, "--drop", name)
    assert dropped != scored(done.folder, rows)
    assert_refused(command("score", done.folder, "--data", rows, "--scale", f"{name}=2"), "no weight to scale; drop")
    said = command("explain", done.folder, "--data", rows, "--overall", "--json")
    assert said.code == 0, said.err
    whole = json.loads(said.out)["tasks"]
    assert set(whole) <= {"chat", "code", "all"}
    for found, views in whole.items():
        assert views["ablation"] is not None
        lines = {line["objective"] for line in views["ablation"]["lines"]}
        assert lines | set(views["ablation"]["needed"]) == set(model.mixture(found).names)


def test_a_pair_is_explained_on_the_command_line(done: DmoermRun, tmp_path: Path) -> None:
    said = command("explain", done.folder, "--html", tmp_path / "pair.html")
    assert said.code == 0, said.err
    one = load_model(done.folder).score([done.explained.chosen])[0]
    for name in one.contributions:
        assert name.split("/")[-1] in said.out
    assert (tmp_path / "pair.html").stat().st_size > 1000


def test_the_doctor_finds_no_fault(done: DmoermRun, rows: Path) -> None:
    for options in (("--allow", "unknown-words"), ("--data", rows, "--allow", "precision-drift")):
        said = command("doctor", done.folder, "--json", "--device", "cpu", *options)
        found = json.loads(said.out)
        assert said.code == 0, found["findings"]
        assert found["healthy"]


def test_a_copied_model_moves_with_all_adapters(done: DmoermRun, rows: Path, tmp_path: Path) -> None:
    before = scored(done.folder, rows)
    moved = tmp_path / "elsewhere"
    shutil.copytree(done.folder / "model", moved)
    assert scored(moved, rows) == before


def test_the_same_run_twice_has_the_same_figures_and_uses_what_is_there(
    done: DmoermRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "again"
    shutil.copytree(done.folder, folder)
    shutil.rmtree(folder / "model")
    (folder / "metrics.json").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(HeadsTrainer, "train", lambda *a, **k: pytest.fail("it was trained again"))
        said = run(folder)
    assert said.code == 0, said.err
    assert "held-out rows correct" in said.out
    assert "Against the labels, by task" in said.out
    assert metrics_of(folder) == metrics_of(done.folder)
    other = run(folder, experts={"training": {**QUICK, "seed": 3}})
    assert_refused(other, "holds a training with other settings", "give another run folder")


def test_a_run_that_was_interrupted_goes_on_to_the_same_figures(
    done: DmoermRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "broken"
    usual = HeadsTrainer.log
    names: list[str] = []

    def log(self: HeadsTrainer, logs: dict[str, float], start_time: float | None = None) -> None:
        usual(self, logs, start_time)
        names.append(Path(str(self.args.output_dir)).name)
        if names[-1].startswith("code--") and self.state.global_step == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(HeadsTrainer, "log", log)
        said = run(folder, done.folder)
    assert said.code == 130
    assert "run the same command again" in said.err
    stopped = folder / "training" / names[-1]
    assert (stopped / "checkpoint-2").exists()
    assert not (stopped / "trained.safetensors").exists()
    assert (folder / "training" / "chat" / "trained.safetensors").exists()
    assert not (folder / "model").exists()
    again = command("run", folder.parent / "broken.yaml", "--out", folder)
    assert again.code == 0, again.err
    assert f"{names[-1]}/checkpoint-2" in again.err
    assert metrics_of(folder) == metrics_of(done.folder)
    for path in (done.folder / "adapters").glob("*/adapter_model.safetensors"):
        assert (folder / path.relative_to(done.folder)).read_bytes() == path.read_bytes(), path
    assert load_model(folder).hash == load_model(done.folder).hash


def test_lora_experts_can_be_weighed_by_the_prompt(done: DmoermRun, rows: Path, tmp_path: Path) -> None:
    asked = {**SMALL["aggregator"], "kind": "gated_sum"}
    said = run(tmp_path / "gated", done.folder, trained=True, aggregator=asked)
    assert said.code == 0, said.err
    model = load_model(tmp_path / "gated")
    talks = [p.chosen for p in read_preferences(rows)]
    for score in model.score(talks):
        assert sum(score.weights.values()) == pytest.approx(1.0, abs=1e-5)
        assert score.base + math.fsum(score.contributions.values()) == pytest.approx(score.reward, abs=1e-5)
    assert not isinstance(model.mixture("chat").aggregator, ConcatMLP)
    # The experts are those of the other run, bit for bit: the aggregator alone is another.
    for path in (done.folder / "adapters").glob("*/adapter_model.safetensors"):
        assert (tmp_path / "gated" / path.relative_to(done.folder)).read_bytes() == path.read_bytes(), path
    name = model.mixture("chat").names[0]
    assert scored(tmp_path / "gated", rows, "--scale", f"{name}=2") != scored(tmp_path / "gated", rows)
    assert command("explain", tmp_path / "gated").code == 0
    assert command("explain", tmp_path / "gated", "--data", rows, "--overall").code == 0
    doctor = ["doctor", tmp_path / "gated", "--data", rows, "--device", "cpu", "--allow", "precision-drift"]
    assert command(*doctor).code == 0


def test_one_task_is_a_mixture_alone(done: DmoermRun, rows: Path, tmp_path: Path) -> None:
    data = {**SMALL["data"], "tasks": ["chat"], "preferences": 60, "labelled": 60, "test": 30}
    said = run(tmp_path / "one", done.folder, data=data, experts={"overall": False, "training": QUICK})
    assert said.code == 0, said.err
    metrics = json.loads((tmp_path / "one" / "metrics.json").read_text())
    assert (metrics["router"], metrics["assigned"], metrics["fallback"]) == (None, None, None)
    model = load_model(tmp_path / "one")
    assert model.tasks == ("chat",)
    assert set(model.encoder.adapters) == set(model.mixture("chat").adapters), "the task's own is not kept"
    assert {row["task"] for row in scored(tmp_path / "one", rows)} == {"chat"}
    assert "router" not in (tmp_path / "one" / "report.html").read_text().partition("Not in this report")[2]


@pytest.mark.slow
def test_two_processes_train_one_model(done: DmoermRun, rows: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copytree(done.folder / "backbone", folder / "backbone")
    shutil.copy(done.folder / "backbone.json", folder)
    path = write_recipe(tmp_path / "r.yaml", small())
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    ended = subprocess.run(
        [*launch, "-m", "facetrm", "run", str(path), "--out", str(folder)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}", "ACCELERATE_USE_CPU": "true"},
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert ended.stdout.count("held-out rows correct") == 1
    assert {p.name for p in (folder / "adapters").iterdir()} == {p.name for p in (done.folder / "adapters").iterdir()}
    first = json.loads((folder / "training" / "chat" / "log.jsonl").read_text().splitlines()[0])
    alone = json.loads((done.folder / "training" / "chat" / "log.jsonl").read_text().splitlines()[0])
    assert first["epoch"] > 1.5 * alone["epoch"], "two processes read twice the rows of a step"
    metrics = metrics_of(folder)
    assert metrics["rows"] == metrics_of(done.folder)["rows"]
    assert len(scored(folder, rows)) == 24
