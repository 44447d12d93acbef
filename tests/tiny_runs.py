"""A whole run in seconds: the quickstart's recipe with the smallest shapes and a handful of steps."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from facetrm.recipes.run import Run, run_recipe

U = {"role": "user", "content": "as a poet for a friend about river and candle , write a program ."}
A = {"role": "assistant", "content": "two plus two is four ."}
B = {"role": "assistant", "content": "two plus two is five ."}
GOOD = {"messages": [U, A]}
PAIR = {"prompt": [U], "chosen": [A], "rejected": [B]}

RECIPE: Mapping[str, Any] = {
    "recipe": "armorm",
    "title": "tiny",
    "data": {"kind": "world", "ratings": 300, "preferences": 150, "test": 120},
    "tiny": {
        "shape": {"hidden": 16, "layers": 1, "heads": 2, "inner": 32},
        "training": {
            "lesson_steps": 10,
            "read_steps": 20,
            "prefer_steps": 4,
            "lessons": 4,
            "rated": 4,
            "pairs": 2,
            "learning_rate": 0.02,
        },
    },
    "experts": {"length": True, "ridge": {"folds": 2, "bootstrap": 20, "unfit": "mean", "alphas": [0.1, 10.0]}},
    "debias": {"target": "almond-verbosity"},
    "gate": {"settings": {"steps": 20, "rank": 4, "hidden": 8}},
    "compare": {"samples": 20, "bag_of_words": 32, "linear": {"folds": 2}, "least": 60},
    "save_backbone": "copy",
}

OF_ROUTED = {
    "model",
    "task_rm",
    "mean_of_experts",
    "single_rm",
    "ensemble_mean",
    "ensemble_median",
    "ensemble_worst",
    "ensemble_uncertainty",
    "routed_linear",
    "routed",
}
"""Systems of the report that a run without a router does not have."""


def recipe(**sections: Any) -> dict[str, Any]:
    """Return the recipe with whole sections replaced; None takes one out."""
    return {k: v for k, v in {**copy.deepcopy(dict(RECIPE)), **sections}.items() if v is not None}


def write_recipe(path: Path, value: Any = None) -> Path:
    """Write a recipe (the tiny one by default) to ``path`` and return it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(recipe() if value is None else value, sort_keys=False), encoding="utf-8")
    return path


def run(folder: Path, sets: Sequence[str] = (), **sections: Any) -> Run:
    """Run the recipe in ``folder`` and return the run."""
    return run_recipe(write_recipe(folder.parent / f"{folder.name}.yaml", recipe(**sections)), sets=sets, out=folder)


def write_rows(path: Path, rows: Sequence[object]) -> Path:
    """Write one line for each row to ``path``: a string as it stands, anything else as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
