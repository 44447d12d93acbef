"""Losses and figures of the tiny recipe, and the first rows of the world, against what they were.

``pytest tests/golden --update-golden`` writes them anew; read the diff before you commit it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from facetrm.core.fingerprint import fingerprint
from facetrm.data.world import World
from facetrm.recipes.run import Run

FOLDER = Path(__file__).parent
# Absolute tolerances by the last name of a figure; machines differ in the last digits, and training makes more of them.
TOLERANCES = {"loss": 0.01, "accuracy": 0.08, "spearman": 0.08, "figure": 0.02, "count": 0.0}


def figures(run: Run) -> dict[str, dict[str, Any]]:
    """Return the figures by tolerance: name -> number."""
    metrics = run.metrics
    gate, training = metrics["gate"], metrics["backbone_training"]
    losses = {f"backbone.{name}": training[name] for name in ("language", "regression", "preference")}
    losses |= {f"gate.{name}": value for name, value in gate["loss"].items()}
    # Not the losses along the way: with heads that hardly read, another order of summing moves them by a quarter.
    accuracy = {
        f"{kind}.{name}": value for kind in ("noisy", "true") for name, value in metrics["pair_accuracy"][kind].items()
    }
    accuracy |= {f"gate.{name}": value for name, value in gate["accuracy"].items()}
    objectives = metrics["objectives"]
    table = {
        "loss": losses,
        "accuracy": accuracy,
        "spearman": {name: row["spearman"] for name, row in objectives.items()}
        | {"weight_recovery": metrics["weight_recovery_spearman"]},
        "figure": {f"mse.{name}": row["mse"] for name, row in objectives.items()},
        "count": {f"n.{name}": row["n"] for name, row in objectives.items()}
        | {"tokens": training["tokens"], "parameters": training["parameters"], **metrics["rows"]},
    }
    return {kind: {name: round(value, 5) for name, value in values.items()} for kind, values in table.items()}


def compare(name: str, found: Any, update: bool) -> Any:
    """Return the golden value of ``name``, written anew on request."""
    path = FOLDER / f"{name}.json"
    if update:
        path.write_text(json.dumps(found, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    return json.loads(path.read_text(encoding="utf-8"))


def test_the_figures_of_the_tiny_recipe(tiny_run: Run, update_golden: bool) -> None:
    found = figures(tiny_run)
    golden = compare("tiny_recipe", found, update_golden)
    assert golden.keys() == found.keys() == TOLERANCES.keys()
    off = []
    for kind, tolerance in TOLERANCES.items():
        assert golden[kind].keys() == found[kind].keys(), f"{kind}: other figures; see --update-golden"
        for name, value in golden[kind].items():
            if found[kind][name] != pytest.approx(value, abs=tolerance, rel=0.0):
                off.append(f"{kind} {name}: {found[kind][name]} instead of {value}")
    assert not off, "\n".join(["figures moved; read them, then --update-golden:", *off])


def test_the_first_rows_of_the_world(update_golden: bool) -> None:
    """Pinned to the letter: another process, machine or version writes the same rows."""
    world = World()
    ratings, pairs = list(world.ratings(40)), list(world.preferences(40))
    found = {
        "rating": ratings[0].model_dump(mode="json"),
        "preference": pairs[0].model_dump(mode="json"),
        "all": fingerprint([row.model_dump() for row in (*ratings, *pairs)]),
    }
    assert found == compare("world_rows", found, update_golden)
