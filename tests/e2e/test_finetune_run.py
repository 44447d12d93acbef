"""A fine-tuning from its recipe to a scored row: LoRA, merged and full; resumed, launched, refused."""

from __future__ import annotations

import copy
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from test_recipe_lines import files, sources

from command_line import Said, assert_refused, command
from facetrm.fit.trainer import HeadsTrainer
from facetrm.hub.load import load_model
from facetrm.recipes.run import run_recipe
from fakes import tiny_decoder
from tiny_runs import GOOD, PAIR, recipe, write_recipe, write_rows

ROOT = Path(__file__).parents[2]
SMALL: dict[str, Any] = {
    "recipe": "finetune",
    "data": {"kind": "world", "ratings": 300, "preferences": 150, "test": 100},
    "tiny": recipe()["tiny"],
    "frozen": {
        "ridge": {"folds": 2, "bootstrap": 0, "unfit": "mean", "alphas": [0.1, 10.0]},
        "linear": {"folds": 2},
    },
    "finetune": {"lora": {"rank": 4}, "trainer": {"max_steps": 6, "learning_rate": 1e-2, "logging_steps": 1}},
    "samples": 20,
    "save_backbone": "copy",
}


def small(**sections: Any) -> dict[str, Any]:
    """Return the small recipe with sections replaced, and settings of ``finetune`` added."""
    value = copy.deepcopy(SMALL)
    value["finetune"].update(sections.pop("finetune", {}))
    return {key: part for key, part in {**value, **sections}.items() if part is not None}


def run(folder: Path, **sections: Any) -> Said:
    return command("run", write_recipe(folder.parent / f"{folder.name}.yaml", small(**sections)), "--out", folder)


