"""Two seeds are two experiments, one seed is the same bytes: the data and every fitted part, for each family."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from facetrm.recipes.run import run_recipe
from tiny_runs import RECIPE, recipe, write_recipe

TINY: dict[str, Any] = {
    "shape": {"hidden": 16, "layers": 1, "heads": 2, "inner": 32},
    "training": {**recipe()["tiny"]["training"], "lesson_steps": 2, "read_steps": 4, "prefer_steps": 1},
}
STEPS: dict[str, Any] = {
    "evaluate_every": 1,
    "gain": 0.0,
    "folds": 0,
    "trainer": {"max_steps": 2, "learning_rate": 0.01, "per_device_train_batch_size": 8},
}
RIDGE: dict[str, Any] = {"folds": 2, "bootstrap": 0, "unfit": "mean", "alphas": [0.1, 10.0]}
FAMILIES: dict[str, dict[str, Any]] = {
    "armorm": {
        **RECIPE,
        "data": {"kind": "world", "ratings": 200, "preferences": 100, "test": 80},
        "tiny": TINY,
        "experts": {"length": True, "ridge": RIDGE},
        "gate": {"settings": {"steps": 4, "rank": 4, "hidden": 8}},
        "router": {"settings": {"steps": 4, "hidden": 4, "samples": 10}, "least": 1000},
        "compare": {"samples": 10, "bag_of_words": 0, "linear": {"folds": 2}},
    },
    "dmoerm": {
        "recipe": "dmoerm",
        "data": {
            "kind": "world",
            "tasks": ["chat", "code"],
            "preferences": 90,
            "labelled": 90,
            "test": 20,
            "most": 1,
        },
        "tiny": TINY,
        "router": {"settings": {"steps": 4, "hidden": 4, "samples": 10}},
        "lora": {"rank": 2, "alpha": 4.0, "dropout": 0.05, "layers": "last 1"},
        "linear": {"folds": 2},
        "base": {"training": STEPS},
        "experts": {"training": STEPS, "least": 2},
        "aggregator": {"concat": {"steps": 4, "hidden": 4}},
        "rivals": {"members": 1},
        "samples": 10,
        "save_backbone": "copy",
    },
    "finetune": {
        "recipe": "finetune",
        "data": {"kind": "world", "ratings": 200, "preferences": 100, "test": 40},
        "tiny": TINY,
        "frozen": {"ridge": RIDGE, "linear": {"folds": 2}},
        "finetune": {"lora": {"rank": 2}, "trainer": {"max_steps": 2, "learning_rate": 0.01}},
        "samples": 10,
        "save_backbone": "copy",
    },
}
PARTS: Mapping[str, tuple[str, ...]] = {
    "armorm": (
        "backbone/model.safetensors",
        "model/router.safetensors",
        "model/mixture-0.safetensors:experts.weight_KD",
        "model/mixture-0.safetensors:aggregator.debias_KK",
        "model/mixture-0.safetensors:aggregator.gate.body.0.weight",
        "model/mixture-0.safetensors:aggregator.gate.head.weight",
        "model/mixture-0.safetensors:aggregator.reference_K",
    ),
    "dmoerm": (
        "backbone/model.safetensors",
        "model/router.safetensors",
        "model/mixture-0.safetensors:experts.weight_KD",
        "model/mixture-1.safetensors:experts.weight_KD",
        "model/mixture-0.safetensors:aggregator.first.weight",
        "model/mixture-1.safetensors:aggregator.last.weight",
        "rivals/adapters/rival-1/adapter_model.safetensors",
    ),
    "finetune": (
        "base/model.safetensors",
        "frozen.safetensors",
        "training/trained.safetensors:heads.weight_KD",
        "training/trained.safetensors:heads.preference_D",
        "adapter/adapter_model.safetensors",
        "model/mixture-0.safetensors:aggregator.reference_K",
    ),
}


def hashes(folder: Path) -> dict[str, str]:
    """Return the sha256 of every tensor of floats, every file of tensors, and the data."""
    found: dict[str, str] = {"data": json.loads((folder / "metrics.json").read_text())["hashes"]["data"]}
    for path in sorted(folder.rglob("*.safetensors")):
        name = str(path.relative_to(folder))
        found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        for key, tensor in load_file(path).items():
            found[f"{name}:{key}"] = hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()
    return found


def trained(folder: Path, seed: int, family: str) -> dict[str, str]:
    settings = {**copy.deepcopy(FAMILIES[family]), "seed": seed}
    run_recipe(write_recipe(folder.parent / f"{folder.name}.yaml", settings), out=folder)
    return hashes(folder)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_two_seeds_differ_in_every_part_and_one_seed_repeats(family: str, tmp_path: Path) -> None:
    one, again, other = (trained(tmp_path / f"run{i}", seed, family) for i, seed in enumerate((1, 1, 0)))
    assert one == again, "one seed"
    parts = ["data", *PARTS[family]]
    if family == "dmoerm":
        parts += [name for name in one if name.startswith(("training/", "adapters/")) and ":" not in name]
        assert sum(name.startswith("adapters/") for name in parts) == 4, "two tasks, and a capability of each"
    for part in parts:
        assert one[part] != other[part], part
