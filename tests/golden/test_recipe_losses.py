"""Losses and figures of small recipes, and the first rows of the world, against what they were.

Two recipes: a tiny run from end to end, whose backbone hardly reads (its figures say that nothing moved, not that
anything was learned), and the line of fits on features into which the truth of the world is planted. There the prompt
decides which objectives matter, so a gate that reads it must reach its golden loss, and one that does not cannot.

``pytest tests/golden --update-golden`` writes them anew; read the diff before you commit it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from facetrm.backbone.encoder import Features
from facetrm.core.config import parse_config
from facetrm.core.fingerprint import fingerprint
from facetrm.core.statistics import win_credit
from facetrm.data.records import Conversation
from facetrm.data.world import TASKS, World
from facetrm.data.world.truth import SLOTS
from facetrm.evaluate.compare import margins
from facetrm.evaluate.truth import true_signs
from facetrm.recipes.armorm.config import ArmormConfig
from facetrm.recipes.armorm.fit import Stopwatch, fit_parts, stream_of
from facetrm.recipes.armorm.judge import baselines_of
from facetrm.recipes.armorm.rows import load_rows
from facetrm.recipes.run import Run

FOLDER = Path(__file__).parent
# Absolute tolerances by the last name of a figure; machines differ in the last digits, and training makes more of them.
TOLERANCES = {"loss": 0.01, "accuracy": 0.08, "spearman": 0.08, "figure": 0.02, "count": 0.0}
PLANTED_TOLERANCES = {"loss": 0.003, "accuracy": 0.008, "spearman": 0.002, "figure": 0.0005}


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
    return rounded(table)


def rounded(table: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {kind: {name: round(value, 5) for name, value in values.items()} for kind, values in table.items()}


def compare(name: str, found: Any, update: bool) -> Any:
    """Return the golden value of ``name``, written anew on request."""
    path = FOLDER / f"{name}.json"
    if update:
        path.write_text(json.dumps(found, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    return json.loads(path.read_text(encoding="utf-8"))


def differences(golden: Any, found: Any, tolerances: dict[str, float]) -> list[str]:
    """Return the figures that are off by more than their tolerance, in words."""
    assert golden.keys() == found.keys() == tolerances.keys()
    off = []
    for kind, tolerance in tolerances.items():
        assert golden[kind].keys() == found[kind].keys(), f"{kind}: other figures; see --update-golden"
        for name, value in golden[kind].items():
            if found[kind][name] != pytest.approx(value, abs=tolerance, rel=0.0):
                off.append(f"{kind} {name}: {found[kind][name]} instead of {value}")
    return off


def test_the_figures_of_the_tiny_recipe(tiny_run: Run, update_golden: bool) -> None:
    found = figures(tiny_run)
    off = differences(compare("tiny_recipe", found, update_golden), found, TOLERANCES)
    assert not off, "\n".join(["figures moved; read them, then --update-golden:", *off])


class PlantedEncoder:
    """Features that hold the truth of the world: response vectors the levels of an answer, prompt vectors the task.

    Both are turned by a fixed random matrix, with a little noise that the text alone decides.
    """

    hidden_size, mode, template_hash, fingerprint = 16, "exact", "planted", "planted"

    def __init__(self, world: World) -> None:
        draw = np.random.default_rng(5)
        self._world = world
        self._levels, self._tasks = (draw.standard_normal((n, self.hidden_size)) for n in (len(SLOTS), len(TASKS)))

    def spec(self) -> dict[str, object]:
        return {"kind": "planted"}

    def encode(
        self, conversations: Sequence[Conversation], *, on_batch: Callable[[int, int], None] | None = None
    ) -> Features:
        prompts, responses = [], []
        for messages in conversations:
            seed = int(fingerprint([m.content for m in messages])[:8], 16)
            noise = 0.05 * np.random.default_rng(seed).standard_normal(self.hidden_size)
            levels = self._world.levels(messages)
            responses.append(np.array([levels[name] / SLOTS[name] for name in SLOTS]) @ self._levels + noise)
            prompts.append(self._tasks[TASKS.index(self._world.scene(messages).task)])
        length_N = torch.tensor([len(messages[-1].content.split()) for messages in conversations])
        return Features(
            torch.tensor(np.array(prompts), dtype=torch.float32),
            torch.tensor(np.array(responses), dtype=torch.float32)[:, None],
            length_N,
            length_N,
            torch.zeros(len(length_N), dtype=torch.bool),
        )


@cache
def planted(constant: bool = False) -> dict[str, dict[str, Any]]:
    """Return the figures of the line of fits on planted features; with ``constant``, of a gate that reads nothing."""
    settings: dict[str, Any] = {"steps": 160, "batch_size": 256, "rank": 8, "hidden": 32}
    if constant:
        settings |= {"hidden": 0, "n_hidden": 0}
    config = parse_config(
        ArmormConfig,
        {
            "recipe": "armorm",
            "data": {"kind": "world", "ratings": 800, "preferences": 1200, "test": 600},
            "backbone": {"path": "planted"},
            "experts": {"length": True, "ridge": {"folds": 3, "bootstrap": 0, "unfit": "mean"}},
            "debias": {"target": "length"},
            "gate": {"settings": settings},
        },
        place="golden",
    )
    rows = load_rows(config.data, seed=0)
    assert rows.world is not None
    encoder = PlantedEncoder(rows.world)
    fit = fit_parts(config, rows, encoder, stream_of(encoder), Stopwatch())
    systems, _ = baselines_of(config, fit)
    signs = true_signs(rows.world, rows.test)
    by_system = margins({"gate": fit.mixture, **systems}, fit.test_pairs)
    return rounded(
        {
            "loss": dict(fit.gate.loss) | {"test": float(np.logaddexp(0.0, -fit.gate.beta * by_system["gate"]).mean())},
            "accuracy": dict(fit.gate.accuracy)
            | {f"true.{name}": float(win_credit(m * signs).mean()) for name, m in by_system.items()},
            "spearman": {report.name: report.spearman for report in fit.test_reports},
            "figure": {report.name: report.mse for report in fit.test_reports},
        }
    )


def test_the_figures_of_planted_features(update_golden: bool) -> None:
    found = planted()
    off = differences(compare("planted_recipe", found, update_golden), found, PLANTED_TOLERANCES)
    assert not off, "\n".join(["figures moved; read them, then --update-golden:", *off])
    assert found["loss"]["test"] < 0.55 < np.log(2), "the prompt and the levels say most of a label"
    assert found["accuracy"]["true.gate"] > found["accuracy"]["true.unconditional"] + 0.05


def test_a_gate_that_reads_nothing_misses_the_golden_figures() -> None:
    golden = compare("planted_recipe", None, update=False)
    off = differences(golden, planted(constant=True), PLANTED_TOLERANCES)
    for figure in ("loss train", "loss test", "loss before_refit.validation", "accuracy true.gate"):
        assert any(line.startswith(f"{figure}:") for line in off), figure


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
