"""Resident memory of ``encode`` over many rows: does it grow with the number of rows?

    python benchmarks/encode_memory.py PATH            # 20,000 conversations of 8 to 80 words, bf16, one thread
    python benchmarks/encode_memory.py PATH --layers 2 # the same with the first two layers only: minutes

What oneDNN keeps depends on the shapes that are multiplied, which are the same in all layers. PATH is a local model,
such as a 135M decoder. Rows come from a generator, so only the program's own memory is measured. Prints the resident
memory after every tenth of the rows and writes benchmarks/results/encode_memory.json.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from facetrm.backbone.store import encode
from facetrm.backbone.transformer import BackboneConfig, load_encoder
from facetrm.core.files import write_json
from facetrm.data.records import Conversation, Message
from facetrm.data.world import vocabulary
from provenance import provenance

ROOT = Path(__file__).resolve().parents[1]


def resident_mib() -> float:
    """Return the resident memory of this process in MiB (Linux)."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * 4096 / 2**20


def conversations(count: int, seen: list[tuple[int, float]]) -> Iterator[Conversation]:
    """Yield ``count`` conversations of random words, and note the resident memory after every tenth of them."""
    draw, words = random.Random(0), vocabulary()
    for n in range(count):
        if n % (count // 10) == 0:
            seen.append((n, resident_mib()))
            print(f"{n:7d} rows {seen[-1][1]:8.0f} MiB", flush=True)
        prompt, answer = (" ".join(draw.choices(words, k=draw.randint(4, 40))) for _ in range(2))
        yield (Message(role="user", content=f"{n} {prompt}"), Message(role="assistant", content=answer))


def main() -> None:
    """Encode, print, write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", help="folder of a local model")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--layers", type=int, help="read with this many layers only")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "encode_memory.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    encoder = load_encoder(BackboneConfig(path=options.path, device="cpu", dtype="bfloat16"))
    if options.layers is not None:
        encoder.model.layers = encoder.model.layers[: options.layers]
        encoder.model.config.num_hidden_layers = options.layers
    seen: list[tuple[int, float]] = []
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        encode(encoder, conversations(options.rows, seen), Path(folder) / "features", quiet=True)
    seen.append((options.rows, resident_mib()))
    print(f"{options.rows:7d} rows {seen[-1][1]:8.0f} MiB", flush=True)
    settled = [mib for rows, mib in seen if rows >= options.rows // 5]
    write_json(
        options.out,
        {
            **provenance(),
            "model": Path(options.path).name,
            "layers": encoder.model.config.num_hidden_layers,
            "seconds": time.monotonic() - start,
            "resident_mib": [{"rows": rows, "mib": mib} for rows, mib in seen],
            "growth_after_a_fifth_mib": settled[-1] - settled[0],
        },
    )


if __name__ == "__main__":
    main()
