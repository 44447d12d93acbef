"""DMoERM against simpler reward models on the world, on a backbone that was taught language only.

    python benchmarks/dmoerm.py                     # the whole grid, two processes; resumes where it stopped
    python benchmarks/dmoerm.py --sizes 800 --noise 0.4 --seeds 0

One small decoder is pre-trained by plain language modelling on its own prompts: it has never seen a rating or a
preference. All systems adapt this backbone with adapters of the same size. A cell is a number of overall labels, a
noise level and a seed. The noise level is the share of wrong labels among the annotators' labels and among the judge's
single verdicts about capabilities (a judgement is kept only if both orders agree, so kept labels are cleaner). The
judge compares as many other pairs as there are overall labels, in two capabilities each.

    dmoerm             router, task adapters, one new adapter per capability on its labels, network on the vectors
    mean_of_experts    the same experts without the network
    task_rm            only the task's own adapter of phase 1 (it saw 57% of the overall labels)
    per_task           one adapter and head per task, on all of the task's overall labels, with the true task given
    single_rm          one adapter and head for all tasks, on all overall labels
    ensemble_*         single_rm with three seeds: mean, worst case, mean minus half the variance
    routed_linear      one linear head per task on the frozen vectors, on all of the task's overall labels
    linear_bt          one linear head for all tasks

Single reward models get the steps of phases 1 and 2 together (400), or one pass over their labels if that is more.
``--mix disturbed`` relabels the pairs so that rich answers are better in chat and worse in text creation; a reward
model for all tasks has to learn both. Intervals are Student's t over the accuracies of the seeds. Prints a table and
writes benchmarks/results/dmoerm.json.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from facetrm.backbone.transformer import load_encoder
from facetrm.core import interval_over_seeds
from facetrm.core.files import write_json
from facetrm.core.statistics import win_credit
from facetrm.data.records import Preference
from facetrm.data.world import World, WorldConfig
from facetrm.data.world.truth import SLOTS, utility
from facetrm.label.simulated import NoisyJudge
from facetrm.recipes.armorm.fit import Stopwatch
from facetrm.recipes.backbones import TinyBackbone, train_tiny
from facetrm.recipes.dmoerm.config import DmoermConfig
from facetrm.recipes.dmoerm.fit import fit_tasks
from facetrm.recipes.dmoerm.inner import encode_pairs, fit_base, head_rewards
from facetrm.recipes.dmoerm.judge import judge_tasks
from facetrm.recipes.dmoerm.rivals import fit_rivals, member_settings
from facetrm.recipes.dmoerm.rows import DmoermRows, load_tasks
from provenance import provenance

ROOT: Final = Path(__file__).resolve().parents[1]
TASKS: Final = ("chat", "text_creation")
DISTURBED: Final = {"chat": ("richness", 0.5), "text_creation": ("richness", -0.5)}
BACKBONE: Final = {
    "shape": {"hidden": 64, "layers": 2, "heads": 4, "inner": 192},
    "training": {"lesson_steps": 0, "rehearse": 0, "read_steps": 1000, "prefer_steps": 0, "regression": 0.0},
}
TEST: Final = 600
MEMBERS: Final = 3
SYSTEMS: Final = (
    "model",
    "mean_of_experts",
    "task_rm",
    "per_task",
    "single_rm",
    "ensemble_mean",
    "ensemble_worst",
    "ensemble_uncertainty",
    "routed_linear",
    "linear_bt",
)

Floats = NDArray[np.float64]


def settings(seed: int, noise: float, size: int, backbone: Path, *, mix: str) -> DmoermConfig:
    """Return the recipe of one cell."""
    trainer = {"learning_rate": 3e-3, "num_train_epochs": 1}
    looks = {"few": 10, "evaluate_every": 50, "evaluate_on": 200, "patience": 3}
    training = {"seed": seed, "min_steps": 200, **looks, "trainer": trainer}
    judge = {"noise": judge_scale(noise), "tie_width": 0.0, "seed": seed}
    sizes = {"preferences": size, "labelled": size, "test": TEST, "most": 2}
    return DmoermConfig.model_validate(
        {
            "seed": seed,
            "data": {
                "kind": "world",
                "world": {"seed": seed, "noise": 0.0 if mix == "disturbed" else noise},
                "tasks": TASKS,
                "judge": judge,
                **sizes,
            },
            "backbone": {"path": str(backbone), "device": "cpu"},
            "router": {"settings": {"rank": 64, "shrinkage": 0.01}},
            "lora": {"rank": 8, "alpha": 16, "dropout": 0.0},
            "base": {"head": "random", "training": training},
            "experts": {"adapter": "new", "head": "random", "training": training},
            "rivals": {"members": MEMBERS},
            "samples": 100,
        }
    )


def judge_scale(share: float) -> float:
    """Return the scale of the judge's error at which ``share`` of its single verdicts are wrong."""
    world = World(WorldConfig(noise=share))
    gaps = []
    for pair in world.preferences_of(TASKS, 300, part="heads"):
        better, worse = (world.levels(c) for c in (pair.chosen, pair.rejected))
        for name in World.weights[str(pair.task)]:
            gaps.append(abs(better[name] - worse[name]) / SLOTS[name])
    known = np.array([gap for gap in gaps if gap > 1e-9])
    low, high = 0.01, 20.0
    for _ in range(60):
        scale = (low + high) / 2
        wrong = [(1.0 / (1.0 + np.exp((known + sign * NoisyJudge().place_bias) / scale))).mean() for sign in (1, -1)]
        low, high = (scale, high) if np.mean(wrong) < share else (low, scale)
    return round(scale, 4)


