"""The scoring engine against plain Transformers, in the same run.

    python benchmarks/engine.py                          # all parts, on this machine's CPU
    python benchmarks/engine.py --only shared --rounds 3

    shared     16 responses of 60 to 200 tokens to one prompt of 400 tokens: packs against one padded batch, bfloat16
    overhead   a conversation of 2,000 tokens, bfloat16: the engine, including tokenisation, against a bare unpadded
               forward pass, and its share of this CPU's fastest matrix product, at hidden sizes 576, 1024 and 2048
    heads      gate, heads and explanation of ArmoRM's size against the forward pass of the same rows, hidden size 1024

Real pairs by source: benchmarks/sources.py; exact mode: benchmarks/invariance.py; on a GPU: benchmarks/gpu.py.
Prints a table and writes benchmarks/results/engine.json. The two sides take turns; results are medians over the rounds
of the ratio of their times.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM

from decoders import alone, engine_of, ids, llama, operations, padded, row
from facetrm.backbone.tiny import word_tokenizer
from facetrm.backbone.transformer import BackboneConfig, TransformerEncoder
from facetrm.core.files import write_json
from facetrm.data.records import Message
from facetrm.explain.local import explain_score
from facetrm.model.reward_model import RewardModel
from mixtures import random_mixture
from provenance import provenance
from timing import CLOCKS, in_turns, matmul_peak, ratio

ROOT = Path(__file__).resolve().parents[1]
WORDS = [f"w{n}" for n in range(8000)]
SHAPES = {576: {"layers": 12, "heads": 9, "kv": 3}, 1024: {"layers": 6, "heads": 16, "kv": 4}}
SHAPES[2048] = {"layers": 2, "heads": 32, "kv": 8}


def encoder_of(model: LlamaForCausalLM) -> TransformerEncoder:
    """Return ``model`` behind a tokenizer of 8,000 words."""
    tokenizer = word_tokenizer(WORDS, max_tokens=8192)
    return TransformerEncoder(model, tokenizer, config=BackboneConfig(path="in memory", device="cpu"))


def conversations(count: int, *, prompt: int, response: int) -> list[tuple[Message, ...]]:
    """Return ``count`` conversations of random words."""
    draw = random.Random(0)

    def text(length: int) -> str:
        return " ".join(draw.choices(WORDS, k=length))

    return [
        (Message(role="user", content=text(prompt)), Message(role="assistant", content=text(response)))
        for _ in range(count)
    ]


@torch.no_grad()
def shared(rounds: int, clock: str) -> dict[str, Any]:
    """Time 16 responses to one prompt, as packs and as a padded batch."""
    draw, prompt = random.Random(0), ids(400, 1)
    rows = [row(prompt, ids(draw.randint(60, 200), 2 + n)) for n in range(16)]
    texts = [r.ids for r in rows]
    model = llama(hidden=576, layers=30, heads=9, kv=3, dtype=torch.bfloat16)
    engine = engine_of(model)
    sides = {"ours": lambda: engine.read(rows, lambda *_: None), "theirs": lambda: padded(model, texts)}
    found = ratio(in_turns(sides, rounds=rounds, clock=clock), ours="ours", theirs="theirs")
    model = model.float()
    difference = engine_of(model).read(rows, lambda *_: None)[1] - padded(model, texts)
    return found | {"largest difference in float32": float(difference.abs().max())}


@torch.no_grad()
def overhead(rounds: int, clock: str) -> dict[str, Any]:
    """Time a long conversation, including tokenisation, against the bare forward pass of the same tokens."""
    results: dict[str, Any] = {}
    for hidden, shape in SHAPES.items():
        model = llama(hidden=hidden, dtype=torch.bfloat16, **shape)
        encoder, rows = encoder_of(model), conversations(1, prompt=500, response=1500)
        bare = [encoder.tokenize(r).ids for r in rows]
        lengths = [len(tokens) for tokens in bare]
        sides = {
            "ours": lambda e=encoder, r=rows: e.encode(r),
            "theirs": lambda m=model, b=bare: [alone(m, x) for x in b],
        }
        found = ratio(in_turns(sides, rounds=rounds, clock=clock), ours="ours", theirs="theirs")
        peak = max(matmul_peak(torch.bfloat16, clock=clock) for _ in range(2))
        share = operations(model, lengths) / found["ours"] / peak
        found |= {"tokens per second": sum(lengths) / found["ours"], "matmul peak, GFLOP/s": peak / 1e9}
        found |= {"share of the peak": share, "layers": shape["layers"]}
        results |= {f"{hidden}: {key}": value for key, value in found.items()}
    return results


@torch.no_grad()
def heads(rounds: int, clock: str) -> dict[str, Any]:
    """Time 19 experts, a gate of 3 x 1,024 and one explanation per row, against the forward passes of the same rows."""
    encoder = encoder_of(llama(hidden=1024, layers=24, heads=16, kv=4, dtype=torch.bfloat16))
    mixture = random_mixture(hidden=1024, experts=19, gate_hidden=1024, gate_layers=3)
    model, rows = RewardModel(encoder, {"all": mixture}), conversations(4, prompt=150, response=150)
    features = encoder.encode(rows)

    def explained() -> list[Any]:
        return [explain_score(score, objectives=mixture.objectives) for score in model.score_features(features)]

    seconds = in_turns({"forward": lambda: encoder.encode(rows), "heads": explained}, rounds=rounds, clock=clock)
    found = ratio(seconds, ours="forward", theirs="heads")
    return {
        "rows": len(rows),
        "tokens": int(features.tokens_N.sum()),
        "forward": found["ours"],
        "gate, heads and explanation": found["theirs"],
        "share of the forward": found["ratio"],
    }


PARTS: dict[str, Callable[[int, str], dict[str, Any]]] = {"overhead": overhead, "heads": heads, "shared": shared}


def main() -> None:
    """Run the parts, print the table, write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "engine.json")
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall", help="what counts as a second")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    results: dict[str, Any] = {**provenance(), "threads": options.threads, "clock": options.clock}
    for name in options.only:
        results[name] = PARTS[name](options.rounds, options.clock)
        for key, value in results[name].items():
            print(f"{name:10} {key:34} {value:12.5g}", flush=True)
        write_json(options.out, results)


if __name__ == "__main__":
    main()
