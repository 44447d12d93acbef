"""A DMoERM recipe that runs in seconds: two tasks of the world, adapters of a few steps."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

from command_line import Said, command
from tiny_runs import recipe, write_recipe

QUICK: dict[str, Any] = {
    "evaluate_every": 2,
    "gain": 0.0,
    "folds": 0,
    "trainer": {"max_steps": 4, "learning_rate": 0.01, "per_device_train_batch_size": 8, "logging_steps": 1},
}
SMALL: dict[str, Any] = {
    "recipe": "dmoerm",
    "title": "two tasks",
    "data": {
        "kind": "world",
        "tasks": ["chat", "code"],
        "preferences": 120,
        "labelled": 100,
        "test": 60,
        "most": 2,
    },
    "tiny": {**recipe()["tiny"], "shape": {"hidden": 16, "layers": 2, "heads": 2, "inner": 32}},
    "router": {"settings": {"steps": 40, "hidden": 8, "samples": 20}, "threshold": 0.75},
    "lora": {"rank": 2, "alpha": 4.0, "dropout": 0.05, "layers": "last 1"},
    "linear": {"folds": 2},
    "base": {"training": QUICK},
    "experts": {"training": QUICK},
    "aggregator": {"concat": {"steps": 20, "hidden": 8}, "gate": {"steps": 20, "hidden": 4, "rank": 4}},
    "rivals": {"members": 2},
    "samples": 20,
    "save_backbone": "copy",
}


def small(**sections: Any) -> dict[str, Any]:
    """Return the small recipe with sections replaced; None takes one out."""
    return {key: part for key, part in {**copy.deepcopy(SMALL), **sections}.items() if part is not None}


def run(folder: Path, other: Path | None = None, *, trained: bool = False, **sections: Any) -> Said:
    """Run the small recipe in ``folder``; the trunk of the ``other`` run is used again, or all that was ``trained``."""
    if other is not None:
        folder.mkdir(parents=True)
        shutil.copy(other / "backbone.json", folder)
        for name in ("backbone", "training") if trained else ("backbone",):
            shutil.copytree(other / name, folder / name)
    return command("run", write_recipe(folder.parent / f"{folder.name}.yaml", small(**sections)), "--out", folder)
