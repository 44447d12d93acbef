"""A small gated model on a tiny decoder, with every part that an export has to carry."""

from __future__ import annotations

from pathlib import Path

import torch

from facetrm.backbone.transformer import BackboneConfig, TransformerEncoder, load_encoder
from facetrm.data.objectives import Objective
from facetrm.model.aggregate import GatedSum, WeightEdit
from facetrm.model.experts import LengthScale, LinearExperts
from facetrm.model.gate import Gate, GateShape
from facetrm.model.mixture import Mixture
from facetrm.model.reward_model import RewardModel
from fakes import tiny_decoder

SIZE = 32


def encoder(folder: Path, *, style: str = "llama3", pad: str | None = None) -> TransformerEncoder:
    """Return a tiny decoder that is written to ``folder`` first, if it is not there."""
    if not folder.exists():
        tiny_decoder(folder, style=style, pad=pad)
    return load_encoder(BackboneConfig(path=str(folder), device="cpu"))


def mixture(*, edit: WeightEdit | None = None, shape: GateShape | None = None, seed: int = 0) -> Mixture:
    """Return four heads with intercepts and a length expert under a gate, penalties, units and a reference."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        objectives = [
            Objective(
                name=f"objective-{k}", low=0, high=4, direction="unknown" if k == 2 else "higher", source="made up"
            )
            for k in range(4)
        ]
        length = LengthScale(low=2, high=50, log=True, direction="lower")
        experts = LinearExperts(objectives, 0.3 * torch.randn(4, SIZE), torch.randn(4), length=length)
        gate = Gate(shape or GateShape(SIZE, 5, hidden=8, n_hidden=2, rank=6), gated=[True, True, False, True, True])
        state = gate.state_dict()
        state |= {name: 0.4 * torch.randn_like(t) for name, t in state.items() if t.is_floating_point()}
        state["unit_K"] = 0.5 + torch.rand(5)
        gate.load_state_dict(state)
        debias_KK = torch.eye(5)
        debias_KK[4, :4] -= torch.rand(4)
        aggregator = GatedSum(gate, debias_KK, reference_K=torch.rand(5), edit=edit)
    return Mixture(experts, aggregator, beta=3.0)


def model(folder: Path, **kwargs: object) -> RewardModel:
    """Return the model on a decoder that is kept in ``folder``."""
    return RewardModel(encoder(folder), {"all": mixture(**kwargs)})  # type: ignore[arg-type]
