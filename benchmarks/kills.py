"""Kill runs and scoring with SIGKILL at random moments: does the same command then produce the same bytes?

    python benchmarks/kills.py               # 20 kills of a run per family, 10 of score --out
    python benchmarks/kills.py --kills 4 --score-kills 2
    python benchmarks/kills.py --only dmoerm

Each family runs the tests' tiny recipe. Half of the kills come at a random moment of the run, the other half while the
model is being saved. After a few kills in one folder, the same command runs to its end, and its files are compared with
those of an undisturbed run, except for durations. Prints a table and writes
benchmarks/results/kills.json.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Final

from facetrm.core.files import write_json, write_text
from provenance import provenance

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from tiny_dmoerm import SMALL  # noqa: E402
from tiny_runs import recipe, write_recipe  # noqa: E402

TIMED: Final = frozenset({"metrics.json", "report.html", "README.md", "backbone.json", "log.jsonl"})
IN_A_FOLDER: Final = 4
DMOERM: Final[dict[str, Any]] = {**SMALL, "data": {**SMALL["data"], "most": 1}}
FAMILIES: Final[dict[str, dict[str, Any]]] = {"armorm": recipe(), "dmoerm": DMOERM}


@dataclass
class Kills:
    """Results of the kills.

    Attributes:
        kills: Number of processes that were killed before their end.
        saving: Number of these that were killed while a model or scores were being moved into place.
        ends: Number of times that the command was then run to its end.
        seconds: Duration of the undisturbed command.
        different: Files whose bytes differ from those of the undisturbed run.
        left: Temporary files that were left behind.
        moments: Seconds from the start to each kill.
    """

    kills: int = 0
    saving: int = 0
    ends: int = 0
    seconds: float = 0.0
    different: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    moments: list[float] = field(default_factory=list)


def command(arguments: list[str]) -> None:
    """Be a process that runs ``facetrm ARGUMENTS``, quietly."""
    import torch

    from facetrm.cli import main

    torch.set_num_threads(1)
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    sys.argv = ["facetrm", *arguments]
    main()


def forking() -> ForkServerContext:
    """Return what starts processes whose imports are done."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["facetrm.cli", "kills"])
    return context


