"""Seconds and memory of a GGUF backbone: the first load, which converts it, and later ones; each in its own process.

    FACETRM_CACHE=$(mktemp -d) python benchmarks/gguf_backbone.py [smollm2-135m | FILE.gguf]

Prints a table and writes benchmarks/results/gguf_backbone.json. Importing the library is not counted.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch

from facetrm.backbone.transformer import BackboneConfig, load_encoder
from facetrm.core.files import write_json

RESULTS = Path(__file__).parent / "results" / "gguf_backbone.json"


def measured(path: str) -> dict[str, float]:
    """Return the seconds of a load in this process, and the most memory that the process has taken, in GiB."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    encoder = load_encoder(BackboneConfig(path=path, device="cpu"))
    taken = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    numbers = sum(parameter.numel() for parameter in encoder.model.parameters())
    return {"seconds": taken, "peak_gib": peak / 2**20, "before_gib": before / 2**20, "parameters": numbers}


def main() -> None:
    """Run the loads and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", nargs="?", default="smollm2-135m")
    parser.add_argument("--once", action="store_true", help="load once in this process and print JSON")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.once:
        print(json.dumps(measured(asked.path)))
        return
    rows = {}
    for name in ("first load", "second load", "third load"):
        done = subprocess.run(
            [sys.executable, __file__, asked.path, "--once"], capture_output=True, text=True, check=True
        )
        rows[name] = json.loads(done.stdout)
        found = rows[name]
        print(f"{name:12} {found['seconds']:6.1f} s   peak {found['peak_gib']:.2f} GiB", flush=True)
    write_json(RESULTS, {"path": asked.path, "threads": 1, **rows})


if __name__ == "__main__":
    main()
