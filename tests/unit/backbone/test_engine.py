"""The engine: fast and exact give the same vectors, exact ones to the last bit; memory that runs out is no end."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from facetrm.backbone.encoder import Features
from facetrm.backbone.transformer import BackboneConfig, TransformerEncoder, load_encoder
from facetrm.core.errors import BackboneError
from fakes import chat, tiny_decoder, tiny_encoder

ROWS = [chat(f"question {n % 4}, put at some length", "well " * (n % 5) + f"answer {n}") for n in range(12)]
ROWS += [ROWS[3], chat("hi", "yes")]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("engines")
    return {"decoder": tiny_decoder(root / "llama"), "encoder": tiny_encoder(root / "bert")}


def loaded(folder: Path, **settings: Any) -> TransformerEncoder:
    return load_encoder(BackboneConfig(path=str(folder), device="cpu", **settings))


def worst(one: Features, other: Features) -> float:
    parts = ((one.prompt_ND, other.prompt_ND), (one.response_NAD, other.response_NAD))
    return max(float((a - b).abs().max()) for a, b in parts)


@pytest.mark.parametrize("kind", ["decoder", "encoder"])
def test_exact_scores_do_not_depend_on_what_else_is_asked(folders, kind):
    encoder = loaded(folders[kind], mode="exact")
    expected = encoder.encode(ROWS)
    generator = random.Random(0)
    for _ in range(10):
        order = generator.sample(range(len(ROWS)), k=generator.randint(1, len(ROWS)))
        features = encoder.encode([ROWS[n] for n in order])
        chosen = expected.select(torch.tensor(order))
        assert torch.equal(features.prompt_ND, chosen.prompt_ND)
        assert torch.equal(features.response_NAD, chosen.response_NAD)


@pytest.mark.parametrize("budget", [1, 50, 10_000])
@pytest.mark.parametrize("packs", [True, False])
def test_fast_and_exact_agree(folders, packs, budget):
    fast, exact = loaded(folders["decoder"], token_budget=budget), loaded(folders["decoder"], mode="exact")
    fast._engine._packs = packs
    assert worst(fast.encode(ROWS), exact.encode(ROWS)) < 1e-5
    assert fast.fingerprint == exact.fingerprint, "the same features but for their last digits"


def test_a_pass_reads_a_prompt_once_and_equal_conversations_once(folders, monkeypatch):
    encoder = loaded(folders["decoder"])
    encoder.encode(ROWS[:1])
    seen: list[int] = []
    forward = encoder.model.forward

    def counted(**inputs: Any) -> Any:
        seen.append(inputs["input_ids"].numel())
        return forward(**inputs)

    monkeypatch.setattr(encoder.model, "forward", counted)
    told: list[tuple[int, int]] = []
    encoder.encode(ROWS, on_batch=lambda rows, tokens: told.append((rows, tokens)))
    rows = [encoder.tokenize(row) for row in ROWS]
    prompts = {row.ids[: row.prompt_end + 1] for row in rows}
    tails = {row.ids: len(row.ids) - row.prompt_end - 1 for row in rows}
    assert sum(seen) == sum(map(len, prompts)) + sum(tails.values())
    assert sum(n for n, _ in told) == len(ROWS)
    assert sum(tokens for _, tokens in told) == sum(len(row.ids) for row in rows), "as if each were read alone"


def test_a_model_that_cannot_be_packed_is_read_in_batches_and_the_log_says_so(folders, capfd):
    encoder = loaded(folders["decoder"])
    encoder.model.config.num_hidden_layers += 1
    features = encoder.encode(ROWS)
    assert encoder._engine._packs is False
    said = capfd.readouterr().err
    assert "packing is off" in said
    assert "2 of 3 layers use" in said
    assert worst(features, loaded(folders["decoder"]).encode(ROWS)) < 1e-5


def test_a_layer_that_looks_across_conversations_is_caught(folders, monkeypatch):
    encoder = loaded(folders["decoder"])
    layer = encoder.model.layers[0]
    forward = layer.mlp.forward
    monkeypatch.setattr(layer.mlp, "forward", lambda x: forward(x) + x.cumsum(dim=1))
    assert "differs from itself alone" in str(encoder._engine._why_not())
    encoder.encode(ROWS[:2])
    assert encoder._engine._packs is False


def test_positions_that_depend_on_the_longest_row_are_not_packed(folders):
    encoder = loaded(folders["decoder"])
    encoder.model.config.rope_parameters = {"rope_type": "longrope", "rope_theta": 1e4}
    assert "longrope" in str(encoder._engine._why_not())


@pytest.mark.parametrize("packs", [True, False])
@pytest.mark.parametrize(
    "message", [None, "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"]
)
def test_out_of_memory_halves_the_pass_and_goes_on(folders, monkeypatch, capfd, packs, message):
    expected = loaded(folders["decoder"]).encode(ROWS)
    encoder = loaded(folders["decoder"])
    encoder._engine._packs = packs
    forward, sizes = encoder.model.forward, []

    def small(**inputs: Any) -> Any:
        sizes.append(inputs["input_ids"].numel())
        if sizes[-1] > 120:
            raise torch.OutOfMemoryError("out of memory") if message is None else RuntimeError(message)
        return forward(**inputs)

    monkeypatch.setattr(encoder.model, "forward", small)
    assert worst(encoder.encode(ROWS), expected) < 1e-5
    assert max(sizes) > 120
    assert "out of memory" in capfd.readouterr().err


@pytest.mark.parametrize("settings", [{"mode": "exact"}, {"mode": "fast"}])
def test_a_conversation_that_memory_does_not_hold_is_an_error(folders, monkeypatch, settings):
    encoder = loaded(folders["decoder"], **settings)
    encoder._engine._packs = True

    def full(**inputs: Any) -> Any:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(encoder.model, "forward", full)
    tokens = len(encoder.tokenize(ROWS[0]).ids)
    with pytest.raises(BackboneError, match=rf"a conversation of {tokens} tokens does not fit into memory; lower"):
        encoder.encode(ROWS[:1])


def test_another_error_of_the_model_is_not_taken_for_full_memory(folders, monkeypatch):
    encoder = loaded(folders["decoder"], mode="exact")

    def broken(**inputs: Any) -> Any:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(encoder.model, "forward", broken)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        encoder.encode(ROWS[:1])


@pytest.mark.parametrize("kind", ["decoder", "encoder"])
@pytest.mark.parametrize("mode", ["fast", "exact"])
def test_rows_come_back_in_order_however_they_are_tokenised(folders, kind, mode):
    whole = loaded(folders[kind], mode=mode)
    few = loaded(folders[kind], mode=mode, token_budget=3)
    assert len(list(whole._tokenized(ROWS))) == 1
    windows = [numbers for numbers, _ in few._tokenized(ROWS)]
    assert len(windows) > 3
    assert sorted(n for numbers in windows for n in numbers) == list(range(len(ROWS)))
    for prompt in {row[:-1] for row in ROWS}:
        asked = {n for n, row in enumerate(ROWS) if row[:-1] == prompt}
        assert sum(bool(asked & set(numbers)) for numbers in windows) == 1, "answers to one prompt stand together"
    one, other = few.encode(ROWS), whole.encode(ROWS)
    assert worst(one, other) < 1e-5
    assert torch.equal(one.tokens_N, other.tokens_N)
    assert torch.equal(one.length_N, other.length_N)


def test_a_bad_row_far_down_is_named_by_its_number(folders):
    rows = [*ROWS, chat("one", "word " * 90), *ROWS]
    encoder = loaded(folders["decoder"], token_budget=3, max_tokens=128)
    with pytest.raises(BackboneError) as caught:
        encoder.encode(rows)
    assert caught.value.row is not None
    with pytest.raises(BackboneError):
        encoder.tokenize(rows[caught.value.row])


@pytest.mark.parametrize("kind", ["decoder", "encoder"])
def test_the_mode_stands_in_the_encoder(folders, kind):
    assert loaded(folders[kind]).mode == "fast"
    assert loaded(folders[kind], mode="exact").mode == "exact"


def test_the_host_waits_for_the_device_once_a_pass_not_once_a_row(folders, monkeypatch):
    encoder = loaded(folders["decoder"])
    rows = [encoder.tokenize(row) for row in ROWS]
    encoder._engine.read(rows, lambda *_: None)
    waits: list[str] = []
    for name in ("cpu", "item", "tolist", "__bool__", "__int__", "__float__", "numpy"):
        original = getattr(torch.Tensor, name)

        def counted(tensor, *args, _name=name, _original=original, **settings):
            waits.append(_name)
            return _original(tensor, *args, **settings)

        monkeypatch.setattr(torch.Tensor, name, counted)
    counts = []
    for number in (2, 6, len(rows)):
        waits.clear()
        encoder._engine.read(rows[:number], lambda *_: None)
        counts.append(sorted(waits))
    assert counts[0] == counts[1] == counts[2]
    assert counts[0].count("cpu") == 2


def test_a_processor_reads_several_prompts_in_small_passes_and_one_prompt_in_one(folders, monkeypatch):
    encoder = loaded(folders["decoder"])
    encoder.encode(ROWS[:1])
    sizes: list[int] = []
    forward = encoder.model.forward
    monkeypatch.setattr(
        encoder.model, "forward", lambda **inputs: sizes.append(inputs["input_ids"].numel()) or forward(**inputs)
    )
    encoder.encode([chat(f"question {n} of many, put at length", "an answer") for n in range(30)])
    assert len(sizes) > 1
    assert max(sizes) <= 1024
    assert sum(sizes) > 1024
    sizes.clear()
    encoder.encode([chat("one question", f"answer {n} of many, put at length") for n in range(40)])
    assert len(sizes) == 1
    assert sizes[0] > 1024