def true_gap(world: World, pair: Preference, mix: str) -> float:
    """Return how much better the first answer of a pair truly is than the second."""
    sides = []
    for conversation in (pair.chosen, pair.rejected):
        levels = world.levels(conversation)
        value = utility(levels, str(pair.task))
        if mix == "disturbed" and pair.task in DISTURBED:
            name, weight = DISTURBED[pair.task]
            value += weight * levels[name] / SLOTS[name]
        sides.append(value)
    return sides[0] - sides[1]


def disturbed(rows: DmoermRows, noise: float, seed: int) -> DmoermRows:
    """Return the rows with overall labels that follow the disturbed utility, ``noise`` of them wrong."""
    assert rows.world is not None
    draw, world = random.Random(f"disturbed-{seed}"), rows.world

    def relabelled(pairs: Sequence[Preference]) -> list[Preference]:
        found = []
        for pair in pairs:
            right = true_gap(world, pair, "disturbed") >= 0
            turn = (draw.random() < noise) == right
            found.append(pair.model_copy(update={"responses": pair.responses[::-1]}) if turn else pair)
        return found

    return replace(rows, overall=relabelled(rows.overall), test=relabelled(rows.test))


def cell(seed: int, noise: float, size: int, mix: str, backbone: Path, folder: Path) -> dict[str, Any]:
    """Train every system of one cell and return its margins on the test pairs, with truth, figures and seconds."""
    done = folder / "cell.json"
    if done.exists():
        return dict(json.loads(done.read_text(encoding="utf-8")))
    torch.set_num_threads(1)
    config, watch, start = settings(seed, noise, size, backbone, mix=mix), Stopwatch(), time.monotonic()
    rows = load_tasks(config.data, seed=seed)
    if mix == "disturbed":
        rows = disturbed(rows, noise, seed)
    assert config.backbone is not None
    assert rows.world is not None
    encoder = load_encoder(config.backbone)
    fit = fit_tasks(config, rows, encoder, folder, watch)
    with watch("rivals"):
        names = [f"rival-{n + 1}" for n in range(MEMBERS)]
        rivals = fit_rivals(encoder, rows.overall, fit.tasks, names=names, config=config, folder=folder)
    with watch("judge"):
        judgement = judge_tasks(config, rows, fit.model, fit.inner, encoder, rivals=rivals)
    margins = dict(judgement.margins)
    with watch("per task"):
        margins["per_task"] = np.zeros(len(rows.test))
        for task in TASKS:
            own = [p for p in rows.overall if p.task == task]
            single = fit_base(encoder, own, name=f"only-{task}", config=member_settings(config, 0), folder=folder)
            here = [n for n, p in enumerate(rows.test) if p.task == task]
            read = encode_pairs(encoder, [rows.test[n] for n in here], adapters=[single.name])
            better_N, worse_N = head_rewards(read, single.head_D)
            margins["per_task"][here] = better_N - worse_N
    gaps = np.array([true_gap(rows.world, p, mix) for p in rows.test])
    value = {
        "seed": seed,
        "noise": noise,
        "size": size,
        "mix": mix,
        "labels": {"overall": len(rows.overall), "capability": len(rows.capabilities), **rows.counts},
        "kept_label_error": _kept_error(rows),
        "router": None if fit.router is None else fit.router.report.accuracy.value,
        "experts": {name: found.to_dict() for name, found in fit.trained.items()},
        "rivals": rivals.to_dict(),
        "seconds": {**watch.seconds, "total": time.monotonic() - start},
        "tasks": [p.task for p in rows.test],
        "truth": np.sign(gaps).tolist(),
        "margins": {name: margins[name].tolist() for name in SYSTEMS},
    }
    write_json(done, value)
    return value


def _kept_error(rows: DmoermRows) -> float:
    """Return the share of kept capability labels that disagree with the true levels, where these differ."""
    assert rows.world is not None
    wrong = []
    for p in rows.capabilities:
        latent = p.aspect.split("/")[1]
        gap = rows.world.levels(p.chosen)[latent] - rows.world.levels(p.rejected)[latent]
        if gap:
            wrong.append(gap < 0)
    return float(np.mean(wrong))


