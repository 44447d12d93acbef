"""Ablation of the small decoder's training: recipes/world.yaml with one part removed at a time.

    python benchmarks/reading.py                         # all variants, recipes/world.yaml, seed 0
    python benchmarks/reading.py --only adamw whole      # some of them
    python benchmarks/reading.py --whole runs/world # reuse a finished run of the recipe

Prints a table (Spearman correlation of each latent with held-out ratings, as a mean over its raters; accuracy of the
gate against the true order) and writes benchmarks/results/reading.json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from facetrm.core.files import write_json
from facetrm.data.world import World
from facetrm.data.world.latents import LATENT_NAMES
from facetrm.recipes.run import run_recipe
from provenance import provenance

ROOT = Path(__file__).resolve().parents[1]
TRAINING: Final = "tiny.training."
VARIANTS: Final[dict[str, dict[str, object]]] = {
    "whole": {},
    "adamw": {"optimizer": "adamw"},
    "no rehearsal": {"rehearse": 0},
    "no lessons": {"lesson_steps": 0, "rehearse": 0, "read_steps": 540},
    "no preferences": {"prefer_steps": 0},
    "language model alone": {"regression": 0.0, "language": 1.0, "prefer_steps": 0},
}
"""What each changes; ``no lessons`` reads about as many tokens as the others."""


def run(name: str) -> dict[str, Any]:
    """Run one variant and return what the table shows."""
    sets = [f"{TRAINING}{key}={value}" for key, value in VARIANTS[name].items()] + ["compare.bag_of_words=0"]
    with tempfile.TemporaryDirectory() as folder:
        return figures(run_recipe(ROOT / "recipes" / "world.yaml", sets=sets, out=Path(folder) / "run").metrics)


def figures(metrics: dict[str, Any]) -> dict[str, Any]:
    """Return what the table shows of a run."""
    read: dict[str, list[float]] = {}
    for objective, report in metrics["objectives_test"].items():
        read.setdefault(World.latent_of[objective], []).append(report["spearman"])
    return {
        "spearman": {latent: float(np.mean(read[latent])) for latent in LATENT_NAMES},
        "gate": metrics["pair_accuracy"]["true"]["gate"],
        "gate_on_true_levels": metrics["pair_accuracy"]["true"]["gate_on_true_levels"],
        "weight_recovery_spearman": metrics["weight_recovery_spearman"],
        "training": metrics["backbone_training"],
    }


def table(found: dict[str, dict[str, Any]]) -> str:
    """Return the table that is printed."""
    lines = [f"{'':22}" + "".join(f"{name:>22}" for name in found)]
    for latent in LATENT_NAMES:
        lines.append(f"{latent:22}" + "".join(f"{run['spearman'][latent]:22.2f}" for run in found.values()))
    lines.append(f"{'gate, true order, %':22}" + "".join(f"{100 * run['gate']:22.1f}" for run in found.values()))
    lines.append(
        f"{'million tokens':22}" + "".join(f"{run['training']['tokens'] / 1e6:22.2f}" for run in found.values())
    )
    return "\n".join(lines)


def main() -> None:
    """Run the variants, print the table, write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--threads", type=int, default=0, help="torch threads (all cores by default)")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "reading.json")
    parser.add_argument("--whole", type=Path, help="a finished run of the recipe, in the place of variant 'whole'")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    found: dict[str, dict[str, Any]] = {}
    for name in options.only:
        if name == "whole" and options.whole is not None:
            found[name] = figures(json.loads((options.whole / "metrics.json").read_text(encoding="utf-8")))
        else:
            found[name] = run(name)
        write_json(
            options.out,
            {
                **provenance(),
                "variants": found,
            },
        )
    print(table(found))


if __name__ == "__main__":
    main()
