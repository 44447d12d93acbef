"""ArmoRM on real data: ridge heads, debiasing and gate on frozen vectors, against every baseline.

    python benchmarks/real.py --folder PACK --encoder ENCODER
    python benchmarks/real.py --folder PACK --recipe real-smollm2 --features FEATURES --out smollm2.json
    python benchmarks/real.py --folder PACK --recipe real-smollm2 --features FEATURES --set "experts.layers=[last]"

PACK is a folder in the pack schema, ENCODER the folder of a sentence encoder. Features are kept in --features, so a
second run only fits, also on fewer layers. Prints tables and writes benchmarks/results/real.json.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from facetrm.core.files import write_json
from facetrm.evaluate.compare import MACRO
from facetrm.recipes.run import run_recipe
from provenance import provenance

ROOT = Path(__file__).resolve().parents[1]
PLAIN = ["experts.preference=false", "experts.cross_fit=0"]
VARIANTS = {
    "recipe": [],
    "recipe, gate seed 1": ["gate.settings.seed=1"],
    "recipe, gate seed 2": ["gate.settings.seed=2"],
    "no preference expert": ["experts.preference=false"],
    "no preference expert, no cross-fit": PLAIN,
    "no unit spread": ["gate.settings.unit_spread=false"],
    "no pull toward fixed weights": ["gate.settings.kl=0.0"],
    "no debiasing": ["debias.target=null"],
}


def table(metrics: dict[str, Any]) -> str:
    """Return pair accuracy by source and system, in percent."""
    accuracy = metrics["pair_accuracy"]
    systems = list(accuracy["noisy"])
    lines = ["source".ljust(20) + "".join(name[:14].rjust(16) for name in systems)]
    rows = {**accuracy["by_source"], "micro": accuracy["noisy"]}
    for source in sorted(rows, key=lambda name: (name in ("micro", MACRO), name)):
        lines.append(source.ljust(20) + "".join(f"{100 * rows[source][s]:16.1f}" for s in systems))
    return "\n".join(lines)


def short(metrics: dict[str, Any]) -> dict[str, float]:
    """Return a row of the table of variants: the accuracy of the gate, and its lead over the linear head."""
    lead, accuracy = metrics["pair_accuracy"]["gate_minus_linear_bt"], metrics["pair_accuracy"]
    values = {
        "train": metrics["gate"]["accuracy"]["train"],
        "validation": metrics["gate"]["accuracy"]["validation"],
        "micro": accuracy["noisy"]["gate"],
        "macro": accuracy["by_source"][MACRO]["gate"],
        "lead_macro": lead[MACRO]["value"],
        "lead_macro_low": lead[MACRO]["low"],
        "lead_macro_high": lead[MACRO]["high"],
    }
    return {name: round(value, 4) for name, value in values.items()}


def main() -> None:
    """Run the recipe, print the tables, write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", required=True)
    parser.add_argument("--encoder", default=None, help="backbone (default: that of the recipe)")
    parser.add_argument("--recipe", default="real-small")
    parser.add_argument("--features", default=None)
    parser.add_argument("--set", dest="sets", action="append", default=[])
    parser.add_argument("--ablate", action="store_true", help="also run every variant (needs --features)")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "real.json")
    options = parser.parse_args()
    recipe = ROOT / "recipes" / f"{options.recipe}.yaml"
    sets = [f"data.folder={options.folder}", *options.sets]
    if options.encoder is not None:
        sets.append(f"backbone.path={options.encoder}")
    if options.features is not None:
        sets.append(f"features.folder={options.features}")
    with tempfile.TemporaryDirectory() as temporary:
        metrics = run_recipe(recipe, sets=sets, out=Path(temporary)).metrics
    ablation = {}
    for name, changes in VARIANTS.items() if options.ablate else ():
        with tempfile.TemporaryDirectory() as temporary:
            run = run_recipe(recipe, sets=[*sets, *changes], out=Path(temporary))
        ablation[name] = short(run.metrics)
        print(f"{name:50} {ablation[name]}", flush=True)
    rated = [o["spearman"] for o in metrics["objectives_test"].values() if o["spearman"] is not None]
    summary = {
        "mean_attribute_spearman_test": float(np.mean(rated)),
        "attributes": len(rated),
        "gate_minus_linear_bt": metrics["pair_accuracy"]["gate_minus_linear_bt"],
    }
    print(table(metrics))
    print(f"mean test Spearman over {len(rated)} attributes: {summary['mean_attribute_spearman_test']:.3f}")
    for name, interval in summary["gate_minus_linear_bt"].items():  # type: ignore[attr-defined]
        low, high = 100 * interval["low"], 100 * interval["high"]
        print(
            f"gate minus linear Bradley-Terry head, {name}: {100 * interval['value']:+.1f} ({low:+.1f} to {high:+.1f})"
        )
    write_json(
        options.out,
        {
            **provenance(),
            "command": "python benchmarks/real.py --folder PACK"
            + " --encoder ENCODER" * (options.encoder is not None)
            + f" --recipe {options.recipe}" * (options.recipe != "real-small")
            + " --features FEATURES" * (options.features is not None)
            + "".join(f" --set {item}" for item in options.sets)
            + " --ablate" * options.ablate,
            "summary": summary,
            "ablation": ablation,
            "metrics": metrics,
        },
    )


if __name__ == "__main__":
    main()
