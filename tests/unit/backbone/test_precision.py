"""Every dtype: what a pack gives lies within the stated bound of what the conversation gives alone."""

from __future__ import annotations

import pytest
import torch

from facetrm.backbone.passes import engine as passes
from facetrm.backbone.passes.engine import DecoderEngine
from facetrm.backbone.passes.probes import TOLERANCE
from facetrm.backbone.text.chat import Tokenized
from facetrm.backbone.transformer import BackboneConfig, load_encoder
from fakes import chat, tiny_decoder
from tiny_decoders import MODELS, ids, made

A, B = ids(9, 1), ids(14, 2)
TEXTS = [(A, ids(5, 4)), (B, ids(11, 5)), (A, ids(8, 6)), (ids(3, 3), ids(2, 7)), (A, ids(1, 8)), (A, ids(40, 9))]
ROWS = [Tokenized(prompt + answer, len(prompt) - 1, len(prompt), len(answer)) for prompt, answer in TEXTS]
INPUTS = frozenset({"position_ids", "use_cache", "input_ids", "attention_mask"})


def read(model, mode: str, rows=ROWS) -> torch.Tensor:
    engine = DecoderEngine(model, mode=mode, token_budget=512, pad=0, inputs=INPUTS)
    vectors = engine.read(rows, lambda *_: None)
    assert mode == "exact" or engine._packs
    return torch.cat(vectors)


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=lambda dtype: str(dtype).removeprefix("torch."))
@pytest.mark.parametrize("name", list(MODELS))
def test_a_pack_lies_within_the_stated_bound_of_each_row_alone(name: str, dtype: torch.dtype) -> None:
    model = made(name).to(dtype)
    packed_ND, alone_ND = read(model, "fast"), read(model, "exact")
    gap_N = (packed_ND - alone_ND).norm(dim=1) / alone_ND.norm(dim=1)
    assert packed_ND.dtype == torch.float32
    assert gap_N.max() < TOLERANCE[dtype]
    distances = torch.cdist(alone_ND, alone_ND)[len(ROWS) :, len(ROWS) :] / alone_ND.norm(dim=1).max()
    assert distances.fill_diagonal_(9).min() > TOLERANCE[dtype], "the bound tells answers apart"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_half_precision_encoder_agrees_with_itself_row_by_row(tmp_path, dtype) -> None:
    folder = tiny_decoder(tmp_path / "llama")
    chats = [chat(f"question {n % 3}", "well " * (n % 5) + f"answer {n}") for n in range(8)]
    fast, exact = (
        load_encoder(BackboneConfig(path=str(folder), device="cpu", dtype=dtype, mode=mode)).encode(chats)
        for mode in ("fast", "exact")
    )
    gap_N = (fast.response_NAD - exact.response_NAD)[:, 0].norm(dim=1) / exact.response_NAD[:, 0].norm(dim=1)
    assert gap_N.max() < TOLERANCE[getattr(torch, dtype)]


@pytest.mark.parametrize(("share", "packs"), [(0.0, True), (0.07, False)])
def test_a_pack_that_is_off_by_more_than_rounding_is_not_used_in_bfloat16(
    share: float, packs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = passes.read_packed
    monkeypatch.setattr(passes, "read_packed", lambda *a, **k: honest(*a, **k) * (1.0 + share))
    engine = DecoderEngine(made("llama").to(torch.bfloat16), mode="fast", token_budget=512, pad=0, inputs=INPUTS)
    engine.read(ROWS, lambda *_: None)
    assert engine._packs is packs
