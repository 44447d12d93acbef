"""A reward model on a tiny decoder whose experts read different layers, and rows to score."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from facetrm.backbone.encoder import Layer
from facetrm.backbone.transformer import BackboneConfig, TransformerEncoder, load_encoder
from facetrm.data.objectives import Objective
from facetrm.model.aggregate import GatedSum
from facetrm.model.experts import LengthScale, LinearExperts
from facetrm.model.gate import Gate, GateShape
from facetrm.model.mixture import Mixture
from facetrm.model.reward_model import RewardModel
from fakes import tiny_decoder
from preferences import random_tensor

SIZE = 32
READS: tuple[Layer, ...] = (1, "last", 1)


def encoder(folder: Path, mode: str = "exact") -> TransformerEncoder:
    if not folder.exists():
        tiny_decoder(folder)
    return load_encoder(BackboneConfig(path=str(folder), device="cpu", mode=mode))  # type: ignore[arg-type]


def mixture(reads: Sequence[Layer] | None = READS, *, seed: int = 0) -> Mixture:
    """Return three linear experts that read the layers ``reads``, and a length expert, with a random gate."""
    torch.manual_seed(seed)
    objectives = [Objective(name=f"test-{name}", low=0, high=4) for name in ("helpful", "honest", "wordy")]
    weight_KD = 0.2 * random_tensor(3, SIZE, seed=seed)
    experts = LinearExperts(objectives, weight_KD, torch.full((3,), 0.5), length=LengthScale(), layers=reads)
    gate = Gate(GateShape(SIZE, 4), gated=[o.gated for o in experts.objectives])
    return Mixture(experts, GatedSum(gate, reference_K=random_tensor(4, seed=9)), beta=3.0)


def model(folder: Path, reads: Sequence[Layer] | None = READS, *, mode: str = "exact") -> RewardModel:
    return RewardModel(encoder(folder, mode), {"all": mixture(reads)})
