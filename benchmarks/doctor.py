"""The doctor on models with planted faults and on healthy models: which faults it finds, and its false alarms.

    python benchmarks/doctor.py

Models and servers are tiny, random and made by this program (benchmarks/planted.py, benchmarks/planted_servers.py).
Prints a table and writes benchmarks/results/doctor.json: planted code, found codes and seconds of each case.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from facetrm.core.files import write_json
from facetrm.data.read.conversations import read_conversations
from facetrm.doctor.diagnosis import diagnose, diagnose_server
from facetrm.doctor.findings import Diagnosis
from planted import FAULTS, write_classifier, write_native, write_pairs, write_planted
from planted_servers import SERVERS, served
from provenance import provenance

ROOT = Path(__file__).resolve().parents[1]


def cases(folder: Path) -> Iterator[tuple[str, str | None, Callable[[], Diagnosis]]]:
    """Yield what is planted, its code (None: nothing), and the examination."""
    healthy = write_classifier(folder / "healthy")
    native = write_native(folder / "native", healthy)
    groups = [row.answers for row in read_conversations(write_pairs(folder / "pairs.jsonl"))]
    yield "a healthy classifier", None, lambda: diagnose(str(healthy), groups, device="cpu")
    yield "a healthy model of facetrm", None, lambda: diagnose(str(native), groups, device="cpu")
    for fault in FAULTS.values():
        planted = write_planted(fault, folder / str(len(list(folder.iterdir()))), healthy)
        yield fault.planted, fault.code, lambda planted=planted: diagnose(str(planted), groups, device="cpu")  # type: ignore[misc]

    def asked(dialect: str, fault: str) -> Diagnosis:
        with served(healthy, dialect=dialect, fault=fault) as url:
            return diagnose_server(url, groups, against=str(healthy), device="cpu")

    for dialect in ("facetrm", "vLLM", "OpenRLHF"):
        yield f"a healthy server of {dialect}", None, lambda dialect=dialect: asked(dialect, "healthy")  # type: ignore[misc]
    for name, (code, _) in SERVERS.items():
        if code is not None:
            yield f"server: {name}", code, lambda name=name: asked("vLLM", name)  # type: ignore[misc]


def main() -> None:
    """Run the battery, print the table, write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "doctor.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        for name, code, examine in cases(Path(temporary)):
            start = time.perf_counter()
            found = examine()
            codes = [finding.code for finding in found.findings]
            right = not codes and found.exit_code == 0 if code is None else code in codes and found.exit_code == 3
            seconds = round(time.perf_counter() - start, 2)
            rows.append({"planted": name, "code": code, "found": codes, "right": right, "seconds": seconds})
            print(f"{'right' if right else 'WRONG':6} {name:52} {', '.join(codes) or 'nothing'}", flush=True)
    faulty = [row for row in rows if row["code"] is not None]
    healthy = [row for row in rows if row["code"] is None]
    totals = {
        "planted": len(faulty),
        "found": sum(row["right"] for row in faulty),
        "healthy": len(healthy),
        "healthy without a finding": sum(row["right"] for row in healthy),
    }
    print(", ".join(f"{name} {count}" for name, count in totals.items()))
    write_json(options.out, {**provenance(), **totals, "rows": rows})


if __name__ == "__main__":
    main()
