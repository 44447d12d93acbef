"""Freezing all of a trunk but one adapter: what is trained is that adapter, whatever was trained before."""

from __future__ import annotations

import pytest
import torch
from torch.nn import Linear

from adapter_samples import NAMES, ROWS, adapted, gap
from facetrm.backbone.lora.switching import switched, train_only
from facetrm.core.errors import BackboneError
from fakes import tiny_decoder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return adapted(tiny_decoder(tmp_path_factory.mktemp("b") / "llama"), layers="last 1")


def trained(encoder) -> set[str]:
    return {name for name, p in encoder.model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("name", NAMES)
def test_one_adapter_is_trained_and_nothing_else(encoder, name):
    encoder.model.requires_grad_(True)
    train_only(encoder.model, name)
    assert trained(encoder) == {key for key, _ in encoder.model.named_parameters() if f".{name}." in key}
    assert len(trained(encoder)) == 2 * 7
    train_only(encoder.model, name)
    assert len(trained(encoder)) == 2 * 7


def test_gradients_reach_that_adapter_alone_and_a_step_moves_no_other(encoder):
    train_only(encoder.model, "code")
    before = {key: tensor.clone() for key, tensor in encoder.model.state_dict().items()}
    optimizer = torch.optim.SGD(encoder.model.parameters(), lr=0.1)
    ids = torch.tensor([encoder.tokenize(ROWS[0]).ids])
    with switched(encoder.model, "code"):
        encoder.model(input_ids=ids, use_cache=False).last_hidden_state[0, -1].sum().backward()
    optimizer.step()
    changed = {key for key, tensor in encoder.model.state_dict().items() if not torch.equal(tensor, before[key])}
    assert changed == trained(encoder)
    assert all(".code." in key for key in changed)
    optimizer.zero_grad()
    read = encoder.encode(ROWS[:3], adapters=NAMES).response_NAD
    encoder.model.load_state_dict(before)
    torch.autograd.graph.increment_version(list(encoder.model.parameters()))
    moved = [gap(read[:, n], encoder.encode(ROWS[:3], adapters=NAMES).response_NAD[:, n]) for n in range(len(NAMES))]
    assert moved[NAMES.index("code")] > 0
    assert [m for n, m in enumerate(moved) if NAMES[n] != "code"] == [0, 0]


def test_an_unknown_adapter_changes_nothing(encoder):
    train_only(encoder.model, "math")
    before = trained(encoder)
    with pytest.raises(BackboneError, match="no adapter 'maths'; name some of code, math, style-2"):
        train_only(encoder.model, "maths")
    assert trained(encoder) == before


def test_adapters_stand_side_by_side_and_not_in_each_other(encoder):
    """The released code wraps the model anew for each capability, one layer deeper each time."""
    layer = encoder.model.layers[-1].self_attn.q_proj
    assert type(layer.base_layer) is Linear
    assert set(layer.lora_A) == set(NAMES)
