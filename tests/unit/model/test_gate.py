from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from facetrm.core.errors import ModelError
from facetrm.model.gate import Gate, GateShape
from preferences import HIDDEN, random_tensor


def gate(**shape: object) -> Gate:
    torch.manual_seed(3)
    return Gate(GateShape(HIDDEN, 5, **shape)).eval()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "shape", [{}, {"hidden": 7, "n_hidden": 3, "temperature": 10.0}, {"rank": 4}, {"hidden": 0, "n_hidden": 0}]
)
def test_weights_are_distributions(shape: dict[str, object]) -> None:
    weights_NK = gate(**shape)(random_tensor(50, HIDDEN, seed=0))
    assert weights_NK.shape == (50, 5)
    assert weights_NK.dtype == torch.float32
    assert bool((weights_NK >= 0).all())
    assert_close(weights_NK.sum(-1), torch.ones(50))


def test_equal_prompts_get_equal_weights_and_other_prompts_other_ones() -> None:
    prompt_ND = random_tensor(3, HIDDEN, seed=1)
    weights_NK = gate()(torch.cat([prompt_ND, prompt_ND]))
    assert torch.equal(weights_NK[:3], weights_NK[3:])
    assert float((weights_NK[0] - weights_NK[1]).detach().abs().max()) > 1e-3


def test_every_layer_gets_a_gradient_from_a_pair_with_one_prompt() -> None:
    """The released script normalises over chosen and rejected, so its layers get none."""
    network = gate(hidden=16, n_hidden=3)
    weights_NK = network(random_tensor(8, HIDDEN, seed=2))
    chosen_NK, rejected_NK = random_tensor(8, 5, seed=3), random_tensor(8, 5, seed=4)
    torch.nn.functional.softplus(-((chosen_NK - rejected_NK) * weights_NK).sum(-1)).mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None
        assert float(parameter.grad.abs().max()) > 1e-6, name


def test_a_closed_choice_gets_exactly_nothing() -> None:
    network = Gate(GateShape(HIDDEN, 3), gated=[True, False, True])
    with torch.no_grad():
        network.bias_K[1] = 100.0
    weights_NK = network(random_tensor(20, HIDDEN, seed=0))
    assert torch.equal(weights_NK[:, 1], torch.zeros(20))
    assert_close(weights_NK.sum(-1), torch.ones(20))


def test_temperature_flattens() -> None:
    sharp, flat = gate(temperature=0.1), gate(temperature=10.0)
    prompt_ND = random_tensor(20, HIDDEN, seed=5)
    assert_close((sharp(prompt_ND).log() * 0.1).diff(), (flat(prompt_ND).log() * 10.0).diff(), rtol=1e-3, atol=1e-4)
    assert float(sharp(prompt_ND).detach().max()) > float(flat(prompt_ND).detach().max()) + 0.1


def test_projection_is_what_the_network_reads() -> None:
    network = gate(rank=2)
    network.center_D.fill_(0.5)
    network.spread_D.fill_(2.0)
    prompt_ND = random_tensor(4, HIDDEN, seed=6)
    assert_close(network.project(prompt_ND), (prompt_ND[:, :2] - 0.5) * 2.0)


def test_unconditional_gate_ignores_the_prompt() -> None:
    network = gate(hidden=0, n_hidden=0)
    with torch.no_grad():
        network.bias_K.copy_(torch.tensor([0.0, 1.0, 2.0, 0.0, 0.0]))
    weights_NK = network(random_tensor(4, HIDDEN, seed=7))
    assert torch.equal(weights_NK[0], weights_NK[3])
    assert_close(weights_NK[0], torch.softmax(torch.tensor([0.0, 1.0, 2.0, 0.0, 0.0]), 0))


def test_state_returns_an_equal_gate() -> None:
    network = Gate(GateShape(HIDDEN, 3, rank=5, temperature=2.0), gated=[True, False, True])
    network.center_D.copy_(random_tensor(HIDDEN, seed=8))
    again = Gate.from_state(*network.state()).eval()
    prompt_ND = random_tensor(9, HIDDEN, seed=9)
    assert torch.equal(again(prompt_ND), network.eval()(prompt_ND))


@pytest.mark.parametrize(
    ("shape", "word"),
    [
        ({"choices": 0}, "choices"),
        ({"hidden": 0, "n_hidden": 2}, "n_hidden"),
        ({"temperature": 0.0}, "temperature"),
        ({"dropout": 1.0}, "dropout"),
        ({"rank": 99}, "rank"),
    ],
)
def test_impossible_shapes_are_named(shape: dict[str, object], word: str) -> None:
    with pytest.raises(ModelError, match=word):
        GateShape(**{"hidden_size": HIDDEN, "choices": 3, **shape})  # type: ignore[arg-type]


def test_wrong_use_is_named() -> None:
    with pytest.raises(ModelError, match="cannot give weight to any objective"):
        Gate(GateShape(HIDDEN, 2), gated=[False, False])
    with pytest.raises(ModelError, match="3 flags for 2"):
        Gate(GateShape(HIDDEN, 2), gated=[True, True, True])
    with pytest.raises(ModelError, match=r"\[4, 3\]"):
        gate()(torch.zeros(4, 3))
