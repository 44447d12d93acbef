"""The world benchmark: the whole pipeline from scratch, with known truth, for several seeds.

    python benchmarks/world.py                      # seeds 0 1 2, recipes/world-large.yaml
    python benchmarks/world.py --seeds 0 --set tiny.training.optimizer=adamw --out adamw.json
    python benchmarks/world.py --merge seed0.json seed1.json seed2.json         # runs that were made in parallel

Prints a table and writes benchmarks/results/world.json: {"runs": [metrics of each seed], "machine": ..., ...}.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from facetrm.core.files import write_json
from facetrm.recipes.run import run_recipe
from provenance import provenance

ROOT = Path(__file__).resolve().parents[1]
SYSTEMS = (
    "gate",
    "gate_on_true_levels",
    "linear_bt",
    "unconditional",
    "uniform",
    "best_objective",
    "longer",
    "bag_of_words",
    "ceiling",
)


def one(seed: int, sets: list[str], folder: Path, *, recipe: str, generator: str) -> dict[str, Any]:
    """Run one seed and return its metrics."""
    named = ("seed", f"data.{generator}.seed", "experts.ridge.seed", "gate.settings.seed")
    run = run_recipe(ROOT / "recipes" / f"{recipe}.yaml", sets=[f"{key}={seed}" for key in named] + sets, out=folder)
    return run.metrics


def gap_closed(metrics: dict[str, Any]) -> float:
    """Return the share of the gap between unconditional weights and a gate on true levels that the gate closes."""
    true = metrics["pair_accuracy"]["true"]
    low, high = float(true["unconditional"]), float(true["gate_on_true_levels"])
    return (float(true["gate"]) - low) / (high - low)


def held_out_rho(run: dict[str, Any]) -> float:
    """Return the largest |Spearman correlation| with the debiasing target that is left on held-out pairs."""
    after = (row["spearman_after"] for row in run["debias"]["held_out"].values())
    return max(abs(rho) for rho in after if rho is not None)


def table(runs: list[dict[str, Any]]) -> str:
    """Return the printed table: accuracy in percent against the labels and the true order, one column per seed."""
    lines = ["system                 " + "".join(f"   seed {run['seeds']['run']:<8}" for run in runs)]
    for name in SYSTEMS:
        cells = [(run["pair_accuracy"]["noisy"][name], run["pair_accuracy"]["true"][name]) for run in runs]
        lines.append(f"{name:23}" + "".join(f"   {100 * a:5.1f} / {100 * b:5.1f}" for a, b in cells))
    rows = (
        ("gap closed", [gap_closed(run) for run in runs]),
        ("weight recovery", [run["weight_recovery_spearman"] for run in runs]),
        ("max |rho| reference", [run["debias"]["max_abs_rho"] for run in runs]),
        ("max |rho| held out", [held_out_rho(run) for run in runs]),
        ("length inside prompts", [run["debias"]["within_prompt_length_rho"] for run in runs]),
        ("minutes", [run["seconds"]["total"] / 60 for run in runs]),
    )
    return "\n".join(lines + [f"{name:23}" + "".join(f"   {value:13.4f}" for value in values) for name, values in rows])


def read(files: list[Path]) -> list[dict[str, Any]]:
    """Return the runs of ``files``, in their order."""
    return [run for file in files for run in json.loads(file.read_text(encoding="utf-8"))["runs"]]


def write(path: Path, runs: list[dict[str, Any]]) -> None:
    """Write the runs, and where and how they were made."""
    value = {
        **provenance(),
        "threads": torch.get_num_threads(),
        "gap_closed": [gap_closed(run) for run in runs],
        "runs": runs,
    }
    write_json(path, value)


def compare_seeds(text: str, *, recipe: str, generator: str) -> None:
    """Run the seeds, print the table, write the file.

    Args:
        text: Description of the program.
        recipe: Name of the recipe.
        generator: Name of the generator of its rows.
    """
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--set", dest="sets", action="append", default=[])
    parser.add_argument("--threads", type=int, default=0, help="torch threads (all cores by default)")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / f"{generator}.json")
    parser.add_argument("--runs", type=Path, default=None, help="keep the run folders here")
    parser.add_argument("--merge", type=Path, nargs="+", default=[], help="run nothing; join these files")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    runs = read(options.merge)
    with tempfile.TemporaryDirectory() as temporary:
        for seed in [] if options.merge else options.seeds:
            folder = (options.runs or Path(temporary)) / f"seed{seed}"
            runs.append(one(seed, options.sets, folder, recipe=recipe, generator=generator))
            write(options.out, runs)
    write(options.out, runs)
    print(table(runs))


if __name__ == "__main__":
    compare_seeds(str(__doc__), recipe="world-large", generator="world")
