"""What heads lose if graded ratings are cut into good and bad ones: by number of rated answers, and on planted ratings.

    python benchmarks/binary.py --features FOLDER

Ratings of the desk are cut at each objective's median; ridge heads on layer 20 of SmolLM2-135M-Instruct are fitted on
the graded and on the cut ratings, and their rank correlation with held-out *graded* ratings is compared. Fewer answers
are the first ones. The planted ratings are linear in the same features plus normal noise (22 columns, half of the
variance is noise): a case in which a cut must cost something. FOLDER keeps the features; a second call reads them.

Intervals are Student's t over objectives. Prints a table and writes benchmarks/results/binary.json.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from scipy.stats import t as student
from torch import Tensor

from facetrm.core.config import parse_config, read_yaml
from facetrm.core.files import write_json
from facetrm.core.progress import shown_logs
from facetrm.core.statistics import Floats
from facetrm.data.objectives import Objective, label_matrix
from facetrm.fit.heads.ridge import RidgeConfig, fit_linear_experts
from facetrm.recipes.armorm.config import ArmormConfig
from facetrm.recipes.armorm.fit import Stopwatch, prepare
from provenance import provenance

ROOT = Path(__file__).resolve().parents[1]
SIZES, LAYER, RATED = (250, 500, 1000, 2000, 4000), 20, 4000


def halved(labels_NK: Floats) -> Floats:
    """Return labels cut at the median of their column: 1 above, 0 below, 0.5 at it; NaN stays NaN."""
    middle_K = np.nanmedian(labels_NK, axis=0)
    return np.where(
        np.isnan(labels_NK), np.nan, np.where(labels_NK > middle_K, 1.0, np.where(labels_NK < middle_K, 0.0, 0.5))
    )


def planted(response_ND: Floats, columns: int) -> Floats:
    """Return ratings in [0, 1] that are linear in the features plus as much noise."""
    rng = np.random.default_rng(0)
    centred_ND = (response_ND - response_ND.mean(axis=0)) / response_ND.std(axis=0)
    signal_NK = centred_ND @ rng.normal(size=(response_ND.shape[1], columns))
    signal_NK /= signal_NK.std(axis=0)
    found: Floats = np.clip((signal_NK + rng.normal(size=signal_NK.shape)) / 8.0 + 0.5, 0.0, 1.0)
    return found


def rank_correlations(scores_MK: Floats, ratings_MK: Floats) -> list[float]:
    """Return Spearman's correlation of each column; NaN for ratings that are all equal."""
    rated = [np.isfinite(column) for column in ratings_MK.T]
    return [
        float(spearmanr(scores_MK[rows, k], ratings_MK[rows, k]).statistic) if np.ptp(ratings_MK[rows, k]) else np.nan
        for k, rows in enumerate(rated)
    ]


def compare(
    train_ND: Tensor,
    labels_NK: Floats,
    test_MD: Tensor,
    held_out_MK: Floats,
    objectives: Sequence[Objective],
    groups: list[str],
) -> dict[str, dict[str, Any]]:
    """Return the rank correlations of both kinds of heads by number of answers, and the mean gap."""
    table = {}
    for size in SIZES:
        found: dict[str, list[float]] = {}
        for name, labels in (("graded", labels_NK[:size]), ("binary", halved(labels_NK[:size]))):
            fit = fit_linear_experts(
                train_ND[:size],
                labels,
                objectives=objectives,
                groups=groups[:size],
                config=RidgeConfig(bootstrap=0, unfit="mean"),
            )
            found[name] = rank_correlations(fit.experts.rate(test_MD).detach().numpy(), held_out_MK)
        gap_K = np.array(found["graded"]) - np.array(found["binary"])
        gap_K = gap_K[np.isfinite(gap_K)]
        half = float(student.ppf(0.975, len(gap_K) - 1) * gap_K.std(ddof=1) / np.sqrt(len(gap_K)))
        table[str(size)] = {
            **{name: [value if np.isfinite(value) else None for value in values] for name, values in found.items()},
            "mean": {name: float(np.nanmean(values)) for name, values in found.items()},
            "gap": {
                "value": float(gap_K.mean()),
                "low": float(gap_K.mean() - half),
                "high": float(gap_K.mean() + half),
            },
        }
    return table


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", required=True)
    options = parser.parse_args()
    raw = read_yaml(ROOT / "recipes" / "desk.yaml")
    raw["data"] |= {"ratings": RATED, "preferences": 640, "test": 300}
    given = {**raw, "features": {"folder": options.features}}
    config = parse_config(ArmormConfig, given, place="desk.yaml")
    with shown_logs(), tempfile.TemporaryDirectory() as temporary:
        rows, _, store, _ = prepare(config, Path(temporary), Stopwatch())
        train_ND, test_MD = (
            store.features([r.messages for r in part]).response(LAYER).float() for part in (rows.heads, rows.heads_test)
        )
    groups = [r.prompt_key for r in rows.heads]
    desk_NK, desk_MK = (label_matrix(part, rows.objectives) for part in (rows.heads, rows.heads_test))
    both_ND = torch.cat([train_ND, test_MD]).double().numpy()
    made = planted(both_ND, len(rows.objectives))
    plain = [Objective(name=f"planted-{k}", low=0, high=1) for k in range(len(rows.objectives))]
    table = {
        "desk": compare(train_ND, desk_NK, test_MD, desk_MK, rows.objectives, groups),
        "planted": compare(train_ND, made[: len(desk_NK)], test_MD, made[len(desk_NK) :], plain, groups),
    }
    for name, one in table.items():
        print(f"\n{name:10}{'graded':>10}{'binary':>10}{'lost':>10}")
        for size, row in one.items():
            gap = row["gap"]
            shown = f"{gap['value']:+.3f} ({gap['low']:+.3f} to {gap['high']:+.3f})"
            print(f"{size:>10}{row['mean']['graded']:10.3f}{row['mean']['binary']:10.3f}   {shown}")
    command = "python benchmarks/binary.py --features FOLDER"
    names = [objective.name for objective in rows.objectives]
    found = {"held_out": len(desk_MK), "layer": LAYER, "objectives": names, "data": table}
    write_json(ROOT / "benchmarks" / "results" / "binary.json", {**provenance(), "command": command, **found})


if __name__ == "__main__":
    main()
