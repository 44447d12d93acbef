"""One kernel call for all segments: the layout, checked on a processor with PyTorch's documented conventions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adapter_samples import NAMES, learned
from facetrm.backbone.passes import varlen
from facetrm.backbone.passes.attention import kernel_error, read_packed
from facetrm.backbone.passes.engine import DecoderEngine
from facetrm.backbone.passes.packing import pack_rows
from facetrm.backbone.passes.probes import TOLERANCE
from facetrm.backbone.passes.varlen import flash, kernel_for, layout_of
from facetrm.backbone.text.chat import Tokenized
from facetrm.backbone.transformer import BackboneConfig, load_encoder
from fakes import chat, tiny_decoder
from tiny_decoders import MODELS, ids, made

A, B, C = ids(9, 1), ids(14, 2), ids(3, 3)
ROWS = [A + ids(5, 4), B + ids(11, 5), A + ids(8, 6), C + ids(2, 7), A + ids(1, 8), A + ids(5, 4)]
PROMPTS = [9, 14, 9, 3, 9, 9]


def documented(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float,
    window_size: tuple[int, int],
    enable_gqa: bool,
    top_left: bool = False,
) -> torch.Tensor:
    """What torch.nn.attention.varlen.varlen_attn says that it does, segment by segment and score by score."""
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    assert (query.shape[1] != key.shape[1]) == enable_gqa
    out, (left, right) = torch.zeros_like(query), window_size
    assert right == 0
    bounds = zip(cu_seq_q.tolist(), cu_seq_q.tolist()[1:], cu_seq_k.tolist(), cu_seq_k.tolist()[1:], strict=False)
    for q_start, q_stop, k_start, k_stop in bounds:
        queries, keys = q_stop - q_start, k_stop - k_start
        assert queries <= max_q
        assert keys <= max_k
        at = torch.arange(queries)[:, None] + (0 if top_left else keys - queries)
        seen = torch.arange(keys)[None] <= at
        if left >= 0:
            seen &= torch.arange(keys)[None] >= at - left
        for head in range(query.shape[1]):
            group = head * key.shape[1] // query.shape[1]
            product = query[q_start:q_stop, head] @ key[k_start:k_stop, group].T * scale
            weights = product.masked_fill(~seen, -torch.inf).softmax(-1)
            out[q_start:q_stop, head] = weights @ value[k_start:k_stop, group]
    return out


@pytest.fixture
def on_a_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(varlen, "_varlen", lambda: documented)


rows_of = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 9)), min_size=1, max_size=12)


@given(rows_of)
@settings(max_examples=100, deadline=None)
def test_the_keys_of_a_segment_are_its_conversation(tails: list[tuple[int, int]]) -> None:
    prompts = [ids(5 + 3 * p, p) for p, _ in tails]
    rows = [prompt + ids(length, 50 + length) for prompt, (_, length) in zip(prompts, tails, strict=True)]
    (pack,) = pack_rows(rows, [len(p) for p in prompts], token_budget=10_000)
    layout = layout_of(pack.trees, "cpu")
    keys = torch.arange(len(pack.ids)) if layout.keys_S is None else layout.keys_S
    assert layout.query_starts[-1] == len(pack.ids)
    assert layout.key_starts[-1] == len(keys)
    ends = layout.query_starts.tolist()[1:]
    assert sorted(end - 1 for end in ends) == sorted(set(pack.lasts)), "every segment ends an answer"
    for n, last in zip(pack.rows, pack.lasts, strict=True):
        segment = ends.index(last + 1)
        start, stop = layout.key_starts.tolist()[segment : segment + 2]
        assert tuple(pack.ids[t] for t in keys[start:stop].tolist()) == rows[n]
        assert stop - start <= layout.longest_key
    assert max(b - a for a, b in zip([0, *ends], ends, strict=False)) == layout.longest_query


def test_prompts_with_one_answer_each_need_no_gathering() -> None:
    (pack,) = pack_rows([A + C, B + C], [9, 14], token_budget=1000)
    assert layout_of(pack.trees, "cpu").keys_S is None


@pytest.mark.parametrize("name", list(MODELS))
def test_a_conversation_read_by_the_kernel_is_the_same_as_alone(name: str, on_a_processor: None) -> None:
    model = made(name)
    (pack,) = pack_rows(ROWS, PROMPTS, token_budget=1000)
    with torch.no_grad():
        hidden_TD = read_packed(model, pack, kernel=flash)
        for n, end, last in zip(pack.rows, pack.ends, pack.lasts, strict=True):
            alone_LD = model(input_ids=torch.tensor([ROWS[n]]), use_cache=False).last_hidden_state[0]
            assert torch.allclose(hidden_TD[last], alone_LD[-1], atol=1e-5)
            assert torch.allclose(hidden_TD[end], alone_LD[PROMPTS[n] - 1], atol=1e-5)


def test_adapters_are_read_by_the_kernel_too(on_a_processor: None) -> None:
    model = made("mistral, window of 6")
    for seed, adapter in enumerate(NAMES):
        learned(model, adapter, seed=seed, layers="last 2")
    rows = [Tokenized(row, prompt - 1, prompt, len(row) - prompt) for row, prompt in zip(ROWS, PROMPTS, strict=True)]
    inputs = frozenset({"position_ids", "use_cache", "input_ids", "attention_mask"})
    by = [DecoderEngine(model, mode="fast", token_budget=60, pad=0, inputs=inputs, kernel=k) for k in (flash, None)]
    (prompt_ND, response_NAD), (prompts_ND, responses_NAD) = (
        engine.read_adapted(rows, lambda *_: None, adapters=NAMES) for engine in by
    )
    assert by[0]._packs
    assert by[0]._kernel is flash
    assert torch.allclose(prompt_ND, prompts_ND, atol=1e-5)
    assert torch.allclose(response_NAD, responses_NAD, atol=1e-5)
    assert torch.allclose(by[0].read_prompts(rows), prompts_ND, atol=1e-5)


def engine_with(kernel: Any, tmp_path: Any) -> tuple[Any, DecoderEngine]:
    encoder = load_encoder(BackboneConfig(path=str(tiny_decoder(tmp_path / "llama")), device="cpu"))
    inputs = frozenset({"position_ids", "use_cache", "input_ids", "attention_mask"})
    engine = DecoderEngine(encoder.model, mode="fast", token_budget=512, pad=0, inputs=inputs, kernel=kernel)
    return encoder, engine


CHATS = [chat(f"question {n % 3}, put at some length", "well " * (n % 5) + f"answer {n}") for n in range(9)]


def test_the_engine_reads_by_a_kernel_that_agrees(tmp_path, on_a_processor, capfd) -> None:
    encoder, engine = engine_with(flash, tmp_path)
    rows = [encoder.tokenize(row) for row in CHATS]
    vectors = engine.read(rows, lambda *_: None)
    features = encoder.encode(CHATS)
    assert (vectors[0] - features.prompt_ND).abs().max() < 1e-5
    assert (vectors[1] - features.response_NAD[:, 0]).abs().max() < 1e-5
    assert engine._kernel is flash
    assert "off" not in capfd.readouterr().err


def top_left(*args: Any, **settings: Any) -> torch.Tensor:
    return documented(*args, **settings, top_left=True)


def one_key_too_many(*args: Any, window_size: tuple[int, int], **settings: Any) -> torch.Tensor:
    wider = window_size[0] + 1 if window_size[0] >= 0 else -1
    return documented(*args, window_size=(wider, 0), **settings)


def no_such_kernel(*args: Any, **settings: Any) -> torch.Tensor:
    raise RuntimeError("no kernel image is available for execution on the device\nsecond line")


def other_arguments(query: torch.Tensor) -> torch.Tensor:
    return query


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (top_left, "differs from attention by segments by"),
        (one_key_too_many, "differs from attention by segments by"),
        (no_such_kernel, "no kernel image is available for execution on the device"),
        (other_arguments, "unexpected keyword argument"),
    ],
)
def test_a_wrong_kernel_is_given_up_and_the_log_says_so(tmp_path, monkeypatch, capfd, wrong, said) -> None:
    monkeypatch.setattr(varlen, "_varlen", lambda: wrong)
    encoder, engine = engine_with(flash, tmp_path)
    response_ND = engine.read([encoder.tokenize(row) for row in CHATS], lambda *_: None)[1]
    assert (response_ND - encoder.encode(CHATS).response_NAD[:, 0]).abs().max() < 1e-5
    assert engine._kernel is None
    assert engine._packs, "packs are read by segments then"
    err = capfd.readouterr().err
    assert "the attention kernel is off" in err
    assert said in err
    assert "second line" not in err


@pytest.mark.parametrize("raises", [False, True])
def test_a_kernel_that_fails_in_the_model_only_is_given_up_too(tmp_path, on_a_processor, capfd, raises) -> None:
    def off(query_THE: torch.Tensor, *args: Any, **settings: Any) -> torch.Tensor:
        found = flash(query_THE, *args, **settings)
        if len(query_THE) == 31:  # right on the check's own pack
            return found
        if raises:
            raise RuntimeError("head dimension 8 is not supported")
        return found + 1.0

    encoder, engine = engine_with(off, tmp_path)
    engine.read([encoder.tokenize(row) for row in CHATS], lambda *_: None)
    assert engine._kernel is None
    assert engine._packs
    reason = "head dimension 8 is not supported" if raises else "a conversation in a pack differs from itself alone"
    assert reason in capfd.readouterr().err


def test_there_is_no_kernel_for_a_processor_or_full_precision() -> None:
    assert kernel_for(torch.device("cpu"), torch.bfloat16) is None
    assert kernel_for(torch.device("cuda"), torch.float32) is None
    assert kernel_for(torch.device("cuda"), torch.float16) is flash


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_pytorchs_kernel_keeps_its_conventions(dtype: torch.dtype) -> None:
    assert kernel_error(flash, dtype=dtype, device=torch.device("cuda")) < TOLERANCE[dtype]


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["llama", "qwen3", "mistral, window of 6", "gemma3, window of 6"])
def test_packs_on_a_gpu_go_through_the_kernel(name: str) -> None:
    model = made(name).to("cuda", torch.bfloat16)
    inputs = frozenset({"position_ids", "use_cache", "input_ids", "attention_mask"})
    engine = DecoderEngine(model, mode="fast", token_budget=512, pad=0, inputs=inputs)
    assert engine._can_pack()
    assert engine._kernel is flash
