"""The engine on a GPU: a decoder of Llama-3-8B's shape, random weights, bfloat16.

    python benchmarks/gpu.py                                  # one CUDA device
    python benchmarks/gpu.py --shape tiny --device cpu        # a check that it runs; says nothing about speed

    throughput   96 conversations of 200 to 1,800 tokens, all with different prompts: tokens per second, the share of
                 the device's fastest matrix product, and plain Transformers with padded batches of 8 in random order
    best of 16   4 prompts of 512 tokens with 16 answers of 100 to 300 tokens each: prompts read once against once per
                 answer
    drift        distance of bfloat16 vectors from those of the same weights in float32, and from those of each row by
                 itself

Prints a table. Writes benchmarks/results/gpu.json only if it ran on a GPU, or the file given by --out.
"""

from __future__ import annotations

import argparse
import random
import resource
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM

from decoders import engine_of, ids, llama, operations, padded, row
from facetrm.backbone.text.chat import Tokenized
from facetrm.core.files import write_json
from provenance import provenance
from timing import in_turns, matmul_peak, ratio

ROOT = Path(__file__).resolve().parents[1]
SHAPES: dict[str, dict[str, Any]] = {
    "llama-3-8b": {
        "hidden": 4096,
        "inner": 14336,
        "layers": 32,
        "heads": 32,
        "kv": 8,
        "words": 128_256,
        "theta": 500_000.0,
    },
    "tiny": {"hidden": 64, "inner": 128, "layers": 2, "heads": 4, "kv": 2},
}


def nothing(rows: int, tokens: int) -> None:
    """Ignore a forward pass."""


@torch.no_grad()
def throughput(model: LlamaForCausalLM, rows: Sequence[Tokenized], *, budget: int, rounds: int) -> dict[str, Any]:
    """Return the speed of the engine on ``rows`` and that of padded batches of 8 in random order."""
    engine, device = engine_of(model, token_budget=budget), str(model.device)
    order = random.Random(0).sample(range(len(rows)), k=len(rows))
    batches = [[rows[n].ids for n in order[first : first + 8]] for first in range(0, len(rows), 8)]
    sides = {"ours": lambda: engine.read(rows, nothing), "theirs": lambda: [padded(model, batch) for batch in batches]}
    seconds = in_turns(sides, rounds=rounds, device=device)
    found = ratio(seconds, ours="ours", theirs="theirs")
    lengths = [len(one.ids) for one in rows]
    peak = matmul_peak(model.dtype, device=device, size=8192 if device.startswith("cuda") else 512)
    return {
        "tokens per second": sum(lengths) / found["ours"],
        "padded Transformers, tokens per second": sum(lengths) / found["theirs"],
        "times padded Transformers": found["ratio"],
        "times padded Transformers, worst": found["worst"],
        "matmul peak, TFLOP/s": peak / 1e12,
        "share of the peak": operations(model, lengths) / found["ours"] / peak,
        "attends by a kernel for all segments": engine._kernel is not None,
    }


@torch.no_grad()
def best_of(model: LlamaForCausalLM, *, scale: int, budget: int, rounds: int) -> dict[str, Any]:
    """Return the times of 16 answers to each of 4 prompts, with each prompt read once, and once per answer."""
    draw, engine = random.Random(0), engine_of(model, token_budget=budget)
    texts = [
        (ids(512 // scale, p), ids(draw.randint(100, 300) // scale, 100 + 16 * p + n))
        for p in range(4)
        for n in range(16)
    ]
    shared = [row(prompt, answer) for prompt, answer in texts]
    # The prompt is only the first token, so that nothing else is shared.
    apart = [row(prompt[:1], prompt[1:] + answer) for prompt, answer in texts]
    sides = {"ours": lambda: engine.read(shared, nothing), "theirs": lambda: engine.read(apart, nothing)}
    found = ratio(in_turns(sides, rounds=rounds, device=str(model.device)), ours="ours", theirs="theirs")
    return {
        "seconds, prompts once": found["ours"],
        "seconds, prompts once an answer": found["theirs"],
        "times unshared": found["ratio"],
        "times unshared, worst": found["worst"],
    }


@torch.no_grad()
def drift(model: LlamaForCausalLM, rows: Sequence[Tokenized], *, budget: int) -> dict[str, Any]:
    """Return the distances of packed vectors from exact ones and from float32 ones; converts ``model`` to float32."""
    packed_ND = engine_of(model, token_budget=budget).read(rows, nothing)[1]
    alone_ND = engine_of(model, mode="exact").read(rows, nothing)[1]
    full_ND = engine_of(model.float(), token_budget=budget).read(rows, nothing)[1]
    worst = {
        "half precision from float32": (packed_ND - full_ND).norm(dim=1) / full_ND.norm(dim=1),
        "half precision, packs from rows alone": (packed_ND - alone_ND).norm(dim=1) / alone_ND.norm(dim=1),
    }
    found = {f"{name}, median": float(gap_N.median()) for name, gap_N in worst.items()}
    return found | {f"{name}, worst": float(gap_N.max()) for name, gap_N in worst.items()}


def peak_memory(device: str) -> float:
    """Return the peak memory in GiB, of the device or of this process."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measured(shape: str, device: str, *, rounds: int) -> dict[str, Any]:
    """Return all figures of one shape on one device."""
    scale, budget = (16, 1024) if shape == "tiny" else (1, 16_384)
    model = llama(**SHAPES[shape], dtype=torch.bfloat16, device=device)
    draw = random.Random(1)
    lengths = [(draw.randint(100, 900) // scale, draw.randint(100, 900) // scale) for _ in range(96)]
    rows = [row(ids(prompt, 2 * n), ids(answer, 2 * n + 1)) for n, (prompt, answer) in enumerate(lengths)]
    results: dict[str, Any] = {"throughput": throughput(model, rows, budget=budget, rounds=rounds)}
    results["best of 16"] = best_of(model, scale=scale, budget=budget, rounds=rounds)
    results["throughput"]["peak memory, GiB"] = peak_memory(device)
    results["drift"] = drift(model, rows[:16], budget=budget)
    return results


def main() -> None:
    """Measure, print the table, write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=list(SHAPES), default="llama-3-8b")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    on_gpu = options.device.startswith("cuda")
    if on_gpu and not torch.cuda.is_available():
        parser.error("no CUDA device is there; --shape tiny --device cpu shows that it runs")
    name = torch.cuda.get_device_name() if on_gpu else "processor"
    results: dict[str, Any] = {**provenance(), "device": name, "shape": options.shape, "dtype": "bfloat16"}
    results |= measured(options.shape, options.device, rounds=options.rounds)
    for part in ("throughput", "best of 16", "drift"):
        for key, value in results[part].items():
            print(f"{part:12} {key:48} {value:12.5g}", flush=True)
    out = options.out or (ROOT / "benchmarks" / "results" / "gpu.json" if on_gpu else None)
    if out is not None:
        write_json(out, results)


if __name__ == "__main__":
    main()
