"""DMoERM against simpler reward models on the world, under noisy labels, with two controls.

    python benchmarks/dmoerm.py                     # noise 0.25 and 0.4, seeds 0 1 2, two processes

One small decoder is trained once, on prompts of its own; all systems adapt that one backbone, with adapters of one
size. Five tasks. A cell is one noise and one seed: of the annotators' labels that share is wrong, and of the judge's
single verdicts about capabilities the same share (a judgement is kept where both orders agree, so kept labels are
cleaner).

    dmoerm             router, task adapters, one expert a capability on capability labels, network on the vectors
    overall_experts    control: the same, each expert on the same pairs under their overall labels
    single             one reward model for all tasks, on all overall labels
    single_more        control: the same, given as many labels as dmoerm saw of both kinds
    per_task           one reward model for each task, on all overall labels of it, the true task given
    ensemble_*         four seeds of single: mean, worst case, mean minus half the variance
    linear             Bradley-Terry head on the frozen features, all tasks

Every system starts its heads with a linear head on the frozen features, sees its rows once, and keeps its best state on
held-out prompts. Run again, it goes on where it stopped. Prints a table and writes benchmarks/results/dmoerm.json.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from facetrm.backbone.transformer import TransformerEncoder, load_encoder
from facetrm.baselines.ensemble import ensemble_rewards
from facetrm.core.files import write_json
from facetrm.core.statistics import Interval, pair_accuracy, paired_difference
from facetrm.data.records import Preference
from facetrm.data.world import World, WorldConfig
from facetrm.data.world.truth import SLOTS
from facetrm.evaluate.truth import true_signs
from facetrm.label.simulated import NoisyJudge
from facetrm.recipes.armorm.fit import Stopwatch
from facetrm.recipes.backbones import TinyBackbone, train_tiny
from facetrm.recipes.dmoerm.config import DmoermConfig
from facetrm.recipes.dmoerm.figures import DmoermFit
from facetrm.recipes.dmoerm.fit import fit_tasks
from facetrm.recipes.dmoerm.inner import encode_pairs, fit_base, linear_head, pair_shares
from facetrm.recipes.dmoerm.rows import DmoermRows, load_tasks
from provenance import provenance

ROOT = Path(__file__).resolve().parents[1]
TASKS = ("role_play", "chat", "subjective_qa", "objective_qa", "text_creation")
MEMBERS = 4
BACKBONE = {"training": {"lesson_steps": 600, "read_steps": 1000, "prefer_steps": 0}}
SIZES = {"preferences": 800, "labelled": 320, "test": 400}
TINY = {"preferences": 200, "labelled": 100, "test": 40}
SYSTEMS = (
    "dmoerm",
    "overall_experts",
    "single",
    "single_more",
    "per_task",
    "ensemble_mean",
    "ensemble_worst",
    "ensemble_uncertainty",
    "linear",
)

Floats = NDArray[np.float64]


def settings(seed: int, noise: float, sizes: dict[str, int], backbone: Path) -> DmoermConfig:
    """Return the recipe of one cell."""
    trainer = {"learning_rate": 3e-4, "num_train_epochs": 1, "per_device_train_batch_size": 16}
    training = {"seed": seed, "evaluate_every": 20, "trainer": {**trainer, "seed": seed}}
    world = {"seed": seed, "noise": noise}
    judge = {"noise": judge_scale(noise), "tie_width": 0.0, "seed": seed}
    return DmoermConfig.model_validate(
        {
            "seed": seed,
            "data": {"kind": "world", "world": world, "tasks": TASKS, "judge": judge, **sizes},
            "backbone": {"path": str(backbone), "device": "cpu"},
            "router": {"settings": {"rank": 128, "shrinkage": 0.01}},
            "lora": {"rank": 8, "alpha": 16, "dropout": 0.05, "layers": "last 2"},
            "base": {"training": training},
            "experts": {"training": training},
            "samples": 1000,
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


def with_overall_labels(rows: DmoermRows, labelled: int) -> DmoermRows:
    """Return the rows with each capability label replaced by the annotators' overall label of the same pair."""
    assert rows.world is not None
    pairs = rows.world.preferences_of(TASKS, labelled, part="heads")
    known = {(p.prompt_key, frozenset(r.content for r in p.responses)): p for p in pairs}
    changed = []
    for p in rows.capabilities:
        overall = known[p.prompt_key, frozenset(r.content for r in p.responses)]
        changed.append(p.model_copy(update={"responses": overall.responses}))
    return replace(rows, capabilities=changed)


