"""``encode`` holds the keys and one shard, however many rows come: no row, token or vector stays behind."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from facetrm.backbone import memory, store
from facetrm.backbone.config import BackboneConfig
from facetrm.backbone.lora.adapters import LoraSettings
from facetrm.backbone.store import encode
from facetrm.backbone.transformer import TransformerEncoder, load_encoder
from facetrm.data.records import Conversation, Message
from fakes import chat, tiny_decoder

FIRST, ROWS = 60, 240
BYTES_OF_A_ROW = (
    500  # its key, its place in a set, its part of a shard in the manifest; its text and tokens are above 1,000
)


def test_python_keeps_nothing_of_a_row_but_its_key(tmp_path: Path):
    encoder = load_encoder(BackboneConfig(path=str(tiny_decoder(tmp_path / "m")), device="cpu"))
    held: list[tuple[int, int]] = []

    def rows() -> Iterator[Conversation]:
        for n in range(ROWS + 1):
            if n in (FIRST, ROWS):
                gc.collect()
                alive = sum(isinstance(o, Message) for o in gc.get_objects())
                held.append((tracemalloc.get_traced_memory()[0], alive))
            yield chat(f"question {n % 5}", f"answer {n} {'so ' * (n % 29)}")

    tracemalloc.start()
    try:
        encode(encoder, rows(), tmp_path / "f", shard_rows=10, quiet=True)
    finally:
        tracemalloc.stop()
    (before, few), (after, many) = held
    assert abs(many - few) <= 2 * 10  # messages of the open shard
    assert after - before < BYTES_OF_A_ROW * (ROWS - FIRST), (before, after)


def heights(encoder: TransformerEncoder, rows: list[Conversation], **asked: Any) -> set[int]:
    """Return how many tokens the linear layers of ``encoder`` are given at a time."""
    seen: set[int] = set()
    hooks = [
        layer.register_forward_pre_hook(lambda _, inputs: seen.add(inputs[0].shape[:-1].numel()))
        for layer in encoder.model.modules()
        if isinstance(layer, torch.nn.Linear)
    ]
    for n in range(0, len(rows), 3):
        encoder.encode(rows[n : n + 3], **asked)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_passes_have_few_shapes_for_each_costs_memory(tmp_path: Path, dtype: str):
    path = str(tiny_decoder(tmp_path / "m"))
    rows = [chat(f"question {'so ' * (n % 7)}", f"answer {'so ' * n}") for n in range(60)]
    encoder = load_encoder(BackboneConfig(path=path, device="cpu", dtype=dtype))
    encoder.add_adapter("upper", LoraSettings(rank=2, layers="last 1"))
    encoder.encode(rows[:1], adapters=["upper"])
    assert all(height % 32 == 0 for height in heights(encoder, rows))
    assert all(height % 32 == 0 for height in heights(encoder, rows, adapters=["upper"]))
    exact = load_encoder(BackboneConfig(path=path, device="cpu", dtype=dtype, mode="exact"))
    assert heights(exact, rows) == {len(exact.tokenize(row).ids) for row in rows}, "exact passes hold nothing else"


def test_free_memory_goes_back_after_each_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    encoder = load_encoder(BackboneConfig(path=str(tiny_decoder(tmp_path / "m")), device="cpu"))
    calls: list[int] = []
    monkeypatch.setattr(memory, "_trimmer", lambda: calls.append)
    encode(encoder, [chat(f"question {n}", "answer") for n in range(10)], tmp_path / "f", shard_rows=3, quiet=True)
    assert calls == [0] * 4
    monkeypatch.setattr(memory, "_trimmer", lambda: None)  # another C library
    store.give_back()
