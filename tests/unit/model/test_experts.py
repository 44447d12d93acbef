"""LinearExperts against the formula, the length expert, and save/load."""

from __future__ import annotations

import json
import math

import pytest
import torch

from facetrm.backbone.encoder import Features
from facetrm.core.errors import DataError, ModelError
from facetrm.data.objectives import Objective
from facetrm.model.experts import LengthScale, LinearExperts

OBJECTIVES = (
    Objective(name="a-help", low=0, high=4),
    Objective(name="a-verbosity", low=0, high=4),
    Objective(name="b-safe", low=0, high=1, kind="boolean"),
)


def features(n: int = 5, d: int = 7, adapters: int = 1, dtype: torch.dtype = torch.float32) -> Features:
    draw = torch.Generator().manual_seed(3)
    length = torch.arange(1, n + 1) * 10
    return Features(
        torch.randn(n, d, generator=draw),
        torch.randn(n, adapters, d, generator=draw).to(dtype),
        length,
        length + 4,
        torch.zeros(n, dtype=torch.bool),
    )


def experts(length: LengthScale | None = None) -> LinearExperts:
    draw = torch.Generator().manual_seed(5)
    weight, bias = torch.randn(3, 7, generator=draw), torch.randn(3, generator=draw)
    return LinearExperts(OBJECTIVES, weight, bias, length=length)


def test_scores_are_the_linear_formula() -> None:
    part, given = experts(), features()
    scores = part(given)
    for n in range(5):
        for k in range(3):
            expected = float(part.weight_KD[k].double() @ given.response_NAD[n, 0].double() + part.bias_K[k].double())
            assert float(scores[n, k]) == pytest.approx(expected, abs=1e-5)
    assert part.names == ("a-help", "a-verbosity", "b-safe")
    assert part(Features.empty(7)).shape == (0, 3)


def test_computes_in_float32_whatever_the_features() -> None:
    given = features(dtype=torch.bfloat16)
    scores = experts()(given)
    assert scores.dtype == torch.float32
    exact = given.response_NAD[:, 0].double() @ experts().weight_KD.double().T + experts().bias_K.double()
    assert torch.allclose(scores.double(), exact, atol=1e-5)


def test_heads_cast_away_from_float32_are_refused() -> None:
    with pytest.raises(ModelError, match=r"cast to torch\.bfloat16"):
        experts().to(torch.bfloat16)(features())


def test_nothing_of_it_trains() -> None:
    assert list(experts().parameters()) == []
    assert set(experts().state_dict()) == {"weight_KD", "bias_K"}


def test_length_is_the_last_column() -> None:
    part = experts(LengthScale(low=10, high=50))
    scores = part(features())
    assert part.names[-1] == "length"
    assert scores.shape == (5, 4)
    assert scores[:, -1].tolist() == pytest.approx([0.0, 0.25, 0.5, 0.75, 1.0])
    assert torch.equal(scores[:, :3], experts()(features()))
    assert not part.objectives[-1].gated


def test_length_objective_reads_back_tokens() -> None:
    scale = LengthScale(low=10, high=50)
    assert scale.objective().from_unit(float(scale.to_unit(torch.tensor([70]))[0])) == pytest.approx(70)
    log = LengthScale(low=10, high=50, log=True)
    assert float(log.to_unit(torch.tensor([10]))[0]) == pytest.approx(0, abs=1e-7)
    assert log.objective().from_unit(float(log.to_unit(torch.tensor([30]))[0])) == pytest.approx(math.log(31), abs=1e-6)
    short = LengthScale(low=10, high=50, direction="lower")
    assert short.to_unit(torch.tensor([10, 50])).tolist() == [1.0, 0.0]
    assert short.objective().from_unit(0.25) == pytest.approx(40)


def test_covering_takes_the_outer_quantiles() -> None:
    scale = LengthScale.covering(torch.arange(101))
    assert (scale.low, scale.high) == (1.0, 99.0)
    constant = LengthScale.covering(torch.full((4,), 7))
    assert constant.high > constant.low
    with pytest.raises(ModelError, match="no response lengths"):
        LengthScale.covering(torch.zeros(0))


@pytest.mark.parametrize("length", [None, LengthScale(low=3, high=9, log=True, direction="lower")])
def test_state_round_trip_is_bit_equal(length: LengthScale | None) -> None:
    part = experts(length)
    tensors, spec = part.state()
    again = LinearExperts.from_state(tensors, json.loads(json.dumps(spec)))
    assert again.names == part.names
    assert again.objectives == part.objectives
    assert torch.equal(again(features()), part(features()))


def test_bad_parts_are_refused() -> None:
    weight, bias = torch.ones(3, 7), torch.ones(3)
    with pytest.raises(ModelError, match="for 3 objectives"):
        LinearExperts(OBJECTIVES, weight[:2], bias)
    with pytest.raises(ModelError, match="not finite"):
        LinearExperts(OBJECTIVES, weight * float("nan"), bias)
    with pytest.raises(DataError, match="declared twice"):
        LinearExperts([OBJECTIVES[0]] * 3, weight, bias)
    with pytest.raises(DataError, match="length"):
        LinearExperts([Objective(name="length", low=0, high=1)], weight[:1], bias[:1], length=LengthScale())
    with pytest.raises(ModelError, match=r"\[N, 1, D\]"):
        experts()(features(adapters=2))
    with pytest.raises(ModelError, match=r"\[N, 7\]"):
        experts()(features(d=6))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("kind", "adapter", "'adapter'"),
        ("objectives", [{"name": "x", "low": 1, "high": 0}], "below high"),
        ("objectives", 3, "malformed"),
        ("length", {"low": 3, "high": 1}, "below high"),
    ],
)
def test_bad_specs_are_refused(key: str, value: object, message: str) -> None:
    tensors, spec = experts().state()
    with pytest.raises(ModelError, match=message):
        LinearExperts.from_state(tensors, {**spec, key: value})
    with pytest.raises(ModelError, match="bias_K"):
        LinearExperts.from_state({"weight_KD": tensors["weight_KD"]}, spec)
