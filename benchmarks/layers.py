"""Which layer knows what: heads on the layer chosen for each objective, against heads on the last layer.

    python benchmarks/layers.py --recipe desk --features DESK
    python benchmarks/layers.py --recipe real-smollm2 --folder PACK --features FEATURES

Both fit the same ratings and are measured on the same held-out ratings. The interval is a bootstrap over prompts of the
difference in mean test Spearman, over all objectives and over those with at least 30 test ratings. Prints a table and
adds it to benchmarks/results/layers.json under the recipe's name. Features are kept in --features and used again.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from facetrm.backbone.encoder import LAST
from facetrm.backbone.store import FeatureStore
from facetrm.core.config import apply_sets, parse_config, read_yaml
from facetrm.core.files import write_json
from facetrm.core.statistics import Floats, spearman
from facetrm.data.objectives import label_matrix
from facetrm.data.records import Rating
from facetrm.recipes.armorm.config import ArmormConfig
from facetrm.recipes.armorm.fit import Stopwatch, prepare
from facetrm.recipes.armorm.heads import fit_heads, rated_chunks
from provenance import provenance

ROOT = Path(__file__).resolve().parents[1]
LEAST = 30  # test ratings of an objective; the correlation of fewer is mostly chance
OUT = ROOT / "benchmarks" / "results" / "layers.json"


def correlations(scores_NK: Floats, labels_NK: Floats) -> Floats:
    """Return the Spearman correlation of each objective over its rated rows, [K]; NaN where it is not defined."""
    found = []
    for score_N, label_N in zip(scores_NK.T, labels_NK.T, strict=True):
        rated_N = np.isfinite(label_N)
        found.append(spearman(score_N[rated_N], label_N[rated_N]) if rated_N.sum() > 2 else math.nan)
    return np.array(found)


def paired(
    last_NK: Floats, chosen_NK: Floats, labels_NK: Floats, groups: Sequence[str], *, samples: int, seed: int
) -> tuple[float, float, float]:
    """Return the difference in mean correlation (chosen minus last), and the ends of its 95% interval over prompts."""

    def difference(rows_N: np.ndarray) -> float:
        labels = labels_NK[rows_N]
        return float(np.nanmean(correlations(chosen_NK[rows_N], labels) - correlations(last_NK[rows_N], labels)))

    _, codes_N = np.unique(np.asarray(groups), return_inverse=True)
    rows_of = [np.flatnonzero(codes_N == code) for code in range(codes_N.max() + 1)]
    random = np.random.default_rng(seed)
    drawn = [
        difference(np.concatenate([rows_of[g] for g in random.integers(0, len(rows_of), len(rows_of))]))
        for _ in range(samples)
    ]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return difference(np.arange(len(labels_NK))), float(low), float(high)


def compare(config: ArmormConfig, *, samples: int) -> dict[str, Any]:
    """Fit both kinds of heads and measure them on the held-out ratings.

    Args:
        config: Settings of the run, with the layers to choose from.
        samples: Number of bootstrap samples.
    """
    with tempfile.TemporaryDirectory() as temporary:
        rows, encoder, store, _ = prepare(config, Path(temporary), Stopwatch())
    labels_NK, test_NK = label_matrix(rows.heads, rows.objectives), label_matrix(rows.heads_test, rows.objectives)
    scores = []
    table = ()
    for layers in ((LAST,), config.experts.layers):
        section = config.experts.model_copy(update={"layers": layers})
        read = FeatureStore(store.folder, encoder=encoder, layers=layers)

        def chunks(ratings: Sequence[Rating], read: FeatureStore = read) -> Any:
            return rated_chunks(ratings, read.stream, hidden_size=encoder.hidden_size)

        fitted = fit_heads(section, rows.heads, chunks(rows.heads), labels_NK, objectives=rows.objectives, scale=None)
        with torch.no_grad():
            found_NK = torch.cat([fitted.fit.experts(block) for block in chunks(rows.heads_test)()])
        scores.append(found_NK.double().numpy())
        table = fitted.table
    groups = [r.prompt_key for r in rows.heads_test]
    last_K, chosen_K = (correlations(found_NK, test_NK) for found_NK in scores)
    many_K = np.isfinite(test_NK).sum(axis=0) >= LEAST

    def gain(columns_K: np.ndarray) -> dict[str, float]:
        parts = [found_NK[:, columns_K] for found_NK in (*scores, test_NK)]
        value, low, high = paired(*parts, groups, samples=samples, seed=config.seed)
        return {"objectives": int(columns_K.sum()), "value": value, "low": low, "high": high}

    objectives = {
        row.name: {
            "layer": row.chosen,
            "test_last": _plain(last),
            "test_chosen": _plain(chosen),
            "rows": int(np.isfinite(test_NK[:, k]).sum()),
            "cross_validated": {str(layer): _plain(x) for layer, x in row.spearman.items()},
        }
        for k, (row, last, chosen) in enumerate(zip(table, last_K, chosen_K, strict=True))
    }
    return {
        "ratings": len(rows.heads),
        "test_ratings": len(rows.heads_test),
        "mean_last": float(np.nanmean(last_K)),
        "mean_chosen": float(np.nanmean(chosen_K)),
        "difference": gain(np.ones_like(many_K)),
        "difference_of_many": gain(many_K),
        "objectives": objectives,
    }


def _plain(value: float) -> float | None:
    return round(float(value), 4) if math.isfinite(value) else None


def shown(found: dict[str, Any]) -> str:
    """Return the printed table."""
    lines = [f"{'objective':32}{'rows':>6}{'layer':>7}{'last':>8}{'chosen':>8}"]
    for name, row in found["objectives"].items():
        cells = "".join(f"{'–' if row[k] is None else format(row[k], '.2f'):>8}" for k in ("test_last", "test_chosen"))
        lines.append(f"{name:32}{row['rows']:>6}{row['layer']!s:>7}{cells}")
    lines.append(f"mean test Spearman: last {found['mean_last']:.3f}, chosen {found['mean_chosen']:.3f}")
    for name, what in (("difference", "all objectives"), ("difference_of_many", f"with {LEAST} or more test ratings")):
        gain = found[name]
        ends = f"{gain['low']:+.3f} to {gain['high']:+.3f}"
        lines.append(f"difference over {gain['objectives']} ({what}): {gain['value']:+.3f} ({ends})")
    return "\n".join(lines)


def main() -> None:
    """Compare the layers for one recipe, print the table, add it to the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", required=True)
    parser.add_argument("--folder", default=None, help="folder of a pack")
    parser.add_argument("--features", required=True)
    parser.add_argument("--set", dest="sets", action="append", default=[])
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    sets = [f"features.folder={options.features}", *options.sets]
    if options.folder is not None:
        sets.append(f"data.folder={options.folder}")
    path = ROOT / "recipes" / f"{options.recipe}.yaml"
    config = parse_config(ArmormConfig, apply_sets(read_yaml(path), sets), place=path)
    found = compare(config, samples=options.samples)
    print(shown(found))
    known = json.loads(options.out.read_text(encoding="utf-8")) if options.out.exists() else {}
    write_json(options.out, {**known, options.recipe: {**provenance(), **found}})


if __name__ == "__main__":
    main()
