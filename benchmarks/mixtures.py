"""A mixture with random heads, penalties and gate of any size, for benchmarks of time and of bit-for-bit equality."""

from __future__ import annotations

import torch

from facetrm.data.objectives import Objective
from facetrm.model.aggregate import GatedSum
from facetrm.model.experts import LinearExperts
from facetrm.model.gate import Gate, GateShape
from facetrm.model.mixture import Mixture


def random_mixture(*, hidden: int, experts: int, gate_hidden: int, gate_layers: int) -> Mixture:
    """Return a mixture over features of size ``hidden``, with ``experts`` heads and ``gate_layers`` gate layers."""
    torch.manual_seed(0)
    objectives = [Objective(name=f"random-{n}", low=0, high=4) for n in range(experts)]
    heads = LinearExperts(objectives, torch.randn(experts, hidden) / hidden**0.5, torch.full((experts,), 0.5))
    gate = Gate(GateShape(hidden, experts, hidden=gate_hidden, n_hidden=gate_layers))
    penalties_KK = torch.eye(experts) - 0.1 * torch.rand(experts, experts).tril(-1)
    return Mixture(heads, GatedSum(gate, penalties_KK, reference_K=torch.randn(experts)), beta=1.0).eval()
