"""Peak memory of fitting heads and gate on many rows, with features on disk that are read block by block.

    python benchmarks/streaming.py                       makes a store of 200,000 rows, fits in a separate process
    python benchmarks/streaming.py --rated 200000 --pairs 100000 --rank 0

No backbone is needed: the features are random, with planted levels and tasks. The texts of the rows are short, so the
memory measured is that of the fits, the records and the imported packages.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from facetrm.backbone.encoder import Features
from facetrm.backbone.store import FeatureStore, encode
from facetrm.core.config import parse_config
from facetrm.core.fingerprint import fingerprint
from facetrm.core.statistics import win_credit
from facetrm.data.objectives import Objective
from facetrm.data.records import Conversation, Message, Preference, Rating
from facetrm.recipes.armorm.config import ArmormConfig
from facetrm.recipes.armorm.fit import Stopwatch, fit_parts
from facetrm.recipes.armorm.rows import Rows

RESULTS = Path(__file__).parent / "results" / "streaming.json"
OBJECTIVES, TASKS = 6, 4


class Planted:
    """An encoder without a model: the answer's text holds its levels and the prompt's text its task."""

    mode, template_hash = "exact", "planted"

    def __init__(self, hidden_size: int) -> None:
        draw = np.random.default_rng(0)
        self.hidden_size, self.fingerprint = hidden_size, fingerprint(["planted", hidden_size])
        self._levels = draw.standard_normal((OBJECTIVES, hidden_size)).astype(np.float32)
        self._tasks = draw.standard_normal((TASKS, hidden_size)).astype(np.float32)

    def spec(self) -> dict[str, object]:
        """Return what names the features."""
        return {"kind": "planted"}

    def encode(
        self, conversations: Sequence[Conversation], *, on_batch: Callable[[int, int], None] | None = None
    ) -> Features:
        """Return the features of ``conversations``."""
        tasks = [int(messages[0].content.split()[1]) for messages in conversations]
        levels = np.array([[int(c) for c in messages[-1].content.split()[0]] for messages in conversations])
        draw = np.random.default_rng(int(fingerprint(conversations[0][-1].content)[:8], 16))
        noise = draw.standard_normal((len(tasks), self.hidden_size), dtype=np.float32)
        length_N = torch.tensor(levels.sum(axis=1) + 1)
        return Features(
            torch.from_numpy(self._tasks[tasks]),
            torch.from_numpy(levels.astype(np.float32) / 4.0 @ self._levels + noise)[:, None],
            length_N,
            length_N.clone(),
            torch.zeros(len(tasks), dtype=torch.bool),
        )


def make_rows(rated: int, pairs: int, *, test: int = 1000) -> Rows:
    """Return ``rated`` ratings and ``pairs`` preferences, and ``test`` held-out ones of each."""
    draw = np.random.default_rng(1)
    weights = draw.dirichlet(np.ones(OBJECTIVES), size=TASKS)
    names = [f"planted-{k}" for k in range(OBJECTIVES)]

    def prompt(n: int) -> tuple[int, Message]:
        task = n % TASKS
        return task, Message(role="user", content=f"task {task} number {n}")

    def answer(n: int) -> tuple[np.ndarray, Message]:
        levels = draw.integers(5, size=OBJECTIVES)
        return levels, Message(role="assistant", content=f"{''.join(map(str, levels))} {n}")

    def ratings(count: int, start: int) -> Iterator[Rating]:
        for n in range(start, start + count):
            levels, said = answer(n)
            noisy = np.clip(levels + draw.normal(0.0, 0.5, OBJECTIVES), 0, 4)
            yield Rating(messages=(prompt(n)[1], said), ratings=dict(zip(names, noisy.tolist(), strict=True)))

    def preferences(count: int, start: int) -> Iterator[Preference]:
        for n in range(start, start + count):
            task, asked = prompt(n)
            (a, one), (b, two) = answer(2 * n), answer(2 * n + 1)
            first = draw.random() < 1.0 / (1.0 + np.exp(-3.0 * weights[task] @ (a - b)))
            yield Preference(prompt=(asked,), responses=(one, two) if first else (two, one))

    return Rows(
        tuple(Objective(name=name, low=0, high=4) for name in names),
        list(ratings(rated, 0)),
        list(ratings(test, 10**7)),
        list(preferences(pairs, 2 * 10**7)),
        list(preferences(test, 3 * 10**7)),
        None,
        {},
    )


def conversations(rows: Rows) -> Iterator[Conversation]:
    """Yield every conversation of ``rows``, in the order of a run."""
    yield from (r.messages for part in (rows.heads, rows.heads_test) for r in part)
    yield from (c for part in (rows.gate, rows.test) for p in part for c in (p.chosen, p.rejected))


def resident_mib() -> float:
    """Return the peak resident memory of this process, in MiB (``ru_maxrss`` would count the parent's as well)."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024.0
    raise RuntimeError("no VmHWM in /proc/self/status: this benchmark needs Linux")


def fit(rated: int, pairs: int, *, hidden_size: int, rank: int, folder: Path) -> dict[str, object]:
    """Fit heads, debiasing and gate on the store in ``folder`` and return the figures."""
    packages = resident_mib()
    rows = make_rows(rated, pairs)
    records = resident_mib()
    config = parse_config(
        ArmormConfig,
        {
            "recipe": "armorm",
            "backbone": {"path": "planted"},
            "experts": {"length": True},
            "debias": {"target": "length"},
            "gate": {"settings": {"rank": rank}},
        },
        place="streaming",
    )
    store, watch = FeatureStore(folder), Stopwatch()
    found = fit_parts(config, rows, Planted(hidden_size), store.stream, watch, folder=folder.parent)
    margin_N = found.mixture.margins(found.test_pairs.chosen, found.test_pairs.rejected).numpy()
    return {
        "rated": rated,
        "pairs": pairs,
        "rows": rated + 2 * pairs,
        "hidden_size": hidden_size,
        "rank": rank,
        "store_mib": round(sum(f.stat().st_size for f in folder.iterdir()) / 2**20),
        "peak_mib": {"packages": round(packages), "with_records": round(records), "fitted": round(resident_mib())},
        "seconds": {name: round(value, 1) for name, value in watch.seconds.items()},
        "accuracy": round(float(win_credit(margin_N).mean()), 4),
        "threads": torch.get_num_threads(),
    }


def main() -> None:
    """Make the store and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rated", type=int, default=100_000)
    parser.add_argument("--pairs", type=int, default=50_000)
    parser.add_argument("--hidden-size", type=int, default=512)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.folder is not None:
        shape = {"hidden_size": given.hidden_size, "rank": given.rank}
        print(json.dumps(fit(given.rated, given.pairs, **shape, folder=given.folder)))
        return
    with tempfile.TemporaryDirectory() as place:
        folder, start = Path(place) / "features", time.monotonic()
        rows = make_rows(given.rated, given.pairs)
        encode(Planted(given.hidden_size), conversations(rows), folder, quiet=True)
        print(f"store made in {time.monotonic() - start:.0f} s", file=sys.stderr)
        del rows
        done = subprocess.run(  # its own peak, not that of making the store
            [sys.executable, __file__, *sys.argv[1:], "--folder", str(folder)], stdout=subprocess.PIPE, check=True
        )
    found = json.loads(done.stdout.splitlines()[-1])
    known = json.loads(given.out.read_text(encoding="utf-8")) if given.out.exists() else []
    same = ("rated", "pairs", "hidden_size", "rank")
    kept = [row for row in known if any(row[key] != found[key] for key in same)]
    given.out.write_text(json.dumps([*kept, found], indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
