"""Ridge heads on ArmoRM's layout: ours against a scikit-learn loop over objectives and alphas.

    python benchmarks/ridge.py            speed and agreement: n = 30,000, D = 1,024
    python benchmarks/ridge.py --large    memory as well: n = 100,000, D = 4,096 in a separate process (ten minutes)

Both sides get the same rows, the same validation split, float64 products and the same penalties. They choose the
penalty by validation error and keep the head fitted on the training part. The time of ours includes its out-of-fold
report. The two sides take turns, each on ``--threads`` threads (default 1, which is fairer on a shared machine).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
import torch
from numpy.typing import NDArray
from sklearn.linear_model import Ridge
from threadpoolctl import threadpool_limits

from facetrm.core.files import write_json
from facetrm.data.objectives import Objective
from facetrm.fit.heads.label_blocks import assign_folds
from facetrm.fit.heads.ridge import LinearFit, RidgeConfig, fit_linear_experts

RESULTS = Path(__file__).parent / "results" / "ridge.json"
# ArmoRM's eight rated sources: thousands of rows (roughly), and the objectives (columns) that they rate
SOURCES = (
    (35.0, range(5)),  # HelpSteer
    (240.0, range(5, 10)),  # UltraFeedback
    (30.0, range(10, 11)),  # BeaverTails
    (200.0, range(11, 12)),  # Prometheus
    (15.0, range(12, 13)),  # Argilla-Capybara
    (13.0, range(13, 14)),  # Argilla-OpenOrca
    (50.0, range(14, 19)),  # CodeUltraFeedback
    (2.4, range(6, 7)),  # Argilla-Math-Preferences, rated by UltraFeedback's instruction following
)
OBJECTIVES = [Objective(name=f"o{k}", low=0, high=1, kind="continuous") for k in range(19)]
CHUNK = 2048
ALPHAS = RidgeConfig().alphas


def chunk(seed: int, start: int, rows: int, hidden: int) -> torch.Tensor:
    """Return float32 features of rows ``start..``: 64 directions of decreasing strength plus noise, from the seed."""
    mixing = torch.randn(64, hidden, generator=torch.Generator().manual_seed(seed)) / 8
    draw = torch.Generator().manual_seed(seed + 1 + start)
    common = torch.randn(rows, 64, generator=draw) / torch.arange(1, 65).sqrt()
    return common @ mixing * 4 + torch.randn(rows, hidden, generator=draw) * 0.5 + 0.1


def chunks(seed: int, n: int, hidden: int) -> Iterator[torch.Tensor]:
    for start in range(0, n, CHUNK):
        yield chunk(seed, start, min(CHUNK, n - start), hidden)


def layout(seed: int, n: int, hidden: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return labels (NaN where not rated) and prompt keys (two rows per prompt); the sources share no row."""
    rng = np.random.default_rng(seed)
    truth = torch.from_numpy(rng.normal(size=(hidden, len(OBJECTIVES))) / np.sqrt(hidden)).float()
    clean = torch.cat([x @ truth for x in chunks(seed, n, hidden)]).numpy().astype(np.float64)
    full = np.clip(0.5 + 0.15 * clean + 0.15 * rng.normal(size=clean.shape), 0, 1)
    y = np.full_like(full, np.nan)
    shares = np.cumsum([0.0, *(rows for rows, _ in SOURCES)])
    bounds = np.round(shares / shares[-1] * n / 2).astype(int) * 2
    for i, (_, columns) in enumerate(SOURCES):
        block = np.ix_(range(bounds[i], bounds[i + 1]), list(columns))
        y[block] = full[block]
    return y, np.arange(n) // 2


def loop_over_sklearn(
    x: NDArray[np.float32], y: NDArray[np.float64], fold: NDArray[np.int64]
) -> tuple[NDArray[np.float64], list[float]]:
    """Return the heads and penalties of one fit per objective and penalty, and one more to refit the best."""
    heads, chosen = [], []
    for k in range(y.shape[1]):
        rated = np.isfinite(y[:, k])
        train, test = np.flatnonzero(rated & (fold == 0)), np.flatnonzero(rated & (fold == 1))
        x_train, x_test = x[train].astype(np.float64), x[test].astype(np.float64)
        errors = []
        for alpha in ALPHAS:
            model = Ridge(alpha=alpha, fit_intercept=False).fit(x_train, y[train, k])
            errors.append(float(np.mean((model.predict(x_test) - y[test, k]) ** 2)))
        chosen.append(ALPHAS[int(np.argmin(errors))])
        heads.append(Ridge(alpha=chosen[-1], fit_intercept=False).fit(x_train, y[train, k]).coef_)
    return np.stack(heads), chosen


