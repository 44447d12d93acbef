"""Coverage of 90% intervals for new ratings of the world: the posterior of the ridge heads, and quantile heads.

    python benchmarks/uncertainty.py

``scaled`` is the deviation that a model stores: that of the posterior, times the factor from out-of-fold residuals.
The features are those of a tiny random decoder. Test ratings share no prompt with the training ratings. ``sum`` is
the sum of all ratings of an answer, against 1.645 standard deviations of that sum.
"""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from facetrm.core.files import write_json
from facetrm.data.objectives import label_matrix
from facetrm.data.world import World
from facetrm.fit.heads.held_out_scale import COVERAGE, NORMAL
from facetrm.fit.heads.quantile import fit_quantile_heads
from facetrm.fit.heads.ridge import RidgeConfig, fit_linear_experts
from facetrm.recipes.toy import toy_model
from provenance import provenance

RESULTS = Path(__file__).parent / "results" / "uncertainty.json"
ROWS, TRAIN = 3000, 2000
LEVEL, Z = COVERAGE, NORMAL
KINDS = ("posterior", "scaled", "quantiles")


def measure() -> dict[str, Any]:
    world, encoder = World(), toy_model().encoder
    rows = list(itertools.islice(world.ratings(ROWS), ROWS))
    seen = {row.prompt_key for row in rows[:TRAIN]}
    train, test = rows[:TRAIN], [row for row in rows[TRAIN:] if row.prompt_key not in seen]
    x_train, x_test = (encoder.encode([row.messages for row in part]).response() for part in (train, test))
    y_train, y_test = label_matrix(train, world.objectives), label_matrix(test, world.objectives)
    groups = [row.prompt_key for row in train]
    start = time.perf_counter()
    fit = fit_linear_experts(
        x_train,
        y_train,
        objectives=world.objectives,
        groups=groups,
        config=RidgeConfig(bootstrap=0),
        uncertainty=True,
    )
    ridge_seconds = time.perf_counter() - start
    assert fit.posterior is not None
    half = Z * fit.posterior.rating_variance(x_test).sqrt()
    middle = fit.experts.rate(x_test).detach()
    ends = {"posterior": (middle - half, middle + half)}
    deviation_NK = fit.posterior.deviation(x_test)
    ends["scaled"] = (middle - Z * deviation_NK, middle + Z * deviation_NK)
    start = time.perf_counter()
    heads = fit_quantile_heads(x_train, y_train, objectives=world.objectives)
    quantile_seconds = time.perf_counter() - start
    ends["quantiles"] = heads.interval(x_test, coverage=LEVEL)
    table: dict[str, Any] = {}
    for k, objective in enumerate(world.objectives):
        rated = np.isfinite(y_test[:, k])
        near = np.abs(y_test[rated, k] - y_test[rated, k].mean()) <= Z * y_test[rated, k].std()
        table[objective.name] = {
            "rated": int(rated.sum()),
            "held_out_r2": 1.0 - fit.reports[k].mse / fit.reports[k].mse_mean,
            "raw_within": float(near.mean()),  # ratings within Z standard deviations of their own mean
        }
        for name, (low, high) in ends.items():
            y, bottom, top = y_test[rated, k], low[:, k].numpy()[rated], high[:, k].numpy()[rated]
            table[objective.name][name] = {
                "coverage_90": float(((bottom <= y) & (y <= top)).mean()),
                "width": float((top - bottom).mean()),
            }
    rated_K = np.array([row["rated"] for row in table.values()], dtype=float)
    overall: dict[str, Any] = {}
    for kind in KINDS:
        found_K, width_K = (np.array([row[kind][name] for row in table.values()]) for name in ("coverage_90", "width"))
        overall[kind] = {
            "coverage_90": float(rated_K @ found_K / rated_K.sum()),
            "lowest": float(found_K.min()),
            "highest": float(found_K.max()),
            "width": float(rated_K @ width_K / rated_K.sum()),
        }
    for name in ("raw_within", "held_out_r2"):
        overall[name] = float(rated_K @ np.array([row[name] for row in table.values()]) / rated_K.sum())
    rated_NK = torch.from_numpy(np.isfinite(y_test)).float()
    error_N = np.abs(np.nansum(middle.numpy() - y_test, axis=1))  # over what is rated
    scale_K, spread_K, r_KK = fit.posterior.scale_K, fit.posterior.spread_K, fit.posterior.correlation_KK
    ways = {
        "correlated": (spread_K, r_KK),
        "independent": (spread_K, torch.eye(len(r_KK))),
        "scale_of_intervals": (scale_K, r_KK),
    }
    variance_NK = fit.posterior.rating_variance(x_test)
    overall["sum"] = {}
    for kind, (factor_K, correlation_KK) in ways.items():
        posterior = fit.posterior.scaled(scale_K=scale_K, spread_K=factor_K, correlation_KK=correlation_KK)
        inside_N = error_N <= Z * posterior.sum_deviation(variance_NK, rated_NK).numpy()
        overall["sum"][kind] = float(inside_N.mean())
    return {
        **provenance(),
        "train": len(train),
        "test": len(test),
        "hidden": encoder.hidden_size,
        "ridge_seconds": round(ridge_seconds, 2),
        "quantile_seconds": round(quantile_seconds, 2),
        "overall": overall,
        "objectives": table,
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    found = measure()
    write_json(RESULTS, found)
    print(json.dumps(found["overall"], indent=1))
    print(f"{found['test']} test ratings; 90% intervals: share of ratings inside (mean width)")
    for name, row in found["objectives"].items():
        shown = [f"{kind} {row[kind]['coverage_90']:.3f} ({row[kind]['width']:.2f})" for kind in KINDS]
        print(f"  {name:<24} {'   '.join(shown)}   {row['rated']} rated")
