"""What the two papers claim, on data whose truth is known: drawn, with intervals.

    python benchmarks/claims.py --debiased RUN --plain RUN --features FOLDER
    python benchmarks/claims.py --redraw         (claims 3 and 4 as measured before)

RUN is a run of recipes/desk.yaml, and one with debias.target=null; FOLDER holds the features of its rows. Six claims:

1. A gate over objectives orders pairs better than a Bradley-Terry head on the same features (three seeds, desk.json).
2. Binary ratings lose what graded ones hold: rank correlation with held-out graded ratings (binary.json).
3. The gate listens to refusals where the prompt is harmful: its weight on the objectives of declining, by task.
4. Debiasing pays where the better answer is the shorter one: accuracy on both kinds of pairs, with and without it.
5. Experts per capability against ensembles under label noise (dmoerm.json, 12,800 labels).
6. A trained reward model orders pairs better than the same language model as a judge (systems.json).

Prints the figures and writes benchmarks/results/claims.json and docs/images/claims.png.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

from facetrm.core.files import write_json
from facetrm.core.progress import shown_logs
from facetrm.evaluate.benchmarks.load import ItemSet, read_benchmark
from facetrm.evaluate.benchmarks.result import AnswerScore, judge_set
from facetrm.hub.load import load_model
from provenance import provenance
from stored_scorer import StoredScorer

mpl.use("Agg")
from matplotlib import pyplot as plt

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
JUDGED = {
    "gate": "gate",
    "linear head": "linear Bradley-Terry head",
    "Bradley-Terry, LoRA": "Bradley-Terry, LoRA",
    "judge, rating": "judge, rating",
    "judge, pairwise": "judge, pairwise",
}
SHORTER, LONGER = "right answer shorter", "right answer longer"


def binarised() -> dict[str, dict[str, dict[str, float]]]:
    """Return the rank correlation that binary ratings lose, by data and number of answers (benchmarks/binary.py)."""
    data = json.loads((RESULTS / "binary.json").read_text())["data"]
    return {name: {size: row["gap"] for size, row in one.items()} for name, one in data.items()}


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


def against_judges() -> dict[str, Any]:
    """Return the accuracy of reward models and judges on one backbone, as benchmarks/systems.py measured it."""
    total = json.loads((RESULTS / "systems.json").read_text())["data"]["desk"]["figures"]["total"]
    return {name: total[system] for name, system in JUDGED.items()}


def draw(table: dict[str, Any], path: Path) -> None:
    """Draw the six claims in one figure."""
    figure, panels = plt.subplots(2, 3, figsize=(15, 8))
    axes = panels.flatten()
    for n, values in enumerate(table["gate"].values()):
        axes[0].plot([n] * len(values), [100 * v for v in values], "o", color="tab:blue" if n == 0 else "tab:gray")
    axes[0].set_xticks(range(len(table["gate"])), [name.replace("_", "\n") for name in table["gate"]])
    axes[0].set_title("1. true order, desk, 3 seeds (%)")
    for k, (data, sizes) in enumerate(table["binary"].items()):
        rows = [sizes[size] for size in sorted(sizes, key=int)]
        values = [one["value"] for one in rows]
        bars = [[one["value"] - one["low"] for one in rows], [one["high"] - one["value"] for one in rows]]
        places = [n + 0.12 * k for n in range(len(rows))]
        axes[1].errorbar(places, values, yerr=bars, fmt="os"[k], color=f"C{k}", label=data)
        axes[1].set_xticks(range(len(rows)), sorted(sizes, key=int))
    axes[1].axhline(0, color="tab:gray", linewidth=0.8)
    axes[1].set_xlabel("rated answers")
    axes[1].legend(loc="lower right")
    axes[1].set_title("2. Spearman lost by binary ratings")
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
    axes[3].legend(loc="upper left")
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
    axes[4].legend(fontsize=7, loc="upper left")
    axes[4].set_title("5. DMoERM's lead (points)")
    for n, one in enumerate(reversed(table["judge"].values())):
        bars = [[100 * (one["value"] - one["low"])], [100 * (one["high"] - one["value"])]]
        axes[5].errorbar([100 * one["value"]], [n], xerr=bars, fmt="o", color="tab:blue")
    axes[5].axvline(50, color="tab:gray", linewidth=0.8)
    axes[5].set_yticks(range(len(table["judge"])), list(reversed(table["judge"])))
    axes[5].set_title("6. true order, desk, one backbone (%)")
    figure.tight_layout()
    figure.savefig(path, dpi=90)


def main() -> None:
    """Measure, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--debiased", "--plain", "--features"):
        parser.add_argument(name)
    parser.add_argument("--redraw", action="store_true")
    options = parser.parse_args()
    if not options.redraw and None in (options.debiased, options.plain, options.features):
        parser.error("give --debiased, --plain and --features, or --redraw")
    path = RESULTS / "claims.json"
    if options.redraw:
        kept = json.loads(path.read_text())
        measured = {name: kept[name] for name in ("refusals", "length", "date", "machine", "command")}
    else:
        folder = Path(options.features)
        with shown_logs():
            debiased = StoredScorer(load_model(options.debiased), folder)
            plain = StoredScorer(load_model(options.plain), folder)
            command = "python benchmarks/claims.py --debiased RUN --plain RUN --features FOLDER"
            measured = {"refusals": listened_to(debiased), "length": by_length(debiased, plain)}
            measured |= {**provenance(), "command": command}
    table = {
        "gate": seeds_of_desk(),
        "binary": binarised(),
        "noise": under_noise(),
        "judge": against_judges(),
        **measured,
    }
    draw(table, ROOT / "docs" / "images" / "claims.png")
    write_json(path, table)
    print(json.dumps({name: table[name] for name in ("gate", "binary", "refusals", "length", "judge")}, indent=1))


if __name__ == "__main__":
    main()
