"""Why DMoERM is ahead or behind on the world: the same systems on frozen features, by the number of labels.

    python benchmarks/dmoerm_sizes.py --backbone runs/benchmark-dmoerm/backbone

benchmarks/dmoerm.py trains adapters, which limits the number of labels; with so few, hardly any adapter beats its
start, a linear head on the frozen features. Here no adapter is trained. Every expert is such a head, and features are
computed once, so there can be many labels; phases, judge, network and router are the same. Noise 0.25 and 0.4, seeds
0 1 2.

    dmoerm           the router chooses the task (dmoerm_known: with the true task given)
    overall_experts  control: the same experts, trained on overall labels of the same pairs, with the router
    single           one head on all overall labels (single_more: on as many labels as dmoerm saw of both kinds)
    per_task         one head per task, with the true task given

Prints a table and writes benchmarks/results/dmoerm_sizes.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dmoerm import TASKS, judge_scale, more_overall, settings, with_overall_labels
from facetrm.backbone.encoder import Features
from facetrm.backbone.transformer import BackboneConfig, load_encoder
from facetrm.core.files import write_json
from facetrm.core.statistics import pair_accuracy, paired_difference
from facetrm.data.records import Conversation, Preference, conversation_key
from facetrm.evaluate.compare import Pairs
from facetrm.evaluate.truth import true_signs
from facetrm.fit.experts.adapters import ExpertFit, hold_out_prompts
from facetrm.fit.experts.concat import fit_concat_mlp
from facetrm.fit.router.fit import fit_router
from facetrm.fit.trainer import TrainingCost
from facetrm.model.mixture import Mixture
from facetrm.recipes.armorm.fit import pairs_of
from facetrm.recipes.dmoerm.config import DmoermConfig
from facetrm.recipes.dmoerm.inner import experts_of, linear_head, pair_shares
from facetrm.recipes.dmoerm.names import overall_objective
from facetrm.recipes.dmoerm.rows import DmoermRows, cut_phases, load_tasks
from provenance import provenance

ROOT = Path(__file__).resolve().parents[1]
SYSTEMS = ("dmoerm", "dmoerm_known", "overall_experts", "single", "single_more", "per_task")

Floats = NDArray[np.float64]


class Reader:
    """Features of conversations by the frozen trunk, each read once."""

    def __init__(self, backbone: Path) -> None:
        self._encoder = load_encoder(BackboneConfig(path=str(backbone), device="cpu"))
        self._known: dict[str, int] = {}
        self._features: Features | None = None

    def __call__(self, conversations: Sequence[Conversation]) -> Features:
        """Return the features of ``conversations``."""
        keys = [conversation_key(c) for c in conversations]
        new = {key: c for key, c in zip(keys, conversations, strict=True) if key not in self._known}
        if new:
            found = self._encoder.encode(list(new.values()))
            start = len(self._known)
            self._known |= {key: start + n for n, key in enumerate(new)}
            self._features = found if self._features is None else Features.concat([self._features, found])
        assert self._features is not None
        return self._features.select(torch.tensor([self._known[key] for key in keys]))


def head(rows: Sequence[Preference], read: Reader, config: DmoermConfig) -> Tensor:
    """Return the linear head that an adapter would start from, fitted on the rows that it would be trained on."""
    training, _ = hold_out_prompts(rows, config.base.training.validation, seed=config.base.training.seed)
    found = linear_head(pairs_of(training, read), config.linear, weights=pair_shares(training))
    return torch.zeros(read([rows[0].chosen]).hidden_size) if found is None else found


def margins(head_D: Tensor, pairs: Pairs) -> Floats:
    """Return the margins of a head."""
    sides = [side.response_NAD[:, 0].double() @ head_D.double() for side in (pairs.chosen, pairs.rejected)]
    return np.asarray((sides[0] - sides[1]).numpy())


def repeated(pairs: Pairs, count: int) -> Pairs:
    """Return the pairs as ``count`` adapters that were never trained would read them."""

    def often(features: Features) -> Features:
        return replace(features, response_NAD=features.response_NAD.expand(-1, count, -1).contiguous())

    return replace(pairs, chosen=often(pairs.chosen), rejected=often(pairs.rejected))


def mixtures(rows: DmoermRows, read: Reader, config: DmoermConfig) -> dict[str, Mixture]:
    """Return the mixture of each task: experts on frozen features, and the network on their vectors."""
    phases = cut_phases(rows, [str(p.task) for p in rows.overall], config.split)
    found = {}
    for task, objectives in rows.objectives.items():
        phase = phases[task]
        heads = {o: head(phase.capabilities[o.name], read, config) for o in objectives}
        heads[overall_objective(task)] = head(phase.base, read, config)
        fits = [
            ExpertFit(f"expert-{k}", head_D, 0.0, 0.0, 0, {}, TrainingCost(0, 0.0, 0, 0, ()))
            for k, head_D in enumerate(heads.values())
        ]
        pairs = repeated(pairs_of(phase.mix, read), len(fits))
        experts = experts_of(list(heads), fits, pairs.both())
        fit = fit_concat_mlp(
            pairs.chosen, pairs.rejected, experts=experts, groups=pairs.groups, config=config.aggregator.concat
        )
        found[task] = Mixture(experts, fit.aggregator, beta=fit.beta)
    return found


def routed(found: dict[str, Mixture], tasks: Sequence[str], pairs: Pairs) -> Floats:
    """Return the margins of each pair under the mixture of its task."""
    margin_N = np.zeros(len(pairs))
    for task, mixture in found.items():
        here = torch.tensor([n for n, name in enumerate(tasks) if name == task], dtype=torch.int64)
        if len(here):
            part = repeated(pairs.select(here), len(mixture.names))
            margin_N[here.numpy()] = mixture.margins(part.chosen, part.rejected).numpy()
    return margin_N


def cell(seed: int, noise: float, sizes: dict[str, int], read: Reader, backbone: Path) -> dict[str, Any]:
    """Fit every system of one cell, and return its margins times the true sign, with prompts and counts."""
    config = settings(seed, noise, sizes, backbone)
    rows = load_tasks(config.data, seed=seed)
    assert rows.world is not None
    test = pairs_of(rows.test, read)
    known = [str(p.task) for p in rows.test]
    training = read([p.chosen for p in rows.overall]).prompt_ND
    groups = [p.prompt_key for p in rows.overall]
    router = fit_router(
        training, [str(p.task) for p in rows.overall], groups=groups, config=config.router.settings, names=TASKS
    )
    with torch.no_grad():
        chosen = [TASKS[n] for n in router.gate(test.chosen.prompt_ND).argmax(dim=1).tolist()]
    own = mixtures(rows, read, config)
    by_task = np.zeros(len(known))
    for task in TASKS:
        here = torch.tensor([n for n, name in enumerate(known) if name == task], dtype=torch.int64)
        only = head([p for p in rows.overall if p.task == task], read, config)
        by_task[here.numpy()] = margins(only, test.select(here))
    found = {
        "dmoerm": routed(own, chosen, test),
        "dmoerm_known": routed(own, known, test),
        "overall_experts": routed(mixtures(with_overall_labels(rows, sizes["labelled"]), read, config), chosen, test),
        "single": margins(head(rows.overall, read, config), test),
        "single_more": margins(head(more_overall(rows, config), read, config), test),
        "per_task": by_task,
    }
    signs = true_signs(rows.world, rows.test)
    return {
        "margins": {name: margin_N * signs for name, margin_N in found.items()},
        "prompts": [f"{seed}|{key}" for key in test.groups],
        "labels": {"overall": len(rows.overall), "capability": len(rows.capabilities)},
        "routed_right": float(np.mean([a == b for a, b in zip(chosen, known, strict=True)])),
    }


def main() -> None:
    """Run every size, noise and seed, print the table, write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", type=Path, default=ROOT / "runs" / "benchmark-dmoerm" / "backbone")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--noise", type=float, nargs="+", default=[0.25, 0.4])
    parser.add_argument("--sizes", type=int, nargs="+", default=[800, 1600, 3200, 6400], help="overall labels")
    parser.add_argument("--test", type=int, default=600)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "dmoerm_sizes.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cells: dict[tuple[float, int], list[dict[str, Any]]] = {}
    for seed in options.seeds:
        read = Reader(options.backbone)
        for size in options.sizes:
            for noise in options.noise:
                sizes = {"preferences": size, "labelled": int(0.4 * size), "test": options.test}
                cells.setdefault((noise, size), []).append(cell(seed, noise, sizes, read, options.backbone))
                print(f"seed {seed}, {size} labels, noise {noise}", flush=True)
    results: dict[str, Any] = {**provenance(), "judge_scale": {str(n): judge_scale(n) for n in options.noise}}
    for (noise, size), found in sorted(cells.items()):
        groups = [name for c in found for name in c["prompts"]]
        joined = {name: np.concatenate([c["margins"][name] for c in found]) for name in SYSTEMS}
        results[f"noise {noise}, {size} overall labels"] = {
            "labels": [c["labels"] for c in found],
            "routed_right": [c["routed_right"] for c in found],
            "true": {name: asdict(pair_accuracy(m, groups)) for name, m in joined.items()},
            "dmoerm_ahead": {
                name: asdict(paired_difference(joined["dmoerm"], m, groups)) for name, m in joined.items()
            },
        }
        row = "".join(f"{100 * pair_accuracy(joined[name], groups).value:17.1f}" for name in SYSTEMS)
        print(f"{noise:5} {size:6}{row}")
    print(" " * 12 + "".join(f"{name:>17}" for name in SYSTEMS))
    write_json(options.out, results)


if __name__ == "__main__":
    main()
