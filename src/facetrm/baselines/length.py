"""The longer answer wins: the baseline that shows how much length explains."""

from __future__ import annotations

import torch

from facetrm.fit.gate.fixed import fixed_mixture
from facetrm.model.experts import LengthScale, LinearExperts
from facetrm.model.mixture import Mixture


def longer_mixture(hidden_size: int) -> Mixture:
    """Return a mixture whose reward is the response's length: one unit per 1,024 tokens.

    Args:
        hidden_size: Hidden size D of the features. The mixture ignores their vectors.
    """
    scale = LengthScale(low=0.0, high=1024.0, direction="higher")
    experts = LinearExperts([], torch.zeros(0, hidden_size), torch.zeros(0), length=scale)
    return fixed_mixture(experts, torch.eye(1), weights_K=[1.0])