def more_overall(rows: DmoermRows, config: DmoermConfig) -> list[Preference]:
    """Return as many overall labels as the rows have of both kinds; the additional ones are of new pairs."""
    assert rows.world is not None
    count = len(rows.overall) + len(rows.capabilities)
    return list(rows.world.preferences_of(TASKS, count, part="gate"))


def margins_of(encoder: TransformerEncoder, name: str, head_D: torch.Tensor, pairs: Sequence[Preference]) -> Floats:
    """Return [2, N]: the rewards of chosen and rejected answers by one adapter and its head."""
    read = encode_pairs(encoder, pairs, adapters=[name])
    sides = [side.response_NAD[:, 0].double() @ head_D.double() for side in (read.chosen, read.rejected)]
    return torch.stack(sides).numpy()


def routed_margins(fit: DmoermFit, encoder: TransformerEncoder, pairs: Sequence[Preference]) -> Floats:
    """Return the margins of a routed model."""
    used = fit.model.tasks_of([p.chosen for p in pairs])
    margin_N = np.zeros(len(pairs))
    for task in dict.fromkeys(used):
        here = [n for n, name in enumerate(used) if name == task]
        mixture = fit.model.mixture(task)
        read = encode_pairs(encoder, [pairs[n] for n in here], adapters=mixture.adapters)
        margin_N[here] = mixture.margins(read.chosen, read.rejected).numpy()
    return margin_N


