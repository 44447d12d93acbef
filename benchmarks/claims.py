"""What the two papers claim, on data whose truth is known: drawn, with intervals.

    python benchmarks/claims.py --debiased RUN --plain RUN --features FOLDER

RUN is a run of recipes/desk.yaml, and one with debias.target=null; FOLDER holds the features of its rows. Four claims:

1. A gate over objectives orders pairs better than a Bradley-Terry head on the same features (three seeds, desk.json).
2. Binary ratings lose what graded ones hold: heads fitted on ratings cut at each objective's median, and on the ratings
   themselves, are compared by rank correlation with held-out graded ratings.
3. The gate listens to refusals where the prompt is harmful: its weight on the objectives of declining, by task.
4. Debiasing pays where the better answer is the shorter one: accuracy on both kinds of pairs, with and without it.
5. Experts per capability against ensembles under label noise (dmoerm.json, 12,800 labels).

Prints the figures and writes benchmarks/results/claims.json and docs/images/claims.png.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

from facetrm.core.config import parse_config, read_yaml
from facetrm.core.files import write_json
from facetrm.core.progress import shown_logs
from facetrm.core.statistics import Floats
from facetrm.data.objectives import label_matrix
from facetrm.evaluate.benchmarks.load import ItemSet, read_benchmark
from facetrm.evaluate.benchmarks.result import AnswerScore, judge_set
from facetrm.fit.heads.ridge import evaluate_experts
from facetrm.hub.load import load_model
from facetrm.recipes.armorm.config import ArmormConfig
from facetrm.recipes.armorm.fit import Stopwatch, prepare
from facetrm.recipes.armorm.heads import fit_heads, rated_chunks
from provenance import provenance
from stored_scorer import StoredScorer

mpl.use("Agg")
from matplotlib import pyplot as plt

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
SHORTER, LONGER = "right answer shorter", "right answer longer"


def halved(labels_NK: Floats) -> Floats:
    """Return labels cut at the median of their column: 1 above, 0 below, 0.5 at it; NaN stays NaN."""
    middle_K = np.nanmedian(labels_NK, axis=0)
    return np.where(
        np.isnan(labels_NK), np.nan, np.where(labels_NK > middle_K, 1.0, np.where(labels_NK < middle_K, 0.0, 0.5))
    )


def binarised(features: str) -> dict[str, Any]:
    """Return the rank correlations of heads fitted on graded and on binary ratings of the desk, by objective."""
    raw = read_yaml(ROOT / "recipes" / "desk.yaml")
    config = parse_config(ArmormConfig, {**raw, "features": {"folder": features}}, place="desk.yaml")
    with tempfile.TemporaryDirectory() as temporary:
        rows, encoder, store, _ = prepare(config, Path(temporary), Stopwatch())
    size = encoder.hidden_size
    graded, held_out = (label_matrix(part, rows.objectives) for part in (rows.heads, rows.heads_test))
    found: dict[str, list[float]] = {}
    for name, labels in (("graded", graded), ("binary", halved(graded))):
        section = config.experts.model_copy(update={"layers": (20,)})
        rated = rated_chunks(rows.heads, store.stream, hidden_size=size)
        fit = fit_heads(section, rows.heads, rated, labels, objectives=rows.objectives, scale=None).fit
        reports = evaluate_experts(
            fit.experts,
            rated_chunks(rows.heads_test, store.stream, hidden_size=size),
            held_out,
            groups=[r.prompt_key for r in rows.heads_test],
            bootstrap=0,
        )
        found[name] = [float("nan") if r.spearman is None else float(r.spearman) for r in reports]
    gap = np.array(found["graded"]) - np.array(found["binary"])
    half = 1.96 * gap.std(ddof=1) / np.sqrt(len(gap))
    return {
        "objectives": [objective.name for objective in rows.objectives],
        **found,
        "mean": {name: float(np.mean(values)) for name, values in found.items()},
        "gap": {"value": float(gap.mean()), "low": float(gap.mean() - half), "high": float(gap.mean() + half)},
    }


def by_length(debiased: StoredScorer, plain: StoredScorer) -> dict[str, Any]:
    """Return accuracy in the true order of the desk, with and without debiasing, by which answer is the shorter."""
    found = read_benchmark("desk")
    assert isinstance(found, ItemSet)
    answers = {
        name: [[AnswerScore(score.reward) for score in scorer.score(item.conversations)] for item in found.questions]
        for name, scorer in (("debiased", debiased), ("not debiased", plain))
    }
    result = judge_set(found, answers, samples=2000).to_dict()
    return {"total": result["figures"]["total"], **result["slices"], "differences": result["differences"]}


def listened_to(scorer: StoredScorer) -> dict[str, float]:
    """Return the gate's mean weight on the objectives of declining, by task of the desk's test pairs."""
    found = read_benchmark("desk")
    assert isinstance(found, ItemSet)
    shares = defaultdict(list)
    for item in found.questions:
        weights = scorer.score(item.conversations[:1])[0].weights
        shares[str(item.task)].append(sum(w for name, w in weights.items() if name.endswith("-declined")))
    return {task: float(np.mean(values)) for task, values in sorted(shares.items())}


def seeds_of_desk() -> dict[str, list[float]]:
    """Return the accuracy of each system in the true order, by seed, as benchmarks/desk.py measured it."""
    runs = json.loads((RESULTS / "desk.json").read_text())["runs"]
    systems = ("gate", "linear_bt", "unconditional", "bag_of_words")
    return {name: [run["pair_accuracy"]["true"][name] for run in runs] for name in systems}


def under_noise() -> dict[str, Any]:
    """Return the lead of DMoERM over its rivals with the most labels, as benchmarks/dmoerm.py measured it."""
    summaries = json.loads((RESULTS / "dmoerm.json").read_text())["summaries"]
    return {name: one["ahead"] for name, one in summaries.items() if "12800" in name}


def draw(table: dict[str, Any], path: Path) -> None:
    """Draw the five claims in one figure."""
    figure, axes = plt.subplots(1, 5, figsize=(19, 4))
    for n, values in enumerate(table["gate"].values()):
        axes[0].plot([n] * len(values), [100 * v for v in values], "o", color="tab:blue" if n == 0 else "tab:gray")
    axes[0].set_xticks(range(len(table["gate"])), [name.replace("_", "\n") for name in table["gate"]])
    axes[0].set_title("1. true order, desk, 3 seeds (%)")
    axes[1].plot(table["binary"]["binary"], table["binary"]["graded"], "o")
    ends = [min(table["binary"]["binary"]), max(table["binary"]["graded"])]
    axes[1].plot(ends, ends, "--", color="tab:gray")
    axes[1].set_xlabel("fitted on binary ratings")
    axes[1].set_ylabel("on graded ratings")
    axes[1].set_title("2. Spearman, one dot per objective")
    tasks = sorted(table["refusals"], key=lambda task: table["refusals"][task])
    axes[2].barh(tasks, [100 * table["refusals"][task] for task in tasks])
    axes[2].set_title("3. gate's weight on declining (%)")
    for n, name in enumerate((SHORTER, LONGER)):
        for k, system in enumerate(("debiased", "not debiased")):
            one = table["length"][name][system]
            low, high = one["value"] - one["low"], one["high"] - one["value"]
            bars = [[100 * low], [100 * high]]
            label = system if n == 0 else None
            axes[3].errorbar([n + 0.1 * k], [100 * one["value"]], yerr=bars, fmt="os"[k], color=f"C{k}", label=label)
    axes[3].set_xticks([0, 1], ["right answer\nshorter", "right answer\nlonger"])
    axes[3].legend()
    axes[3].set_title("4. true order by length (%)")
    for n, ahead in enumerate(table["noise"].values()):
        rivals = ("single_rm", "ensemble_mean", "ensemble_worst", "ensemble_uncertainty")
        for k, rival in enumerate(rivals):
            one = ahead[rival]
            bars = [[100 * (one["value"] - one["low"])], [100 * (one["high"] - one["value"])]]
            label = rival.replace("_", " ") if n == 0 else None
            axes[4].errorbar([n + 0.12 * k], [100 * one["value"]], yerr=bars, fmt="o", color=f"C{k}", label=label)
    axes[4].axhline(0, color="tab:gray", linewidth=0.8)
    axes[4].set_xticks(range(len(table["noise"])), [name.split("noise ")[-1] + " noise" for name in table["noise"]])
    axes[4].legend(fontsize=7)
    axes[4].set_title("5. DMoERM's lead (points)")
    figure.tight_layout()
    figure.savefig(path, dpi=90)


def main() -> None:
    """Measure, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--debiased", "--plain", "--features"):
        parser.add_argument(name, required=True)
    options = parser.parse_args()
    folder = Path(options.features)
    with shown_logs():
        debiased = StoredScorer(load_model(options.debiased), folder)
        plain = StoredScorer(load_model(options.plain), folder)
        table = {
            "gate": seeds_of_desk(),
            "binary": binarised(options.features),
            "refusals": listened_to(debiased),
            "length": by_length(debiased, plain),
            "noise": under_noise(),
        }
    draw(table, ROOT / "docs" / "images" / "claims.png")
    command = "python benchmarks/claims.py --debiased RUN --plain RUN --features FOLDER"
    write_json(RESULTS / "claims.json", {**provenance(), "command": command, **table})
    print(json.dumps({name: table[name] for name in ("gate", "refusals", "length")}, indent=1))
    print(json.dumps({key: table["binary"][key] for key in ("mean", "gap")}, indent=1))


if __name__ == "__main__":
    main()