def contents(folder: Path) -> dict[str, bytes]:
    """Return the files below ``folder`` by their names, without seconds and without the name of the folder itself."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            data = b"" if path.name in TIMED else path.read_bytes()
            if path.name == "metrics.json":
                data = json.dumps(without_seconds(json.loads(path.read_text(encoding="utf-8")))).encode()
            found[str(path.relative_to(folder))] = data.replace(str(folder).encode(), b"FOLDER")
    return found


def without_seconds(value: Any) -> Any:
    """Return ``value`` without what a clock says."""
    if isinstance(value, dict):
        return {k: without_seconds(v) for k, v in value.items() if "seconds" not in k and k != "backbone_training"}
    return [without_seconds(one) for one in value] if isinstance(value, list) else value


def leftovers(folder: Path) -> list[str]:
    """Return the names below ``folder`` that a writer which was killed leaves."""
    wrong = (path for path in folder.rglob("*") if path.name.startswith(".") or path.name.endswith(".partial"))
    return sorted(str(path.relative_to(folder)) for path in wrong)


def run_kills(family: str, folder: Path, *, kills: int, seed: int, warm: bool = True) -> Kills:
    """Kill runs of the tiny recipe of ``family`` in ``folder`` and compare what they end with.

    Args:
        family: a key of :data:`FAMILIES`.
        folder: to work in.
        kills: how many processes are killed.
        seed: of the moments.
        warm: as for :func:`measure`.
    """
    path = write_recipe(folder / "recipe.yaml", FAMILIES[family])

    def arguments(home: Path) -> list[str]:
        return ["run", str(path), "--out", str(home / "run")]

    def saving(home: Path) -> bool:
        return any(home.glob("run/.model.*.tmp"))

    return measure(folder, arguments, saving, kills=kills, seed=seed, warm=warm)


def score_kills(model: Path, folder: Path, *, rows: int, kills: int, seed: int, warm: bool = True) -> Kills:
    """Kill ``score --out`` and compare what it ends with.

    Args:
        model: a run folder.
        folder: to work in.
        rows: how many rows are scored.
        kills: how many processes are killed.
        seed: of the moments.
        warm: as for :func:`measure`.
    """
    pair = json.loads((model / "pair.jsonl").read_text(encoding="utf-8"))
    prompt, responses = pair["prompt"], pair["responses"]
    words = [response["content"].split() for response in responses]
    lines = [
        {"id": str(n), "messages": [*prompt, {"role": "assistant", "content": " ".join(words[n % 2][: 1 + n % 9])}]}
        for n in range(rows)
    ]
    write_text(folder / "rows.jsonl", "".join(json.dumps(line) + "\n" for line in lines))

    def arguments(home: Path) -> list[str]:
        return ["score", str(model), "--data", str(folder / "rows.jsonl"), "--out", str(home / "scores.jsonl")]

    def saving(home: Path) -> bool:
        return (home / "scores.jsonl.partial").exists()

    return measure(folder, arguments, saving, kills=kills, seed=seed, warm=warm)


def measure(
    folder: Path,
    arguments: Callable[[Path], list[str]],
    saving: Callable[[Path], bool],
    *,
    kills: int,
    seed: int,
    warm: bool,
) -> Kills:
    """Run a command undisturbed, then kill it and run it to its end.

    Args:
        folder: to work in.
        arguments: of the command that writes to a folder.
        saving: whether results are being put into that folder.
        kills: how many processes are killed.
        seed: of the moments.
        warm: run it once before, so that the time of imports is not taken for a part of the run.
    """
    context, found, draw = forking(), Kills(), random.Random(seed)

    def start(home: Path) -> BaseProcess:
        home.mkdir(parents=True, exist_ok=True)
        process = context.Process(target=command, args=(arguments(home),))
        process.start()
        return process

    def to_its_end(home: Path) -> dict[str, bytes]:
        process = start(home)
        process.join()
        if process.exitcode != 0:
            raise SystemExit(f"{' '.join(arguments(home))} ended with {process.exitcode}")
        return contents(home)

    if warm:
        to_its_end(folder / "warm")
    begun = time.monotonic()
    whole = to_its_end(folder / "whole")
    found.seconds = round(time.monotonic() - begun, 2)
    while found.kills < kills:
        home = folder / f"killed-{found.ends}"
        for _ in range(min(IN_A_FOLDER, kills - found.kills)):
            in_saving, moment = found.kills % 2 == 1, draw.uniform(0.0, found.seconds)
            begun = time.monotonic()
            process = start(home)
            while process.is_alive() and (not saving(home) if in_saving else time.monotonic() - begun < moment):
                time.sleep(0.0005)
            if in_saving:
                time.sleep(draw.uniform(0.0, 0.05))
            caught = saving(home)
            process.kill()
            process.join()
            if process.exitcode == -signal.SIGKILL:
                found.kills += 1
                found.saving += caught
                found.moments.append(round(time.monotonic() - begun, 3))
        ended = to_its_end(home)
        found.ends += 1
        found.left += leftovers(home)
        found.different += sorted(n for n in whole.keys() | ended.keys() if whole.get(n) != ended.get(n))
    return found


def table(found: dict[str, Kills]) -> str:
    """Return the figures as text."""
    head = f"{'':10}{'kills':>7}{'saving':>8}{'ends':>6}{'other bytes':>13}{'left over':>11}"
    rows = [
        f"{name:10}{one.kills:>7}{one.saving:>8}{one.ends:>6}{len(one.different):>13}{len(one.left):>11}"
        for name, one in found.items()
    ]
    return "\n".join([head, *rows])


def main() -> None:
    """Measure, print the table, write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--score-kills", type=int, default=10)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "kills.json")
    names = (*FAMILIES, "score")
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="the others stay in the file")
    options = parser.parse_args()
    found: dict[str, Kills] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, family in enumerate(FAMILIES):
            if family in options.only:
                found[family] = run_kills(family, folder / family, kills=options.kills, seed=number)
        if "score" in options.only:
            if "armorm" not in found:
                run_kills("armorm", folder / "armorm", kills=0, seed=0)
            model = folder / "armorm" / "whole" / "run"
            found["score"] = score_kills(model, folder / "score", rows=4000, kills=options.score_kills, seed=2)
    known = json.loads(options.out.read_text(encoding="utf-8")) if options.out.exists() else {}
    write_json(options.out, {**known, **provenance(), **{name: asdict(one) for name, one in found.items()}})
    print(table(found))


if __name__ == "__main__":
    main()
