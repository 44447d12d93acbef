"""The network on the experts' vectors: its shares are Shapley's values, and they add up."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.testing import assert_close

from adapter_models import network, vectors
from facetrm.core.errors import ModelError
from facetrm.model import concat
from facetrm.model.concat import ConcatMLP
from facetrm.model.edits import WeightEdit
from preferences import random_tensor

Floats = NDArray[np.float64]
NO_SCORES = torch.zeros(6, 3)


def plain(parts: ConcatMLP, response_NKD: Tensor) -> Floats:
    """The network by its published formula, in float64, with no code of ours."""
    state = {name: tensor.double().numpy() for name, tensor in parts.state_dict().items()}
    hidden = response_NKD.double().flatten(1).numpy() @ state["first.weight"].T + state["first.bias"]
    hidden = np.where(hidden > 0, hidden, state["rectifier.weight"] * hidden)
    return (hidden @ state["last.weight"].T + state["last.bias"])[:, 0]


def brute_force(parts: ConcatMLP, response_NKD: Tensor) -> Floats:
    """The mean of what each expert adds, over all orders in which the experts may come."""
    size = parts.size
    total = np.zeros((len(response_NKD), size))
    orders = list(permutations(range(size)))
    for order in orders:
        mixed = parts.reference_KD.expand(len(response_NKD), -1, -1).clone()
        before = plain(parts, mixed)
        for k in order:
            mixed[:, k] = response_NKD[:, k]
            after = plain(parts, mixed)
            total[:, k] += after - before
            before = after
    return total / len(orders)


@pytest.mark.parametrize(("size", "hidden"), [(1, None), (2, 5), (3, None), (5, 7)])
@torch.no_grad()
def test_contributions_are_shapley_values_by_brute_force(size: int, hidden: int | None) -> None:
    parts, response_NKD = network(size, hidden=hidden), vectors(6, size).response_NAD
    output = parts(response_NKD, torch.zeros(6, size))
    np.testing.assert_allclose(output.contributions_NK.numpy(), brute_force(parts, response_NKD), atol=2e-6)
    np.testing.assert_allclose(output.reward_N.numpy(), plain(parts, response_NKD), atol=2e-6)
    reference = plain(parts, parts.reference_KD[None])
    np.testing.assert_allclose(output.base_N.numpy(), reference.repeat(6), atol=2e-6)


@torch.no_grad()
def test_the_network_is_not_additive_so_that_the_orders_matter() -> None:
    parts, response_NKD = network(), vectors(6).response_NAD
    shapley = brute_force(parts, response_NKD)
    alone = parts.reference_KD.expand(6, -1, -1).clone()
    alone[:, 0] = response_NKD[:, 0]
    first = plain(parts, alone) - plain(parts, parts.reference_KD[None])
    assert np.abs(first - shapley[:, 0]).max() > 0.01


@torch.no_grad()
def test_the_base_is_one_number_and_rows_do_not_touch_each_other() -> None:
    parts, response_NKD = network(), vectors(6).response_NAD
    output = parts(response_NKD, NO_SCORES)
    assert len(output.base_N.unique()) == 1
    for n in range(6):
        alone = parts(response_NKD[n : n + 1], NO_SCORES[:1])
        assert torch.equal(alone.base_N, output.base_N[:1])
        assert_close(alone.contributions_NK[0], output.contributions_NK[n], rtol=0, atol=1e-6)


@torch.no_grad()
def test_symmetric_experts_get_equal_shares() -> None:
    parts, response_NKD = network(), vectors(6).response_NAD.clone()
    weight = parts.first.weight.view(parts.hidden, 3, -1)
    weight[:, 1] = weight[:, 0]
    parts = parts.with_reference(parts.reference_KD[[0, 0, 2]])
    response_NKD[:, 1] = response_NKD[:, 0]
    output = parts(response_NKD, NO_SCORES)
    assert_close(output.contributions_NK[:, 0], output.contributions_NK[:, 1], rtol=0, atol=1e-6)
    assert float((output.contributions_NK[:, 0] - output.contributions_NK[:, 2]).abs().min()) > 1e-4


@torch.no_grad()
def test_an_expert_that_the_network_ignores_or_that_says_the_reference_gets_nothing() -> None:
    parts, response_NKD = network(), vectors(6).response_NAD.clone()
    parts.first.weight.view(parts.hidden, 3, -1)[:, 2] = 0.0
    response_NKD[:, 0] = parts.reference_KD[0]
    output = parts(response_NKD, NO_SCORES)
    assert float(output.contributions_NK[:, [0, 2]].abs().max()) < 1e-6
    assert float(output.contributions_NK[:, 1].abs().min()) > 1e-3


@torch.no_grad()
def test_the_sum_holds_for_eight_experts_and_large_vectors() -> None:
    parts = network(8, hidden=33)
    response_NKD = 10 * vectors(50, 8).response_NAD
    output = parts(response_NKD, torch.zeros(50, 8))
    assert float(output.reward_N.std()) > 1
    total_N = output.base_N.double() + output.contributions_NK.double().sum(-1)
    assert float((total_N - output.reward_N.double()).abs().max()) < 1e-5
    assert_close(output.reward_N.double(), torch.tensor(plain(parts, response_NKD)), rtol=0, atol=1e-4)


@torch.no_grad()
def test_memory_is_bounded_by_chunks_that_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    parts, response_NKD = network(), vectors(30).response_NAD
    whole = parts(response_NKD, torch.zeros(30, 3))
    monkeypatch.setattr(concat, "_CHUNK", 8 * parts.hidden * 7)
    rows: list[int] = []
    real = ConcatMLP._sets

    def counted(self: ConcatMLP, part: Tensor, **kwargs: bool) -> Tensor:
        rows.append(len(part))
        return real(self, part, **kwargs)

    monkeypatch.setattr(ConcatMLP, "_sets", counted)
    chunked = parts(response_NKD, torch.zeros(30, 3))
    assert rows == [7, 7, 7, 7, 2]
    assert_close(chunked.contributions_NK, whole.contributions_NK, rtol=0, atol=1e-6)
    assert parts(response_NKD[:0], torch.zeros(0, 3)).contributions_NK.shape == (0, 3)


@torch.no_grad()
def test_dropping_an_expert_holds_its_vector_at_the_reference() -> None:
    parts, response_NKD = network(), vectors(6).response_NAD
    output = parts.with_edit(WeightEdit(drop=(1,)))(response_NKD, NO_SCORES)
    held = response_NKD.clone()
    held[:, 1] = parts.reference_KD[1]
    np.testing.assert_allclose(output.reward_N.numpy(), plain(parts, held), atol=2e-6)
    np.testing.assert_allclose(output.contributions_NK.numpy(), brute_force(parts, held), atol=2e-6)
    assert torch.equal(output.base_N, parts(response_NKD, NO_SCORES).base_N)


@torch.no_grad()
def test_another_reference_moves_reward_between_base_and_contributions_only() -> None:
    mean, zero = network(), network().with_reference(None)
    response_NKD = vectors(6).response_NAD
    one, other = mean(response_NKD, NO_SCORES), zero(response_NKD, NO_SCORES)
    assert_close(one.reward_N, other.reward_N, rtol=0, atol=2e-6)
    assert float((one.base_N - other.base_N).abs().min()) > 1e-3
    np.testing.assert_allclose(other.contributions_NK.numpy(), brute_force(zero, response_NKD), atol=2e-6)


def test_the_hidden_layer_is_as_wide_as_a_vector_unless_told_otherwise() -> None:
    assert [tuple(p.shape) for p in network().parameters()] == [(16, 48), (16,), (1,), (1, 16), (1,)]
    assert network(hidden=5).hidden == 5
    assert network(2).hidden_size == 16


def test_an_edit_shares_the_layers() -> None:
    parts = network()
    edited = parts.with_edit(WeightEdit(drop=(0,)))
    assert edited.first is parts.first
    assert edited.edit != parts.edit


@pytest.mark.parametrize("edit", [WeightEdit(scale=((0, 2.0),)), WeightEdit(pin=((0, 1.0),))])
def test_a_network_has_no_weight_to_scale_or_to_pin(edit: WeightEdit) -> None:
    with pytest.raises(ModelError, match=r"not defined for this aggregator.*no weight to (scale|pin)"):
        network().with_edit(edit)


def test_bad_parts_are_named() -> None:
    with pytest.raises(ModelError, match=r"9 experts.*2\^9 sets"):
        ConcatMLP(torch.zeros(9, 4))
    with pytest.raises(ModelError, match=r"shape \[4\]"):
        ConcatMLP(torch.zeros(4))
    with pytest.raises(ModelError, match="not finite"):
        ConcatMLP(torch.full((2, 4), float("nan")))
    with pytest.raises(ModelError, match="hidden is 0"):
        ConcatMLP(torch.zeros(2, 4), hidden=0)
    with pytest.raises(ModelError, match=r"first\.weight has shape \[3, 9\]"):
        ConcatMLP(torch.zeros(2, 4), layers=(nn.Linear(9, 3), nn.PReLU(), nn.Linear(3, 1)))
    with pytest.raises(ModelError, match=r"vectors have shape \[6, 3, 16\]"):
        network(2)(vectors(6).response_NAD, torch.zeros(6, 2))
    with pytest.raises(ModelError, match=r"cast to torch\.bfloat16"):
        network().to(torch.bfloat16)(vectors(6).response_NAD, NO_SCORES)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("experts", 2, r"shape \[3, 16\], not \[2, 16\]"),
        ("hidden", "wide", "malformed"),
        ("hidden_size", None, "malformed"),
        ("edit", {"drop": "all"}, "malformed edit"),
        ("edit", {"drop": [], "scale": [[0, 2.0]], "pin": []}, "not defined"),
    ],
)
def test_a_malformed_state_is_refused(key: str, value: object, message: str) -> None:
    tensors, spec = network().state()
    ConcatMLP.from_state(tensors, spec)
    with pytest.raises(ModelError, match=message):
        ConcatMLP.from_state(tensors, {**spec, key: value})


def test_missing_extra_and_broken_tensors_are_refused() -> None:
    tensors, spec = network().state()
    with pytest.raises(ModelError, match=r"'last\.bias' is missing"):
        ConcatMLP.from_state({k: v for k, v in tensors.items() if k != "last.bias"}, spec)
    with pytest.raises(ModelError, match=r"'first\.scale' is unexpected"):
        ConcatMLP.from_state({**tensors, "first.scale": torch.ones(1)}, spec)
    with pytest.raises(ModelError, match=r"'last\.weight' is not finite"):
        ConcatMLP.from_state({**tensors, "last.weight": torch.full((1, 16), float("inf"))}, spec)


def test_training_moves_every_layer() -> None:
    """Two experts' vectors decide by their product's sign, which no sum of single ratings could tell."""
    parts = network(2, seed=4, hidden=24)
    features = vectors(400, 2, seed=9)
    sign_N = torch.sign(features.response_NAD[:, 0, 0] * features.response_NAD[:, 1, 0])
    optimizer = torch.optim.Adam(parts.parameters(), lr=0.02)
    for _ in range(150):
        optimizer.zero_grad()
        loss = nn.functional.softplus(-sign_N * parts.rewards(features, random_tensor(400, 2, seed=1))).mean()
        loss.backward()
        optimizer.step()
    right = (torch.sign(parts.rewards(features, torch.zeros(400, 2))) == sign_N).double().mean()
    assert float(right) > 0.9
