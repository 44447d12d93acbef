"""An exam for adapters: rankings whose rule is planted, on a random decoder that was never taught the rule.

A response holds one word of each of three couples, in any order, among three filler words (none for parity, which is
hard enough). Which word of a couple it holds is a bit. The better response has the value 1 of its rule, the worse one 0:

    xor       bits 1 and 2 differ
    parity    an odd number of the three bits is 1
    word      bit 1 is 1: a linear head reads it without help
    lot       drawn by lot: nobody can learn it
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Final

from facetrm.backbone.tiny import TinyShape, tiny_decoder
from facetrm.backbone.transformer import BackboneConfig, TransformerEncoder
from facetrm.data.records import Message, Preference

COUPLES: Final = (("red", "blue"), ("cat", "dog"), ("up", "down"))
FILLERS: Final = tuple(f"word{n}" for n in range(20))
Bits = tuple[int, int, int]
RULES: Final[dict[str, Callable[[Bits], int]]] = {
    "xor": lambda bits: bits[0] ^ bits[1],
    "other_xor": lambda bits: bits[1] ^ bits[2],
    "parity": lambda bits: bits[0] ^ bits[1] ^ bits[2],
    "word": lambda bits: bits[0],
}


def exam_encoder(*, hidden: int = 64, layers: int = 2, seed: int = 0) -> TransformerEncoder:
    """Return a random decoder that knows the words of the exam."""
    words = [word for couple in COUPLES for word in couple]
    shape = TinyShape(hidden=hidden, layers=layers, heads=4, inner=2 * hidden, max_tokens=64)
    model, tokenizer = tiny_decoder([*words, *FILLERS], shape=shape, seed=seed)
    config = BackboneConfig(path=str(Path("exam")), device="cpu", dtype="float32", token_budget=8192)
    return TransformerEncoder(model, tokenizer, config=config)


def exam_rows(rule: str, count: int, *, seed: int) -> list[Preference]:
    """Return ``count`` pairs of distinct prompts, the better response first.

    Args:
        rule: Name of the rule; ``lot`` draws the better response by lot.
        count: Number of pairs.
        seed: Random seed of prompts and responses.
    """
    draw = random.Random(f"{rule}-{seed}")
    every = list(product((0, 1), repeat=3))
    rows = []
    for n in range(count):
        sides = RULES["xor" if rule == "lot" else rule]
        better = draw.choice([bits for bits in every if sides(bits) == 1])
        worse = draw.choice([bits for bits in every if sides(bits) == 0])
        pair = [_response(draw, bits, fillers=0 if rule == "parity" else 3) for bits in (better, worse)]
        if rule == "lot":
            draw.shuffle(pair)
        prompt = Message(role="user", content=" ".join(draw.choices(FILLERS, k=6)))
        rows.append(Preference(id=f"{rule}-{n}", prompt=(prompt,), responses=tuple(pair)))
    return rows


def _response(draw: random.Random, bits: Sequence[int], *, fillers: int) -> Message:
    words = [couple[bit] for couple, bit in zip(COUPLES, bits, strict=True)]
    words += draw.choices(FILLERS, k=fillers)
    draw.shuffle(words)
    return Message(role="assistant", content=" ".join(words))
