"""A tiny untrained reward model that replaces a large one in examples, tests and tutorials."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from facetrm.backbone.config import BackboneConfig
from facetrm.backbone.tiny import TinyShape, tiny_decoder
from facetrm.backbone.transformer import TransformerEncoder
from facetrm.data.objectives import Objective
from facetrm.data.world import vocabulary
from facetrm.model.aggregate import GatedSum
from facetrm.model.experts import LinearExperts
from facetrm.model.gate import Gate, GateShape
from facetrm.model.mixture import Mixture
from facetrm.model.reward_model import RewardModel


def toy_model(objectives: Sequence[str] = ("helpful", "honest", "verbose"), *, seed: int = 0) -> RewardModel:
    """Return a model with a random backbone (hidden size 32), random heads, and a gate with equal weights.

    It knows the words of :class:`~facetrm.data.world.world.World`. Its scores are meaningless.

    Args:
        objectives: Names of the K heads.
        seed: Random seed.

    Example:
        >>> from facetrm import World, toy_model
        >>> pair = next(World().preferences(1))
        >>> score = toy_model().score([pair.chosen])[0]
        >>> sorted(score.contributions)
        ['helpful', 'honest', 'verbose']
    """
    shape = TinyShape(hidden=32, layers=2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        decoder, tokenizer = tiny_decoder(vocabulary(), shape=shape)
        weight_KD = torch.randn(len(objectives), shape.hidden)
    encoder = TransformerEncoder(decoder, tokenizer, config=BackboneConfig(path="toy", device="cpu"))
    experts = LinearExperts(
        [Objective(name=name, low=0, high=4) for name in objectives], weight_KD, torch.zeros(len(objectives))
    )
    gate = Gate(GateShape(shape.hidden, len(objectives), hidden=0, n_hidden=0))
    return RewardModel(encoder, {"all": Mixture(experts, GatedSum(gate))})
