"""Real preference pairs in natural order: the engine against padded batches, one row at a time and its exact mode.

    python benchmarks/sources.py --folder PACK --threads 1

PACK is a folder in the pack schema. A randomly initialised Llama (hidden size 256, 6 layers, byte-pair tokenizer of
8,192 tokens trained on the pack's texts) reads the first --pairs pairs of each source, in file order. Every side
computes features of the same rows from text, including tokenisation:

    engine     TransformerEncoder.encode: packs, each prompt read once
    padded     rows in random order, in batches of 8, with apply_chat_template and padding on the right
    one        one row at a time, with apply_chat_template and no padding
    exact      TransformerEncoder.encode in exact mode: one forward pass per row, nothing shared

Prints a table and writes benchmarks/results/sources.json. The sides take turns; results are medians over the rounds of
the ratio of their times. The worst round is the one with the smallest gain over padded and one, or with the largest
cost of exact mode.
"""

from __future__ import annotations

import argparse
import random
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from decoders import alone, llama, padded
from facetrm.backbone.transformer import BackboneConfig, TransformerEncoder
from facetrm.core.files import write_json
from facetrm.data.read.files import read_preferences
from facetrm.data.records import Conversation, Preference
from provenance import provenance
from timing import CLOCKS, in_turns, ratio

ROOT = Path(__file__).resolve().parents[1]
SPECIAL = ["<pad>", "<bos>", "<end>", "<system>", "<user>", "<assistant>"]
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<{{ message.role }}>{{ message.content }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def trained_tokenizer(texts: Sequence[str], *, size: int = 8192) -> PreTrainedTokenizerFast:
    """Return a byte-level byte-pair tokenizer of ``size`` ids, merged on ``texts``, with a chat template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<end>", model_max_length=32768
    )
    fast.chat_template = TEMPLATE
    return fast


def template_ids(tokenizer: PreTrainedTokenizerFast, rows: Sequence[Conversation]) -> list[list[int]]:
    """Return the ids of ``rows`` as Transformers' own template call makes them."""
    messages = [[{"role": m.role, "content": m.content} for m in row] for row in rows]
    found: list[list[int]] = tokenizer.apply_chat_template(messages, return_dict=False)
    return found


@torch.no_grad()
def compared(
    rows: list[Conversation],
    model: LlamaForCausalLM,
    *,
    encoder: TransformerEncoder,
    exact: TransformerEncoder,
    rounds: int,
    clock: str,
    batch: int = 8,
) -> dict[str, Any]:
    """Return the times of the four sides on ``rows`` in natural order, and the distances between their features."""
    tokenizer = encoder.tokenizer
    shuffled = random.Random(0).sample(range(len(rows)), k=len(rows))

    def in_batches() -> torch.Tensor:
        last_ND = torch.empty(len(rows), encoder.hidden_size)
        for first in range(0, len(rows), batch):
            here = shuffled[first : first + batch]
            last_ND[here] = padded(model, template_ids(tokenizer, [rows[n] for n in here])).float()
        return last_ND

    def one_by_one() -> torch.Tensor:
        return torch.stack([alone(model, template_ids(tokenizer, [row])[0]) for row in rows]).float()

    def ours() -> torch.Tensor:
        return encoder.encode(rows).response_NAD[:, 0]

    def ours_exactly() -> torch.Tensor:
        return exact.encode(rows).response_NAD[:, 0]

    sides = {"engine": ours, "padded": in_batches, "one": one_by_one, "exact": ours_exactly}
    ours_ND, *others = (side() for side in sides.values())
    apart = max(float((other_ND - ours_ND).norm(dim=1).max()) for other_ND in others)
    seconds = in_turns(sides, rounds=rounds, clock=clock)
    padded_ratio, one_ratio = (ratio(seconds, ours="engine", theirs=name) for name in ("padded", "one"))
    slower = [careful / quick for quick, careful in zip(seconds["engine"], seconds["exact"], strict=True)]
    lengths = [len(ids) for ids in template_ids(tokenizer, rows)]
    return {
        "rows": len(rows),
        "prompts": len({row[:-1] for row in rows}),
        "tokens": sum(lengths),
        "seconds engine": padded_ratio["ours"],
        "seconds padded": padded_ratio["theirs"],
        "seconds one": one_ratio["theirs"],
        "seconds exact": statistics.median(seconds["exact"]),
        "over padded": padded_ratio["ratio"],
        "over padded, worst": padded_ratio["worst"],
        "over one": one_ratio["ratio"],
        "over one, worst": one_ratio["worst"],
        "exact over fast": statistics.median(slower),
        "exact over fast, worst": max(slower),
        "largest relative difference": apart / float(ours_ND.norm(dim=1).min()),
    }


def sampled(preferences: Sequence[Preference], *, pairs: int) -> dict[str, list[Conversation]]:
    """Return the conversations of the first ``pairs`` of each source in file order, chosen before rejected."""
    found: dict[str, list[Conversation]] = {}
    for preference in preferences:
        rows = found.setdefault(preference.source, [])
        if len(rows) < 2 * pairs:
            rows += [preference.chosen, preference.rejected]
    return found


def main() -> None:
    """Read every source four ways, print the table, write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--only", nargs="+", help="sources; all by default")
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall", help="what counts as a second")
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "sources.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    preferences = read_preferences(options.folder / "preferences.jsonl.gz")
    tokenizer = trained_tokenizer([m.content for p in preferences[::5] for m in p.chosen])
    heads = options.hidden // 32
    shape = {"hidden": options.hidden, "layers": options.layers, "heads": heads, "kv": heads // 2}
    model = llama(**shape, dtype=getattr(torch, options.dtype), words=len(tokenizer))
    config = BackboneConfig(path="in memory", device="cpu")
    encoder = TransformerEncoder(model, tokenizer, config=config)
    exact = TransformerEncoder(model, tokenizer, config=config.model_copy(update={"mode": "exact"}))
    results: dict[str, Any] = {**provenance(), "threads": options.threads, "clock": options.clock}
    results |= {"dtype": options.dtype, **shape}
    results["command"] = results["command"].replace(str(options.folder), "PACK")
    results["sources"] = {}
    for source, rows in sampled(preferences, pairs=options.pairs).items():
        if options.only and source not in options.only:
            continue
        found = compared(rows, model, encoder=encoder, exact=exact, rounds=options.rounds, clock=options.clock)
        results["sources"][source] = found
        values = "  ".join(f"{key} {value:.4g}" for key, value in found.items())
        print(f"{source:18} {values}", flush=True)
    write_json(options.out, results)


if __name__ == "__main__":
    main()
