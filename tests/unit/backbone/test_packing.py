"""Packs: every conversation sees itself alone, in every architecture; what cannot be packed is noticed."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
import transformers as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from facetrm.backbone.passes.attention import ATTENTION, PackingError, read_packed
from facetrm.backbone.passes.packing import PackedPass, Tree, pack_rows
from tiny_decoders import MODELS, SHAPE, TWO, ids, made

A, B, C = ids(9, 1), ids(14, 2), ids(3, 3)
ROWS = [A + ids(5, 4), B + ids(11, 5), A + ids(8, 6), C + ids(2, 7), A + ids(1, 8), A + ids(5, 4)]
PROMPTS = [9, 14, 9, 3, 9, 9]


def alone(model: tf.PreTrainedModel, row: Sequence[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([row]), use_cache=False).last_hidden_state[0]


@pytest.mark.parametrize("budget", [1, 40, 1000])
@pytest.mark.parametrize("name", list(MODELS))
def test_a_conversation_in_a_pack_is_the_same_as_alone(name: str, budget: int) -> None:
    model, seen = made(name), []
    before = model.config._attn_implementation
    for pack in pack_rows(ROWS, PROMPTS, token_budget=budget):
        with torch.no_grad():
            hidden_TD = read_packed(model, pack)
        for n, end, last in zip(pack.rows, pack.ends, pack.lasts, strict=True):
            expected_LD = alone(model, ROWS[n])
            assert torch.allclose(hidden_TD[last], expected_LD[-1], atol=1e-5)
            assert torch.allclose(hidden_TD[end], expected_LD[PROMPTS[n] - 1], atol=1e-5)
            seen.append(n)
    assert sorted(seen) == list(range(len(ROWS)))
    assert model.config._attn_implementation == before != ATTENTION


@pytest.mark.parametrize("name", list(MODELS))
def test_a_filler_changes_no_answer(name: str) -> None:
    model = made(name)
    (pack,) = pack_rows(ROWS, PROMPTS, token_budget=1000)
    filled = pack.filled(7)
    assert len(pack.ids) < len(filled.ids) == 64
    prompts, tokens = filled.prompts(pad=7)
    assert [filled.ids[token] for token in tokens][: len(pack.prompts()[1])] == pack.prompts()[0].ids
    assert len(prompts.ids) == len(tokens) == 32
    for one in (filled, prompts):
        with torch.no_grad():
            hidden_TD = read_packed(model, one)
        for n, end, last in zip(one.rows, one.ends, one.lasts, strict=True):
            expected_LD = alone(model, ROWS[n])
            assert torch.allclose(hidden_TD[end], expected_LD[PROMPTS[n] - 1], atol=1e-5)
            assert torch.allclose(hidden_TD[last], expected_LD[one.positions[last]], atol=1e-5)


def test_filled_packs_come_in_few_sizes() -> None:
    packs = [PackedPass([1] * size, [*range(size)], (Tree(0, size, ()),), [0], [0], [0]) for size in range(1, 8193)]
    sizes = [len(pack.filled(0, most=8190).ids) for pack in packs]
    assert len(set(sizes)) < 140
    for size, filled in enumerate(sizes, start=1):
        assert size <= filled <= max(size + size // 32, size + 31)
        assert filled <= 8190 or size > 8190, "a pack does not outgrow the budget"
    assert {len(pack.filled(0, later=True).ids) for pack in packs[:1024]} == {
        *range(128, 897, 128),
        928,
        960,
        992,
        1024,
    }
    assert all(pack.filled(None) is pack for pack in packs[:40])


def test_every_answer_sees_its_prompt_and_none_sees_another() -> None:
    model = made("llama")
    (pack,) = pack_rows(ROWS, PROMPTS, token_budget=1000)
    embedded_1TD = model.get_input_embeddings()(torch.tensor([pack.ids])).detach().requires_grad_()
    model.get_input_embeddings().register_forward_hook(lambda *_: embedded_1TD)
    hidden_TD = read_packed(model, pack)
    for n, last in zip(pack.rows, pack.lasts, strict=True):
        (gradient_1TD,) = torch.autograd.grad(hidden_TD[last].sum(), embedded_1TD, retain_graph=True)
        read = [pack.ids[t] for t in gradient_1TD[0].abs().sum(-1).nonzero().flatten().tolist()]
        assert sorted(read) == sorted(ROWS[n])


def test_what_does_not_attend_through_the_interface_is_noticed() -> None:
    bloom = tf.BloomModel(tf.BloomConfig(vocab_size=100, hidden_size=32, n_layer=3, n_head=4, **TWO)).eval()
    (pack,) = pack_rows(ROWS, PROMPTS, token_budget=1000)
    with pytest.raises(PackingError):
        read_packed(bloom, pack)
    sinks = tf.GptOssModel(tf.GptOssConfig(**SHAPE, head_dim=8, num_local_experts=4)).eval()
    with pytest.raises(PackingError, match="s_aux"):
        read_packed(sinks, pack)
    llama = made("llama")
    llama.config.num_hidden_layers = 4
    with pytest.raises(PackingError, match="3 of 4 layers attend"):
        read_packed(llama, pack)


def test_the_attention_is_for_packs_only() -> None:
    model = made("llama")
    model.config._attn_implementation = ATTENTION
    with pytest.raises(PackingError, match="outside of a pack"):
        alone(model, ROWS[0])


rows_of = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 9)), min_size=1, max_size=25)


@given(rows_of, st.integers(1, 60))
@settings(max_examples=200, deadline=None)
def test_packs_hold_every_conversation_once_and_keep_to_the_budget(tails: list[tuple[int, int]], budget: int) -> None:
    prompts = [ids(5 + 3 * p, p) for p, _ in tails]
    rows = [prompt + ids(length, 50 + length) for prompt, (_, length) in zip(prompts, tails, strict=True)]
    packs = list(pack_rows(rows, [len(p) for p in prompts], token_budget=budget))
    assert sorted(n for pack in packs for n in pack.rows) == list(range(len(rows)))
    for pack in packs:
        assert len(pack.ids) <= budget or len({rows[n] for n in pack.rows}) == 1
        spans = [(t.start, t.stop) for t in pack.trees] + [span for t in pack.trees for span in t.tails]
        assert sorted(t for span in spans for t in range(*span)) == list(range(len(pack.ids)))
        assert len({rows[n] for n in pack.rows}) == sum(len(tree.tails) for tree in pack.trees)
        for n, end, last in zip(pack.rows, pack.ends, pack.lasts, strict=True):
            tree = next(t for t in pack.trees if t.start <= end < t.stop)
            tail = next(t for t in tree.tails if t[1] == last + 1)
            at = [*range(tree.start, tree.stop), *range(*tail)]
            assert tuple(pack.ids[t] for t in at) == rows[n]
            assert [pack.positions[t] for t in at] == list(range(len(rows[n])))
            assert end == tree.start + len(prompts[n]) - 1


def test_a_prompt_is_read_once_and_equal_conversations_are_too() -> None:
    (pack,) = pack_rows(ROWS, PROMPTS, token_budget=1000)
    assert len(pack.ids) == len(A) + 5 + 8 + 1 + len(B) + 11 + len(C) + 2
    assert sorted(pack.rows) == [0, 1, 2, 3, 4, 5]


@given(rows_of, st.one_of(st.integers(1, 60), st.just(1000)), st.integers(1, 60))
@settings(max_examples=100, deadline=None)
def test_a_pack_begins_no_further_prompt_beyond_what_is_enough(
    tails: list[tuple[int, int]], budget: int, enough: int
) -> None:
    prompts = [ids(5 + 3 * p, p) for p, _ in tails]
    rows = [prompt + ids(length, 50 + length) for prompt, (_, length) in zip(prompts, tails, strict=True)]
    packs = list(pack_rows(rows, [len(p) for p in prompts], token_budget=budget, enough=enough))
    assert sorted(n for pack in packs for n in pack.rows) == list(range(len(rows)))
    for pack in packs:
        assert len(pack.trees) == 1 or len(pack.ids) <= min(enough, budget)
    if budget == 1000:
        assert sum(len(pack.trees) for pack in packs) == len(set(prompts)), "no prompt is read twice"
