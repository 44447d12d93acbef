"""The battery of every kind of experts and of every aggregator, in every combination that a mixture allows."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from torch.testing import assert_close

import adapter_models
from facetrm.backbone.encoder import Features
from facetrm.core.errors import ModelError
from facetrm.data.objectives import Objective
from facetrm.model.edits import WeightEdit
from facetrm.model.experts import LinearExperts
from facetrm.model.kinds import AGGREGATORS, EXPERTS, Aggregator, Experts
from facetrm.model.mixture import Mixture
from preferences import random_tensor

K = 3
MAKE_EXPERTS: dict[str, Callable[[], Any]] = {
    "linear": lambda: LinearExperts(
        [Objective(name=f"test-{k}", low=0, high=4) for k in range(K)],
        random_tensor(K, adapter_models.HIDDEN, seed=1),
        torch.full((K,), 0.5),
    ),
    "adapter": adapter_models.experts,
}
MAKE_AGGREGATOR: dict[str, Callable[[], Any]] = {
    "gated_sum": adapter_models.gated,
    "concat_mlp": adapter_models.network,
}
ALLOWED = [
    (kind, other)
    for kind, other in product(EXPERTS, AGGREGATORS)
    if MAKE_EXPERTS[kind]().adapters or not AGGREGATORS[other].reads_vectors
]


def features(experts: Experts, rows: int = 40) -> Features:
    return adapter_models.vectors(rows, len(experts.adapters) or 1)


def mixture(kind: str, other: str) -> Mixture:
    return Mixture(MAKE_EXPERTS[kind](), MAKE_AGGREGATOR[other](), beta=2.0).eval()


def test_every_registered_kind_is_in_the_battery() -> None:
    assert set(MAKE_EXPERTS) == set(EXPERTS)
    assert set(MAKE_AGGREGATOR) == set(AGGREGATORS)
    assert ALLOWED == [("linear", "gated_sum"), ("adapter", "gated_sum"), ("adapter", "concat_mlp")]


@pytest.mark.parametrize(("kind", "other"), ALLOWED)
def test_the_reward_is_base_plus_contributions(kind: str, other: str) -> None:
    made = mixture(kind, other)
    with torch.no_grad():
        output = made(features(made.experts))
    assert_close(output.base_N + output.contributions_NK.sum(-1), output.reward_N, rtol=0, atol=1e-5)
    assert float(output.contributions_NK.abs().max()) > 0.05
    assert len(output.reward_N.unique()) == 40
    assert (output.weights_NK is None) == (output.coefficients_NK is None)


@pytest.mark.parametrize(("kind", "other"), ALLOWED)
def test_differences_of_contributions_are_the_margin_of_two_answers_to_one_prompt(kind: str, other: str) -> None:
    made = mixture(kind, other)
    with torch.no_grad():
        output = made(features(made.experts))
    difference_P = (output.contributions_NK[::2] - output.contributions_NK[1::2]).sum(-1)
    assert_close(difference_P, output.reward_N[::2] - output.reward_N[1::2], rtol=0, atol=1e-5)
    assert float(difference_P.abs().min()) > 1e-4


@pytest.mark.parametrize(("kind", "other"), ALLOWED)
def test_the_rewards_alone_are_those_of_the_whole_sum_and_can_be_fitted(kind: str, other: str) -> None:
    made = mixture(kind, other)
    rewards_N = made.rewards(features(made.experts))
    assert_close(rewards_N, made(features(made.experts)).reward_N, rtol=0, atol=2e-6)
    rewards_N.sum().backward()
    parts: Any = made.aggregator
    gradients = [p.grad for p in parts.parameters()]
    assert gradients
    assert all(g is not None and bool(g.abs().any()) for g in gradients)


@pytest.mark.parametrize(("kind", "other"), ALLOWED)
def test_a_mixture_comes_back_bit_equal_from_bytes(kind: str, other: str) -> None:
    made = mixture(kind, other).with_edit(WeightEdit(drop=(1,)))
    tensors, spec = made.state()
    again = Mixture.from_state(load(save(tensors)), json.loads(json.dumps(spec))).eval()
    rows = features(made.experts)
    with torch.no_grad():
        one, other_one = made(rows), again(rows)
    for field in ("reward_N", "base_N", "contributions_NK", "scores_NK"):
        assert torch.equal(getattr(one, field), getattr(other_one, field))
    assert again.state()[1] == spec
    assert (again.names, again.adapters, again.beta) == (made.names, made.adapters, 2.0)
    assert again.aggregator.edit == WeightEdit(drop=(1,))


@pytest.mark.parametrize(("kind", "other"), ALLOWED)
def test_a_dropped_expert_contributes_nothing_and_the_sum_still_holds(kind: str, other: str) -> None:
    whole = mixture(kind, other)
    rows = features(whole.experts)
    with torch.no_grad():
        before, after = whole(rows), whole.with_edit(WeightEdit(drop=(1,)))(rows)
        undone = whole.with_edit(WeightEdit(drop=(1,))).with_edit(None)(rows)
    assert torch.equal(after.contributions_NK[:, 1], torch.zeros(40))
    assert float(before.contributions_NK[:, 1].abs().min()) > 0
    assert_close(after.base_N + after.contributions_NK.sum(-1), after.reward_N, rtol=0, atol=1e-5)
    assert not torch.equal(after.reward_N, before.reward_N)
    assert torch.equal(undone.reward_N, before.reward_N)
    assert torch.equal(after.scores_NK, before.scores_NK)


@pytest.mark.parametrize("other", MAKE_AGGREGATOR)
@pytest.mark.parametrize("edit", [WeightEdit(drop=(0, 1, 2)), WeightEdit(drop=(K,))])
def test_an_edit_that_leaves_nothing_or_names_nobody_is_refused(other: str, edit: WeightEdit) -> None:
    part: Aggregator = MAKE_AGGREGATOR[other]()
    with pytest.raises(ModelError) as caught:
        part.with_edit(edit)
    assert caught.value.fix


@pytest.mark.parametrize("kind", MAKE_EXPERTS)
def test_experts_refuse_vectors_of_another_backbone_or_of_other_adapters(kind: str) -> None:
    made = MAKE_EXPERTS[kind]()
    size = len(made.adapters) or 1
    for wrong in (adapter_models.vectors(4, size + 1), adapter_models.vectors(4, size)):
        cut = wrong.response_NAD if wrong.response_NAD.shape[1] > size else wrong.response_NAD[..., 1:]
        with pytest.raises(ModelError, match="response features"):
            made(Features(wrong.prompt_ND, cut, wrong.length_N, wrong.tokens_N, wrong.truncated_N))


@pytest.mark.parametrize(
    ("registry", "makers"), [(EXPERTS, MAKE_EXPERTS), (AGGREGATORS, MAKE_AGGREGATOR)], ids=["experts", "aggregators"]
)
def test_a_kind_reads_its_own_state_alone(registry: Any, makers: dict[str, Callable[[], Any]]) -> None:
    for kind, other in product(makers, makers):
        tensors, spec = makers[other]().state()
        assert spec["kind"] == other
        if kind != other:
            with pytest.raises(ModelError, match=f"the kind is '{other}'"):
                registry[kind].from_state(tensors, spec)


def test_a_mixture_says_what_does_not_fit() -> None:
    linear, adapter = MAKE_EXPERTS["linear"](), MAKE_EXPERTS["adapter"]()
    with pytest.raises(ModelError, match="one vector per expert"):
        Mixture(linear, MAKE_AGGREGATOR["concat_mlp"]())
    with pytest.raises(ModelError, match="there are 3 experts, but the aggregator has 2"):
        Mixture(adapter, adapter_models.network(2))
    with pytest.raises(ModelError, match="hidden size is 16, but the aggregator's is 8"):
        Mixture(adapter, adapter_models.network(width=8))
    with pytest.raises(ModelError, match="not defined for this aggregator"):
        Mixture(adapter, MAKE_AGGREGATOR["concat_mlp"]()).gated_sum
    with pytest.raises(ModelError, match="not defined for experts with their own adapters"):
        Mixture(adapter, MAKE_AGGREGATOR["gated_sum"]()).linear_experts