@pytest.fixture(scope="module")
def lora(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "lora"
    said = run(folder)
    assert said.code == 0, said.err
    assert "held-out pairs" in said.out
    return folder


def scored(folder: Path, tmp_path: Path) -> list[dict[str, Any]]:
    said = command("score", folder, "--data", write_rows(tmp_path / "rows.jsonl", [PAIR]), "--mode", "exact")
    assert said.code == 0, said.err
    return [json.loads(line) for line in said.out.splitlines()]


def test_a_run_leaves_what_it_says(lora: Path, tmp_path: Path) -> None:
    metrics = json.loads((lora / "metrics.json").read_text())
    card = (lora / "model" / "README.md").read_text(encoding="utf-8")
    assert f"| this model | {100 * metrics['pair_accuracy']['noisy']['reward']['value']:.1f}% |" in card
    assert metrics["recipe"] == "finetune"
    assert metrics["training"]["steps"] == 6
    assert [e["step"] for e in metrics["training"]["history"] if "loss" in e] == [1, 2, 3, 4, 5, 6]
    systems = {"reward", "preference", "objectives", "frozen_preference", "frozen_objectives"}
    assert set(metrics["pair_accuracy"]["noisy"]) == set(metrics["pair_accuracy"]["true"]) == systems
    assert set(metrics["pair_accuracy"]["gained"]) == {"preference", "objectives"}
    # The reward is pinned to the preference head, whose standardised scores keep its order.
    assert metrics["pair_accuracy"]["noisy"]["reward"] == metrics["pair_accuracy"]["noisy"]["preference"]
    assert len(metrics["objectives_test"]) == len(metrics["objectives_test_frozen"]) == 22
    assert metrics["mean_spearman"] != metrics["mean_spearman_frozen"]
    heads = load_file(lora / "heads.safetensors")
    trained = load_file(lora / "training" / "trained.safetensors")
    assert {name: tuple(t.shape) for name, t in heads.items()} == {
        "bias_K": (22,),
        "preference_D": (16,),
        "weight_KD": (22, 16),
    }
    for name, tensor in heads.items():
        assert torch.equal(tensor, trained[f"heads.{name}"]), name
        assert not torch.equal(tensor, load_file(lora / "frozen.safetensors")[name]), name
    adapter = load_file(lora / "adapter" / "adapter_model.safetensors")
    assert len(adapter) == 2 * 7
    for name, tensor in adapter.items():
        inner = name.removeprefix("base_model.model.").replace(".weight", ".default.weight")
        assert torch.equal(tensor, trained[f"trunk.{inner}"]), name
    assert not list((lora / "training").glob("checkpoint-*"))


def test_the_model_scores_and_explains_itself(lora: Path, tmp_path: Path) -> None:
    for row in scored(lora, tmp_path):
        assert math.isfinite(row["reward"])
        assert abs(row["reward"] - row["base"] - math.fsum(row["contributions"].values())) <= 1e-5
        assert row["weights"]["preference"] == 1.0
        assert len(row["ratings"]) == 23
    said = command("explain", lora)
    assert said.code == 0, said.err
    assert "preference" in said.out
    pinned = command("score", lora, "--data", write_rows(tmp_path / "r.jsonl", [GOOD]), "--pin", "birch-empathy=1")
    assert json.loads(pinned.out)["weights"]["birch-empathy"] == 1.0


def test_a_copied_model_moves_with_its_adapter(lora: Path, tmp_path: Path) -> None:
    before = scored(lora, tmp_path)
    manifest = json.loads((lora / "model" / "manifest.json").read_text())
    assert manifest["encoder"]["spec"]["path"] == "backbone"
    assert manifest["encoder"]["spec"]["adapter"] == "backbone/adapter"
    moved = tmp_path / "elsewhere"
    subprocess.run(["cp", "-r", str(lora / "model"), str(moved)], check=True)
    assert scored(moved, tmp_path) == before
    # Its bare trunk is another encoder: the heads do not go with it.
    manifest["encoder"]["spec"]["adapter"] = None
    (moved / "manifest.json").write_text(json.dumps(manifest))
    assert_refused(command("score", moved, "--data", tmp_path / "rows.jsonl"), "the encoder's fingerprint")


def test_merged_and_unmerged_scores_agree(lora: Path, tmp_path: Path) -> None:
    said = run(tmp_path / "merged", merge=True)
    assert said.code == 0, said.err
    metrics = json.loads((tmp_path / "merged" / "metrics.json").read_text())
    assert 0 < metrics["training"]["merged_largest_change"] < 1e-4
    spec = json.loads((tmp_path / "merged" / "model" / "manifest.json").read_text())["encoder"]["spec"]
    assert spec["adapter"] is None
    assert not [key for key in load_file(tmp_path / "merged" / "backbone" / "model.safetensors") if "lora" in key]
    one, other = scored(lora, tmp_path), scored(tmp_path / "merged", tmp_path)
    for a, b in zip(one, other, strict=True):
        assert a["scores"].keys() == b["scores"].keys()
        assert max(abs(a["scores"][name] - b["scores"][name]) for name in a["scores"]) < 1e-4
    assert torch.equal(*(load_file(f / "heads.safetensors")["weight_KD"] for f in (lora, tmp_path / "merged")))


def test_full_training_writes_a_trunk(tmp_path: Path) -> None:
    said = run(tmp_path / "full", finetune={"method": "full"}, save_backbone="reference")
    assert said.code == 0, said.err
    trained = load_file(tmp_path / "full" / "training" / "trained.safetensors")
    trunk = load_file(tmp_path / "full" / "backbone" / "model.safetensors")
    base = load_file(tmp_path / "full" / "base" / "model.safetensors")
    for name, tensor in trunk.items():
        assert torch.equal(tensor, trained[f"trunk.{name}"]), name
        assert not torch.equal(tensor, base[f"model.{name}" if f"model.{name}" in base else name]), name
    assert not (tmp_path / "full" / "adapter").exists()
    assert len(scored(tmp_path / "full", tmp_path)) == 2


@pytest.mark.parametrize(
    ("given", "reward", "weights"),
    [
        ({"preference": 0.0}, {}, {"preference": None, "birch-empathy": 1 / 22}),
        ({"regression": 0.0}, {}, {"preference": 1.0}),
        ({}, {"preference": 0.56}, {"preference": 0.56, "birch-empathy": 0.02}),
    ],
    ids=["ratings alone", "pairs alone", "shared"],
)
def test_whom_the_reward_listens_to(given: Any, reward: Any, weights: Any, tmp_path: Path) -> None:
    said = run(tmp_path / "run", finetune=given, reward=reward)
    assert said.code == 0, said.err
    row = scored(tmp_path / "run", tmp_path)[0]
    for name, weight in weights.items():
        assert row["weights"].get(name) == (None if weight is None else pytest.approx(weight, abs=1e-6))
    assert math.fsum(row["weights"].values()) == pytest.approx(1.0, abs=1e-5)


def test_a_run_that_was_killed_goes_on_to_the_same_bytes(lora: Path, tmp_path: Path, monkeypatch) -> None:
    folder = tmp_path / "run"
    usual = HeadsTrainer.log

    def log(self: HeadsTrainer, logs: dict[str, float], start_time: float | None = None) -> None:
        usual(self, logs, start_time)
        if self.state.global_step == 4:
            raise KeyboardInterrupt

    trainer = {**SMALL["finetune"]["trainer"], "save_steps": 2}
    with monkeypatch.context() as patch:
        patch.setattr(HeadsTrainer, "log", log)
        said = run(folder, finetune={"trainer": trainer})
    assert said.code == 130
    assert "run the same command again" in said.err
    assert (folder / "training" / "checkpoint-2").exists()
    assert not (folder / "model").exists()
    again = run(folder, finetune={"trainer": trainer})
    assert again.code == 0, again.err
    assert "checkpoint-2" in again.err
    for name in ("heads.safetensors", "adapter/adapter_model.safetensors"):
        assert (folder / name).read_bytes() == (lora / name).read_bytes(), name
    other = run(folder, finetune={"trainer": {**trainer, "max_steps": 7}})
    assert_refused(other, "holds a training with other settings (trainer)", "give another run folder")


def test_frozen_heads_of_other_settings_are_refused(lora: Path, tmp_path: Path) -> None:
    shutil.copytree(lora, tmp_path / "run")
    said = run(tmp_path / "run", frozen={**SMALL["frozen"], "ridge": {**SMALL["frozen"]["ridge"], "alphas": [3.0]}})
    assert_refused(said, "frozen.safetensors", "holds heads of another backbone, other data or other settings")


def test_an_objective_that_nobody_rates_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    sets = files(tmp_path / "data")
    declared = yaml.safe_load((tmp_path / "data" / "objectives.yaml").read_text())
    bare = {"name": "mine-z", "low": 0, "high": 4}
    (tmp_path / "data" / "objectives.yaml").write_text(yaml.safe_dump([*declared, bare]))
    value = small(tiny=None, backbone={"path": str(tiny_decoder(tmp_path / "b")), "device": "cpu"})
    value["data"] = {"kind": "files", "ratings": ["x"], "preferences": ["x"], "objectives": "x"}
    path = write_recipe(tmp_path / "r.yaml", value)
    said = command("run", path, "--out", tmp_path / "run", *(part for item in sets for part in ("--set", item)))
    assert_refused(said, "objective 'mine-z'", "no training row rates it")


def test_a_wholly_trained_trunk_is_float32_unless_it_is_told_otherwise(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    data = files(tmp_path / "data")
    backbone = tiny_decoder(tmp_path / "b")
    value = small(tiny=None, backbone={"path": str(backbone), "device": "cpu"}, finetune={"method": "full"})
    value["data"] = {"kind": "files", "ratings": ["x"], "preferences": ["x"], "objectives": "x"}
    value["frozen"] = {"fit": False}
    sets = [part for item in data for part in ("--set", item)]
    for dtype, wanted in (("auto", torch.float32), ("bfloat16", torch.bfloat16)):
        path = write_recipe(tmp_path / f"{dtype}.yaml", {**value, "backbone": {**value["backbone"], "dtype": dtype}})
        said = command("run", path, "--out", tmp_path / dtype, *sets)
        assert said.code == 0, said.err
        trunk = load_file(tmp_path / dtype / "backbone" / "model.safetensors")
        assert {tensor.dtype for tensor in trunk.values()} == {wanted}
        assert ("lose small updates" in said.err) == (dtype == "bfloat16")
        heads = load_file(tmp_path / dtype / "heads.safetensors")
        assert {tensor.dtype for tensor in heads.values()} == {torch.float32}


def test_the_trained_trunk_is_a_backbone_of_the_armorm_recipe(lora: Path, tmp_path: Path) -> None:
    value = recipe(tiny=None, backbone={"path": str(lora / "base"), "adapter": str(lora / "adapter")})
    done = run_recipe(write_recipe(tmp_path / "armorm.yaml", value), out=tmp_path / "armorm")
    assert done.metrics["hashes"]["encoder"] == load_model(lora).encoder.fingerprint
    assert len(scored(tmp_path / "armorm", tmp_path)) == 2


@pytest.mark.slow
def test_the_launcher_of_accelerate_starts_it(lora: Path, tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "r.yaml", small())
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}"}
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1"]
    done = subprocess.run(
        [*launch, "-m", "facetrm", "run", str(path), "--out", str(tmp_path / "run")],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "held-out pairs" in done.stdout
    for name in ("heads.safetensors", "adapter/adapter_model.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (lora / name).read_bytes(), name


@pytest.mark.slow
def test_two_processes_train_one_model(tmp_path: Path) -> None:
    path = write_recipe(
        tmp_path / "r.yaml", small(finetune={"trainer": {**SMALL["finetune"]["trainer"], "save_steps": 3}})
    )
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*launch, "-m", "facetrm", "run", str(path), "--out", str(tmp_path / "run")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}", "ACCELERATE_USE_CPU": "true"},
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("Verdict:") == 1
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    # Two processes with 8 examples each a step: 300 examples are an epoch of 19 steps, not of 38.
    first = metrics["training"]["history"][0]
    assert first["epoch"] == pytest.approx(1 / 19, rel=1e-3)
    assert len(scored(tmp_path / "run", tmp_path)) == 2


@pytest.mark.slow
def test_a_sharded_trunk_has_the_gradients_of_a_whole_one(tmp_path: Path) -> None:
    backbone = tiny_decoder(tmp_path / "backbone")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*launch, str(ROOT / "tests" / "sharded_training.py"), str(backbone)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT / "src", ROOT / "tests")))},
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout.strip().splitlines()[-1])
    assert said["largest"] > 0.01
    assert said["difference"] <= 1e-5 * said["largest"]
    assert said["gathered"] is True