def cell(seed: int, noise: float, sizes: dict[str, int], backbone: Path, folder: Path) -> dict[str, Any]:
    """Train every system of one cell and return its margins on the test pairs, with labels, truth and seconds."""
    done = folder / "cell.json"
    if done.exists():
        return dict(json.loads(done.read_text(encoding="utf-8")))
    torch.set_num_threads(1)
    config, watch = settings(seed, noise, sizes, backbone), Stopwatch()
    rows = load_tasks(config.data, seed=seed)
    test, found, spent = rows.test, {}, {}

    def timed(name: str, make: Callable[[TransformerEncoder], Floats]) -> None:
        kept, start = folder / f"{name}.json", time.monotonic()
        if not kept.exists():
            assert config.backbone is not None
            margin_N = make(load_encoder(config.backbone))
            value = {"margins": margin_N.tolist(), "seconds": time.monotonic() - start, "figures": figures, **sides}
            write_json(kept, value)
        known = json.loads(kept.read_text(encoding="utf-8"))
        found[name], spent[name] = np.array(known["margins"]), known["seconds"]
        figures.update(known["figures"])
        if "rewards" in known:
            rewards.append(np.array(known["rewards"]))
            reference.append(np.array(known["reference"]))
        sides.clear()

    def routed(data: DmoermRows, place: Path) -> Callable[[TransformerEncoder], Floats]:
        def make(encoder: TransformerEncoder) -> Floats:
            fit = fit_tasks(config, data, encoder, place, watch)
            figures[place.name] = {task: inner.to_dict() for task, inner in fit.inner.items()}
            if fit.router is not None:
                figures["router"] = fit.router.report.accuracy.value
            return routed_margins(fit, encoder, test)

        return make

    def single(data: Sequence[Preference], place: Path, member: int) -> Callable[[TransformerEncoder], Floats]:
        seeds = {"seed": seed + 100 * member}
        base = config.base.model_copy(update={"training": config.base.training.model_copy(update=seeds)})
        own = config.model_copy(update={"base": base})

        def make(encoder: TransformerEncoder) -> Floats:
            fit = fit_base(encoder, data, name="single", config=own, folder=place)
            both = margins_of(encoder, "single", fit.head_D, test)
            if member < MEMBERS:
                typical = margins_of(encoder, "single", fit.head_D, list(data)[:100]).ravel()
                sides.update({"rewards": both.tolist(), "reference": typical.tolist()})
            figures[place.name] = fit.to_dict()
            return np.asarray(both[0] - both[1])

        return make

    def by_task(encoder: TransformerEncoder) -> Floats:
        margin_N = np.zeros(len(test))
        for task in TASKS:
            own = [p for p in rows.overall if p.task == task]
            fit = fit_base(encoder, own, name=f"only-{task}", config=config, folder=folder / "per_task")
            here = [n for n, p in enumerate(test) if p.task == task]
            both = margins_of(encoder, fit.name, fit.head_D, [test[n] for n in here])
            margin_N[here] = both[0] - both[1]
        return margin_N

    def linear(encoder: TransformerEncoder) -> Floats:
        head_D = linear_head(encode_pairs(encoder, rows.overall), config.linear, weights=pair_shares(rows.overall))
        assert head_D is not None
        read = encode_pairs(encoder, test)
        sides = [side.response_NAD[:, 0].double() @ head_D.double() for side in (read.chosen, read.rejected)]
        return np.asarray((sides[0] - sides[1]).numpy())

    figures: dict[str, Any] = {}
    sides: dict[str, Any] = {}
    rewards: list[Floats] = []
    reference: list[Floats] = []
    timed("dmoerm", routed(rows, folder / "dmoerm"))
    _share_bases(folder / "dmoerm", folder / "overall_experts")
    timed("overall_experts", routed(with_overall_labels(rows, sizes["labelled"]), folder / "overall_experts"))
    for member in range(MEMBERS):
        name = "single" if member == 0 else f"member_{member}"
        timed(name, single(rows.overall, folder / name, member))
    timed("per_task", by_task)
    timed("single_more", single(more_overall(rows, config), folder / "single_more", MEMBERS))
    timed("linear", linear)
    known = np.stack(reference)
    for kind in ("mean", "worst", "uncertainty"):
        chosen, rejected = (
            ensemble_rewards(np.stack([both[side] for both in rewards]), reference_MR=known, kind=kind)  # type: ignore[arg-type]
            for side in (0, 1)
        )
        found[f"ensemble_{kind}"] = chosen - rejected
        spent[f"ensemble_{kind}"] = sum(spent[n] for n in spent if n == "single" or n.startswith("member"))
    assert rows.world is not None
    value = {
        "seed": seed,
        "noise": noise,
        "judge_scale": judge_scale(noise),
        "labels": {"overall": len(rows.overall), "capability": len(rows.capabilities), **rows.counts},
        "kept_label_error": _kept_error(rows),
        "seconds": spent,
        "figures": figures,
        "tasks": [p.task for p in test],
        "prompts": [f"{seed}|{p.prompt_key}" for p in test],
        "truth": true_signs(rows.world, test).tolist(),
        "margins": {name: found[name].tolist() for name in SYSTEMS},
    }
    write_json(done, value)
    return value


def _share_bases(source: Path, target: Path) -> None:
    """Let the control go on from the same task adapters: phase 1 is the same."""
    for task in TASKS:
        place = target / "training" / task.replace("/", "-")
        if (source / "training" / place.name).exists() and not place.exists():
            shutil.copytree(source / "training" / place.name, place)


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


