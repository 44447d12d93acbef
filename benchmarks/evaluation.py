"""How long ``facetrm eval`` takes for 10,000 questions whose scores are stored: reading, figures, intervals, all files.

    python benchmarks/evaluation.py

The questions are pairs of the desk in 20 subsets; the scores of one system and of two are files beside them. The clock
is the processor time of the whole command, median of three rounds, with the imports of Python, PyTorch and Transformers
(``start``, which ``facetrm eval --help`` and one import also take). Prints a table and writes
benchmarks/results/evaluation.json.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from facetrm.core.files import write_json
from facetrm.data.desk.desk import Desk
from provenance import provenance

ROOT = Path(__file__).resolve().parents[1]
ROWS, ROUNDS, SYSTEMS = 10_000, 3, 2


def write_files(folder: Path) -> None:
    """Write the pairs and the scores of two systems."""
    rng = random.Random(0)
    with (folder / "pairs.jsonl").open("w") as pairs:
        for n, pair in enumerate(Desk().preferences(ROWS, part="test")):
            row = {"id": str(n), "subset": f"subset {n % 20}", "prompt": [m.model_dump() for m in pair.prompt]}
            answers = {side: [getattr(pair, side)[-1].model_dump()] for side in ("chosen", "rejected")}
            pairs.write(json.dumps(row | answers) + "\n")
    for system in range(SYSTEMS):
        with (folder / f"scores-{system}.jsonl").open("w") as scores:
            for n in range(ROWS):
                row = {"id": str(n), "subset": f"subset {n % 20}", "scores": [rng.gauss(0.3, 1), rng.gauss(0, 1)]}
                scores.write(json.dumps(row) + "\n")


def spent(line: list[str]) -> tuple[float, float]:
    """Run a command, and return its seconds of processor time and of wall-clock time."""
    before, started = os.times(), time.monotonic()
    subprocess.run(line, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = os.times()
    processor = after.children_user + after.children_system - before.children_user - before.children_system
    return processor, time.monotonic() - started


def main() -> None:
    """Measure, print, write."""
    seconds: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_files(folder)
        files = [str(folder / f"scores-{system}.jsonl") for system in range(SYSTEMS)]
        for n in range(ROUNDS):
            for count in range(1, SYSTEMS + 1):
                line = [sys.executable, "-m", "facetrm", "eval", *files[:count], "--on", str(folder / "pairs.jsonl")]
                name = f"{count} system{'s' if count > 1 else ''}"
                seconds.setdefault(name, []).append(spent([*line, "--out", str(folder / f"out-{count}-{n}")]))
            start = "import facetrm.recipes.evaluation.named, facetrm.recipes.evaluation.run"
            seconds.setdefault("start", []).append(spent([sys.executable, "-c", start]))
        rows = sum(1 for _ in (folder / "out-1-0" / "rows.jsonl").open())
    found = {
        name: {"processor": statistics.median(p for p, _ in runs), "wall": statistics.median(w for _, w in runs)}
        for name, runs in seconds.items()
    }
    written = {"questions": ROWS, "rows_written": rows, "seconds": found}
    write_json(ROOT / "benchmarks" / "results" / "evaluation.json", {**provenance(), **written})
    for name, one in found.items():
        print(f"{name:12} {one['processor']:5.1f} s of processor time, {one['wall']:5.1f} s")


if __name__ == "__main__":
    main()
