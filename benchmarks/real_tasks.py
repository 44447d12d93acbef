"""DMoERM on real preferences, against one reward model for all tasks and ArmoRM, on the same rows, encoder and pairs.

    python benchmarks/real_tasks.py --folder PACK --encoder ENCODER

PACK is a folder in the pack schema, ENCODER the folder of a sentence encoder. Each source gives at most --ratings rows
and --preferences pairs for training, and --test pairs; whole prompts are drawn in a fixed random order. With all rows,
training the adapters on a CPU would take hours. Systems:

    dmoerm       recipes/real-tasks.yaml
    task_rm      only the adapter and head of each task (phase 1 of dmoerm, with the same router)
    single       one adapter and head on all training pairs: the run's own rival
    armorm       recipes/real-small.yaml on all training ratings and pairs
    routed       the same with one gate per task
    linear       Bradley-Terry head on the frozen features

Prints a table and writes benchmarks/results/real_tasks.json.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import shutil
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from facetrm.core.files import write_json
from facetrm.core.statistics import paired_difference
from facetrm.evaluate.compare import by_source, margins, strata
from facetrm.recipes.run import run_recipe
from provenance import provenance

ROOT = Path(__file__).resolve().parents[1]
SYSTEMS = ("dmoerm", "task_rm", "single", "armorm", "routed", "linear")

Floats = NDArray[np.float64]


def capped(pack: Path, folder: Path, most: dict[str, int]) -> dict[str, int]:
    """Write a pack with a limited number of rows per source and split to ``folder``; return the number of rows."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(pack / "sources.json", folder / "sources.json")
    counts: Counter[str] = Counter()
    for name in ("rated", "preferences"):
        with gzip.open(pack / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
        taken: Counter[tuple[str, str]] = Counter()
        kept = []
        for row in sorted(rows, key=_place):
            part = (row["source"], row["split"])
            limit = most["ratings"] if name == "rated" else most["preferences" if part[1] == "train" else "test"]
            if taken[part] < limit:
                taken[part] += 1
                kept.append(row)
                counts[f"{name}_{part[1]}"] += 1
        with gzip.open(folder / f"{name}.jsonl.gz", "wt", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in kept)
    return dict(counts)


def _place(row: dict[str, Any]) -> tuple[str, str]:
    """Return the sort key of a row in a fixed random order that keeps rows of one prompt together."""
    messages = row["prompt"] if "prompt" in row else row["messages"][:-1]
    text = messages if isinstance(messages, str) else json.dumps(messages, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest(), str(row["id"])


def table(found: dict[str, Any]) -> str:
    """Return the printed table: percent by source."""
    lines = ["source".ljust(22) + "".join(name.rjust(12) for name in SYSTEMS)]
    for source, row in found.items():
        lines.append(source.ljust(22) + "".join(f"{100 * row[name]['value']:12.1f}" for name in SYSTEMS))
    return "\n".join(lines)


def main() -> None:
    """Run every system, print the table, write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--encoder", type=Path, required=True)
    parser.add_argument("--ratings", type=int, default=150)
    parser.add_argument("--preferences", type=int, default=150)
    parser.add_argument("--test", type=int, default=60)
    parser.add_argument("--steps", type=int, default=150, help="smallest number of steps of an adapter")
    parser.add_argument("--tokens", type=int, default=256, help="most tokens of a conversation")
    parser.add_argument("--dtype", default="float32", help="data type of the encoder")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "benchmark-real-tasks")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "real_tasks.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    most = {"ratings": options.ratings, "preferences": options.preferences, "test": options.test}
    counts = capped(options.folder, options.work / "pack", most)
    sets = [f"data.folder={options.work / 'pack'}", f"backbone.path={options.encoder}", "backbone.device=cpu"]
    sets += [f"backbone.dtype={options.dtype}", f"backbone.max_tokens={options.tokens}"]
    steps = [f"{phase}.training.min_steps={options.steps}" for phase in ("base", "experts")]
    routed = run_recipe(ROOT / "recipes" / "real-tasks.yaml", sets=[*sets, *steps], out=options.work / "dmoerm")
    pairs, judged = routed.judgement.pairs, routed.judgement.margins
    plain = run_recipe(
        ROOT / "recipes" / "real-small.yaml", sets=[*sets, "router.threshold=0"], out=options.work / "armorm"
    )
    by_text = {(g, i): n for n, (g, i) in enumerate(zip(plain.fit.test_pairs.groups, _ids(plain), strict=True))}
    order = [by_text[p.prompt_key, p.id] for p in pairs]
    found: dict[str, Floats] = {
        "dmoerm": judged["model"],
        "task_rm": judged["task_rm"],
        "single": judged["single_rm"],
        "armorm": margins({"gate": plain.fit.mixture}, plain.fit.test_pairs)["gate"][order],
        "routed": plain.routed.margins[order],
        "linear": judged["linear_bt"],
    }
    groups = [p.prompt_key for p in pairs]
    sources = by_source(found, strata(pairs, least=40), groups, samples=1000, seed=0)
    everything = by_source(found, ["micro"] * len(pairs), groups, samples=1000, seed=0)["micro"]
    one = len(sources) == 2  # a single stratum and its macro average: three names for one number
    sources = {"micro": everything} if one else {**sources, "micro": everything}
    results = {
        **provenance(),
        "rows": counts,
        "sources": {source: {name: asdict(i) for name, i in row.items()} for source, row in sources.items()},
        "dmoerm_ahead": {name: asdict(paired_difference(found["dmoerm"], found[name], groups)) for name in SYSTEMS[1:]},
        "router": routed.fit.router.report.to_dict(),
        "tasks": {task: inner.to_dict() for task, inner in routed.fit.inner.items()},
        "experts": routed.metrics["experts"],
        "single": routed.metrics["rivals"]["members"][0],
        "seconds": {"dmoerm": routed.metrics["seconds"], "armorm": plain.metrics["seconds"]},
    }
    print(table(results["sources"]))
    write_json(options.out, results)


def _ids(run: Any) -> list[str]:
    """Return the id of each test pair of an ArmoRM run, in its order."""
    return [p.id for p in run.rows.test]


if __name__ == "__main__":
    main()