def summary(cells: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return accuracies over all seeds of one noise, with intervals over prompts, and what DMoERM is ahead by."""
    groups = [name for c in cells for name in c["prompts"]]
    tasks = np.array([name for c in cells for name in c["tasks"]])
    truth = np.concatenate([c["truth"] for c in cells])
    margins = {name: np.concatenate([c["margins"][name] for c in cells]) for name in SYSTEMS}
    ahead = margins["dmoerm"] * truth

    def each(found: Callable[[Floats], Interval]) -> dict[str, Any]:
        return {name: asdict(found(margin_N)) for name, margin_N in margins.items()}

    return {
        "labels": each(lambda m: pair_accuracy(m, groups)),
        "true": each(lambda m: pair_accuracy(m * truth, groups)),
        "dmoerm_ahead": each(lambda m: paired_difference(ahead, m * truth, groups)),
        "by_task": {
            task: each(lambda m, here=tasks == task: pair_accuracy((m * truth)[here], np.array(groups)[here]))  # type: ignore[misc]
            for task in TASKS
        },
        "by_seed": {
            name: [pair_accuracy(np.array(c["margins"][name]) * c["truth"], c["prompts"]).value for c in cells]
            for name in SYSTEMS
        },
        "minutes": {name: float(np.mean([c["seconds"][name] for c in cells])) / 60 for name in SYSTEMS},
        "kept_label_error": [c["kept_label_error"] for c in cells],
        "labels_given": [c["labels"] for c in cells],
    }


def table(noise: str, found: dict[str, Any]) -> str:
    """Return the printed table of one noise: percent against the true order."""
    head = f"noise {noise}: true order, %" + f"{'all (95%)':>24}{'dmoerm ahead by':>26}"
    lines = [head + "".join(f"{task:>15}" for task in TASKS)]
    for name in SYSTEMS:
        whole, lead = found["true"][name], found["dmoerm_ahead"][name]
        cells = "".join(f"{100 * found['by_task'][task][name]['value']:15.1f}" for task in TASKS)
        ends = f"{100 * whole['value']:5.1f} ({100 * whole['low']:.1f} to {100 * whole['high']:.1f})"
        ahead = f"{100 * lead['value']:+5.1f} ({100 * lead['low']:+.1f} to {100 * lead['high']:+.1f})"
        lines.append(f"{name:22}{ends:>28}{ahead:>26}{cells}")
    return "\n".join(lines)


def _minutes(found: dict[str, Any]) -> float:
    """Return what a cell took; an ensemble is the models that it joins."""
    return sum(seconds for name, seconds in found["seconds"].items() if not name.startswith("ensemble")) / 60


def _short(found: dict[str, Any]) -> dict[str, Any]:
    """Return what the results file keeps of a cell: no margins, no histories."""
    text = json.dumps({key: found[key] for key in ("seed", "noise", "judge_scale", "labels", "figures")})
    return dict(json.loads(text, object_hook=lambda value: {k: v for k, v in value.items() if k != "history"}))


def main() -> None:
    """Run the cells that are not done, print the tables, write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--noise", type=float, nargs="+", default=[0.25, 0.4])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "benchmark-dmoerm")
    parser.add_argument("--tiny", action="store_true", help="a few rows and an untrained backbone, to see it run")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "dmoerm.json")
    options = parser.parse_args()
    start = time.monotonic()
    shape = {"training": {"lesson_steps": 1, "read_steps": 1, "prefer_steps": 0, "rehearse": 0}}
    section = TinyBackbone.model_validate(shape if options.tiny else BACKBONE)
    options.folder.mkdir(parents=True, exist_ok=True)
    _, training = train_tiny(section, World(), options.folder / "backbone", seed=0)
    sizes = TINY if options.tiny else SIZES
    asked = [(noise, seed) for seed in options.seeds for noise in options.noise]
    work = [(s, n, sizes, options.folder / "backbone", options.folder / f"noise{n}-seed{s}") for n, s in asked]
    if options.workers > 1:
        with multiprocessing.get_context("spawn").Pool(options.workers) as pool:
            cells = pool.starmap(cell, work, chunksize=1)
    else:
        cells = [cell(*one) for one in work]
    results: dict[str, Any] = {
        **provenance(),
        "workers": options.workers,
        "sizes": sizes,
        "backbone_training": training,
        "this_process_minutes": (time.monotonic() - start) / 60,
        "cell_minutes": {f"{c['noise']}/{c['seed']}": _minutes(c) for c in cells},
        "noise": {str(n): summary([c for c in cells if c["noise"] == n]) for n in options.noise},
        "cells": [_short(c) for c in cells],
    }
    for noise, found in results["noise"].items():
        print(table(noise, found), end="\n\n")
    write_json(options.out, results)


if __name__ == "__main__":
    main()