def test_the_recipe_for_a_large_model_runs_on_a_tiny_one(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    sets = [
        *sources(tmp_path / "data"),
        f"backbone.path={tiny_decoder(tmp_path / 'backbone')}",
        "backbone.max_tokens=256",
        "backbone.device=cpu",
        "finetune.lora.rank=2",
        "finetune.trainer.max_steps=2",
        "finetune.trainer.gradient_accumulation_steps=2",
        "finetune.trainer.dataloader_num_workers=0",
        "samples=20",
    ]
    path = ROOT / "recipes" / "finetune-llama3-8b.yaml"
    said = command("run", path, "--out", tmp_path / "run", *(part for item in sets for part in ("--set", item)))
    assert said.code == 0, said.err
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert set(metrics["pair_accuracy"]["noisy"]) == {"reward", "preference", "objectives"}
    assert metrics["mean_spearman_frozen"] is None
    assert not (tmp_path / "run" / "frozen.safetensors").exists()
    tensors = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    assert {t.dtype for t in tensors.values()} == {torch.float32}
    assert len(scored(tmp_path / "run", tmp_path)) == 2


BAD: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "a misspelt argument": (
        small(finetune={"trainer": {"learning_rat": 1}}),
        ("unknown setting 'finetune.trainer.learning_rat'", "did you mean 'learning_rate'?"),
    ),
    "merging what has no adapter": (small(finetune={"method": "full"}, merge=True), ("'merge' needs an adapter",)),
    "nothing to learn": (
        small(finetune={"regression": 0, "preference": 0}),
        ("regression and preference are both 0",),
    ),
    "no backbone": (small(tiny=None), ("give one of the sections 'backbone' and 'tiny'",)),
    "an adapter under an adapter": (
        small(tiny=None, backbone={"path": "x", "adapter": "y"}),
        ("'finetune' makes its own adapter",),
    ),
    "an adapter without rank": (small(finetune={"lora": {"rank": 0}}), ("'finetune.lora.rank' is 0",)),
    "a share above 1": (small(reward={"preference": 1.5}), ("'reward.preference' is 1.5",)),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_recipe_is_refused(name: str, tmp_path: Path) -> None:
    value, fragments = BAD[name]
    path = write_recipe(tmp_path / "bad.yaml", value)
    assert_refused(command("run", path, "--out", tmp_path / "run"), str(path), *fragments)
    assert not (tmp_path / "run").exists()


def test_no_such_adapter_is_refused(lora: Path, tmp_path: Path) -> None:
    value = recipe(tiny=None, backbone={"path": str(lora / "base"), "adapter": str(tmp_path / "none")})
    path = write_recipe(tmp_path / "bad.yaml", value)
    assert_refused(command("run", path, "--out", tmp_path / "run"), "none: no such adapter folder")