def race(seed: int, *, n: int, hidden: int, rounds: int) -> dict[str, Any]:
    """Time both sides in turn and compare their heads."""
    y, groups = layout(seed, n, hidden)
    x = torch.cat(list(chunks(seed, n, hidden)))
    config = RidgeConfig(folds=1, validation=0.2, intercept=False, refit="train", bootstrap=0, seed=seed)
    fold = assign_folds(groups, np.isfinite(y), folds=1, validation=0.2, seed=seed)
    ours_seconds, theirs_seconds, ours_cpu, theirs_cpu = [], [], [], []
    for _ in range(rounds):
        start, cpu = time.perf_counter(), time.process_time()
        fit = fit_linear_experts(x, y, objectives=OBJECTIVES, groups=groups, config=config)
        ours_seconds.append(time.perf_counter() - start)
        ours_cpu.append(time.process_time() - cpu)
        start, cpu = time.perf_counter(), time.process_time()
        heads, chosen = loop_over_sklearn(x.numpy(), y, fold)
        theirs_seconds.append(time.perf_counter() - start)
        theirs_cpu.append(time.process_time() - cpu)
    ours = fit.experts.weight_KD.numpy().astype(np.float64)
    ratios = [theirs / mine for theirs, mine in zip(theirs_seconds, ours_seconds, strict=True)]
    return {
        "n": n,
        "hidden": hidden,
        "alphas": list(ALPHAS),
        "objectives": len(OBJECTIVES),
        "row_blocks": len(SOURCES),
        "rounds": rounds,
        "ours_seconds": ours_seconds,
        "sklearn_seconds": theirs_seconds,
        "ours_cpu_seconds": ours_cpu,
        "sklearn_cpu_seconds": theirs_cpu,
        "ratio_median": statistics.median(ratios),
        "ratio_worst": min(ratios),
        "ratio_cpu": sum(theirs_cpu) / sum(ours_cpu),
        "same_alphas": [report.alpha for report in fit.reports] == chosen,
        "relative_difference": float((np.linalg.norm(ours - heads, axis=1) / np.linalg.norm(heads, axis=1)).max()),
        **quality(fit),
    }


def quality(fit: LinearFit) -> dict[str, float]:
    """Return that the heads learned something: mean Spearman and mean share of variance explained, held out."""
    return {
        "mean_spearman": float(np.mean([report.spearman for report in fit.reports])),
        "mean_r2": float(np.mean([1 - report.mse / report.mse_mean for report in fit.reports])),
    }


def large(seed: int, *, n: int, hidden: int) -> dict[str, Any]:
    """Fit from features that are made chunk by chunk and never held; report the peak of resident memory."""
    y, groups = layout(seed, n, hidden)
    config = RidgeConfig(folds=1, validation=0.2, bootstrap=0, seed=seed)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    start = time.perf_counter()
    fit = fit_linear_experts(lambda: chunks(seed, n, hidden), y, objectives=OBJECTIVES, groups=groups, config=config)
    return {
        "n": n,
        "hidden": hidden,
        "seconds": time.perf_counter() - start,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "peak_gib_before": before,
        "gram_gib": config.gram_gib,
        **quality(fit),
    }


def machine() -> dict[str, Any]:
    """Return what the numbers depend on."""
    cpu = platform.processor()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
        cpu = names[0] if names else cpu
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "scikit-learn": sklearn.__version__,
    }


def main() -> None:
    """Run, print a table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", action="store_true", help="measure memory at n=100,000, D=4,096 as well")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="threads of either side")
    parser.add_argument("--rows", type=int, help="another n, for a quick look (nothing is written)")
    parser.add_argument("--hidden", type=int, help="another D, for a quick look (nothing is written)")
    parser.add_argument("--only-large", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    threadpool_limits(options.threads)
    if options.only_large:
        print(json.dumps(large(options.seed, n=options.rows or 100_000, hidden=options.hidden or 4096)))
        return
    speed = race(options.seed, n=options.rows or 30_000, hidden=options.hidden or 1024, rounds=options.rounds)
    print(f"{'ridge, ' + str(speed['n']) + ' x ' + str(speed['hidden']):<34}{'ours':>10}{'sklearn':>10}{'ratio':>8}")
    for mine, theirs in zip(speed["ours_seconds"], speed["sklearn_seconds"], strict=True):
        print(f"{'  seconds':<34}{mine:>10.2f}{theirs:>10.2f}{theirs / mine:>8.1f}")
    print(f"median ratio {speed['ratio_median']:.1f}, of processor time {speed['ratio_cpu']:.1f}")
    print(f"relative difference of the heads  {speed['relative_difference']:.1e}   same alphas: {speed['same_alphas']}")
    result: dict[str, Any] = {"command": " ".join(["python benchmarks/ridge.py", *sys.argv[1:]]), "seed": options.seed}
    result |= {"date": datetime.now(UTC).date().isoformat(), "machine": machine(), "speed": speed}
    if options.large:
        extra = [f"--{key}={getattr(options, key)}" for key in ("rows", "hidden") if getattr(options, key)]
        command = [
            sys.executable,
            __file__,
            "--only-large",
            f"--seed={options.seed}",
            f"--threads={options.threads}",
            *extra,
        ]
        result["memory"] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        memory = result["memory"]
        print(
            f"ridge, {memory['n']} x {memory['hidden']}: peak {memory['peak_gib']:.2f} GiB, {memory['seconds']:.0f} s"
        )
    if options.rows is None and options.hidden is None:
        write_json(RESULTS, result)
        print(f"wrote {RESULTS}")


if __name__ == "__main__":
    main()