def accuracy(found: dict[str, Any], name: str, task: str | None = None) -> float:
    """Return a system's accuracy against the true order in one cell, in one task or in all."""
    truth = np.array(found["truth"])
    here = truth != 0
    if task is not None:
        here &= np.array(found["tasks"]) == task
    return float(win_credit(np.array(found["margins"][name])[here] * truth[here]).mean())


def over_seeds(values: Sequence[float]) -> dict[str, Any]:
    """Return the mean over seeds with a 95% interval of Student's t; each seed has prompts of its own."""
    if len(values) < 2:
        return {"value": float(np.mean(values)), "low": None, "high": None, "seeds": list(values)}
    found = interval_over_seeds([[value] for value in values], [[seed] for seed in range(len(values))])
    return {"value": found.value, "low": found.low, "high": found.high, "seeds": list(values)}


def summary(cells: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return accuracies of one size, noise and mix, and what DMoERM is ahead by, over seeds."""
    return {
        "seeds": [c["seed"] for c in cells],
        "true": {name: over_seeds([accuracy(c, name) for c in cells]) for name in SYSTEMS},
        "ahead": {name: over_seeds([accuracy(c, "model") - accuracy(c, name) for c in cells]) for name in SYSTEMS},
        "by_task": {
            task: {name: float(np.mean([accuracy(c, name, task) for c in cells])) for name in SYSTEMS} for task in TASKS
        },
        "experts_kept": [sum(e["kept"] for e in c["experts"].values()) for c in cells],
        "experts": len(cells[0]["experts"]),
        "fewest_steps": min(e["steps"] for c in cells for e in c["experts"].values()),
        "kept_label_error": [c["kept_label_error"] for c in cells],
        "minutes": [c["seconds"]["total"] / 60 for c in cells],
    }


def table(title: str, found: dict[str, Any]) -> str:
    """Return the printed table of one summary: percent against the true order."""
    lines = [f"{title:44}{'all (95%)':>24}{'dmoerm ahead by':>26}" + "".join(f"{task:>15}" for task in TASKS)]
    for name in SYSTEMS:
        whole, lead = found["true"][name], found["ahead"][name]
        cells = "".join(f"{100 * found['by_task'][task][name]:15.1f}" for task in TASKS)
        lines.append(f"{name:44}{_cell(whole, ''):>24}{_cell(lead, '+'):>26}{cells}")
    kept = ", ".join(f"{k} of {found['experts']}" for k in found["experts_kept"])
    return "\n".join([*lines, f"adapters kept, by seed: {kept}; fewest steps of one: {found['fewest_steps']}"])


def _cell(value: dict[str, Any], sign: str) -> str:
    if value["low"] is None:
        return f"{100 * value['value']:{sign}5.1f}"
    return f"{100 * value['value']:{sign}5.1f} ({100 * value['low']:{sign}.1f} to {100 * value['high']:{sign}.1f})"


def main() -> None:
    """Run the cells that are not done, print the tables, write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--noise", type=float, nargs="+", default=[0.25, 0.4])
    parser.add_argument("--sizes", type=int, nargs="+", default=[800, 3200, 12800])
    parser.add_argument("--mix", nargs="+", choices=("plain", "disturbed"), default=["plain", "disturbed"])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "benchmark-dmoerm")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "dmoerm.json")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    backbone = options.folder / "backbone"
    _, training = train_tiny(TinyBackbone.model_validate(BACKBONE), World(), backbone, seed=0)
    # The disturbed mix is asked at one size and one noise: it is about tasks, not about labels.
    asked = [(seed, n, size, "plain") for size in options.sizes for seed in options.seeds for n in options.noise]
    asked = asked if "plain" in options.mix else []
    if "disturbed" in options.mix:
        asked += [
            (seed, options.noise[0], options.sizes[min(1, len(options.sizes) - 1)], "disturbed")
            for seed in options.seeds
        ]
    work = [(*one, backbone, options.folder / "-".join(str(part) for part in (one[3], *one[:3]))) for one in asked]
    if options.workers > 1:
        with multiprocessing.get_context("spawn").Pool(options.workers) as pool:
            cells = pool.starmap(cell, work, chunksize=1)
    else:
        cells = [cell(*one) for one in work]
    found = {}
    for key in dict.fromkeys((c["mix"], c["size"], c["noise"]) for c in cells):
        same = [c for c in cells if (c["mix"], c["size"], c["noise"]) == key]
        title = f"{key[0]}, {key[1]} overall labels, noise {key[2]}"
        found[title] = summary(same)
        print(table(title, found[title]), end="\n\n")
    short = [{key: value for key, value in c.items() if key not in ("margins", "truth", "tasks")} for c in cells]
    head = {**provenance(), "workers": options.workers, "backbone_training": training}
    write_json(options.out, {**head, "summaries": found, "cells": short})


if __name__ == "__main__":
    main()
