"""The scoring engine against plain Transformers, side by side in one run.

    python benchmarks/engine.py                          # all parts, on this machine's processor
    python benchmarks/engine.py --only shared --rounds 3

    shared     16 responses of 60 to 200 tokens to one prompt of 400: packs against one padded batch, bfloat16
    overhead   long conversations one by one: the engine, tokenisation included, against a bare unpadded forward pass
    exact      100 conversations, 200 regroupings and orders: exact mode bit for bit, fast mode's largest difference

Prints a table and writes benchmarks/results/engine.json. Sides take turns, and the median of the rounds' ratios counts.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from facetrm.backbone.chat import Tokenized
from facetrm.backbone.engine import DecoderEngine
from facetrm.backbone.tiny import TinyShape, tiny_decoder, word_tokenizer
from facetrm.backbone.transformer import BackboneConfig, TransformerEncoder
from facetrm.core.files import write_json
from facetrm.data.records import Message
from facetrm.data.world import World, vocabulary
from provenance import provenance

ROOT = Path(__file__).resolve().parents[1]


def llama(*, hidden: int, layers: int, heads: int, kv: int, dtype: torch.dtype, words: int = 8192) -> LlamaForCausalLM:
    """Return a randomly initialised decoder."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=words,
        hidden_size=hidden,
        intermediate_size=hidden * 8 // 3 // 64 * 64,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv,
        max_position_embeddings=8192,
    )
    return LlamaForCausalLM(config).to(dtype).eval()


def engine_of(model: LlamaForCausalLM, *, mode: str = "fast", token_budget: int = 8192) -> DecoderEngine:
    """Return the engine over the trunk of ``model``."""
    inputs = frozenset({"position_ids", "use_cache", "input_ids", "attention_mask"})
    return DecoderEngine(model.model, mode=mode, token_budget=token_budget, pad=0, inputs=inputs)  # type: ignore[arg-type]


def ids(length: int, seed: int) -> tuple[int, ...]:
    """Return random ids."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(10, 8000, (length,), generator=generator).tolist())


def row(prompt: tuple[int, ...], response: tuple[int, ...]) -> Tokenized:
    """Return a conversation whose prompt is the first part."""
    return Tokenized(prompt + response, len(prompt) - 1, len(prompt), len(response))


def padded(model: LlamaForCausalLM, rows: list[Tokenized]) -> torch.Tensor:
    """Return the last states of one padded batch, as plain Transformers gives them."""
    width = max(len(r.ids) for r in rows)
    batch = torch.zeros(len(rows), width, dtype=torch.int64)
    mask = torch.zeros_like(batch)
    for n, r in enumerate(rows):
        batch[n, : len(r.ids)], mask[n, : len(r.ids)] = torch.tensor(r.ids), 1
    hidden = model.model(input_ids=batch, attention_mask=mask, use_cache=False).last_hidden_state
    return hidden[torch.arange(len(rows)), torch.tensor([len(r.ids) - 1 for r in rows])]


def against(ours: Callable[[], object], theirs: Callable[[], object], rounds: int) -> dict[str, Any]:
    """Time both sides in turns; ratios are theirs over ours."""
    ours(), theirs()
    pairs = []
    for _ in range(rounds):
        seconds = []
        for side in (ours, theirs):
            start = time.perf_counter()
            side()
            seconds.append(time.perf_counter() - start)
        pairs.append(seconds)
    ratios = sorted(b / a for a, b in pairs)
    return {
        "ours": statistics.median(a for a, _ in pairs),
        "theirs": statistics.median(b for _, b in pairs),
        "ratio": statistics.median(ratios),
        "worst": ratios[0],
    }


@torch.no_grad()
def shared(rounds: int) -> dict[str, Any]:
    """Sixteen responses to one prompt."""
    draw, prompt = random.Random(0), ids(400, 1)
    rows = [row(prompt, ids(draw.randint(60, 200), 2 + n)) for n in range(16)]
    model = llama(hidden=576, layers=30, heads=9, kv=3, dtype=torch.bfloat16)
    engine = engine_of(model)
    found = against(lambda: engine.read(rows, lambda *_: None), lambda: padded(model, rows), rounds)
    model = model.float()
    difference = engine_of(model).read(rows, lambda *_: None)[1] - padded(model, rows)
    return found | {"largest difference in float32": float(difference.abs().max())}


@torch.no_grad()
def overhead(rounds: int) -> dict[str, Any]:
    """Long conversations, tokenisation included, against the bare forward pass of the same tokens."""
    words = [f"w{n}" for n in range(8000)]
    tokenizer = word_tokenizer(words, max_tokens=8192)
    model = llama(hidden=576, layers=30, heads=9, kv=3, dtype=torch.bfloat16)
    encoder = TransformerEncoder(model, tokenizer, config=BackboneConfig(path="in memory", device="cpu"))
    draw = random.Random(0)

    def text(length: int) -> str:
        return " ".join(draw.choices(words, k=length))

    rows = [(Message(role="user", content=text(500)), Message(role="assistant", content=text(1500))) for _ in range(4)]
    bare = [torch.tensor([encoder.tokenize(r).ids]) for r in rows]
    found = against(
        lambda: encoder.encode(rows),
        lambda: [model.model(input_ids=x, use_cache=False).last_hidden_state[0, -1] for x in bare],
        rounds,
    )
    return found | {"tokens per second": sum(x.numel() for x in bare) / found["ours"]}


@torch.no_grad()
def exact(rounds: int) -> dict[str, Any]:
    """Exact mode over regroupings; fast mode's bound from the same rows."""
    model, tokenizer = tiny_decoder(vocabulary(), shape=TinyShape(), seed=0)
    rows = [r.messages for r in World().ratings(100)]

    def made(mode: str) -> TransformerEncoder:
        config = BackboneConfig(path="in memory", device="cpu", mode=mode, token_budget=2048)  # type: ignore[arg-type]
        return TransformerEncoder(model, tokenizer, config=config)

    slow, fast, draw = made("exact"), made("fast"), random.Random(0)
    expected, equal, bound = slow.encode(rows), 0, 0.0
    for _ in range(200):
        order = draw.sample(range(100), k=draw.randint(1, 20))
        chosen = expected.select(torch.tensor(order))
        found = slow.encode([rows[n] for n in order])
        equal += torch.equal(found.response_NAD, chosen.response_NAD) and torch.equal(found.prompt_ND, chosen.prompt_ND)
        quick = fast.encode([rows[n] for n in order])
        bound = max(bound, float((quick.response_NAD - chosen.response_NAD).abs().max()))
    timed = against(lambda: fast.encode(rows), lambda: slow.encode(rows), rounds)
    return {"bit-equal of 200": equal, "fast differs by at most": bound, "exact takes times": timed["ratio"]}


PARTS: dict[str, Callable[[int], dict[str, Any]]] = {"shared": shared, "overhead": overhead, "exact": exact}


def main() -> None:
    """Run the parts, print the table, write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "engine.json")
    options = parser.parse_args()
    results: dict[str, Any] = {
        **provenance(),
        "threads": torch.get_num_threads(),
    }
    for name in options.only:
        results[name] = PARTS[name](options.rounds)
        for key, value in results[name].items():
            print(f"{name:10} {key:32} {value:12.5g}", flush=True)
    write_json(options.out, results)


if __name__ == "__main__":
    main()
