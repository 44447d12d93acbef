"""A mixture whose weights no prompt changes.

Shapes: K experts.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from facetrm.core.errors import FitError
from facetrm.model.aggregate import GatedSum
from facetrm.model.gate import Gate, GateShape
from facetrm.model.kinds import Experts
from facetrm.model.mixture import Mixture


def fixed_mixture(
    experts: Experts,
    debias_KK: Tensor,
    *,
    weights_K: ArrayLike,
    beta: float = 1.0,
    reference_K: Tensor | None = None,
) -> Mixture:
    """Return a mixture whose weights no prompt changes.

    Args:
        experts: the K raters.
        debias_KK: T.
        weights_K: >= 0, scaled to sum to 1; an objective of weight 0 gets exactly 0.
        beta: see :class:`Mixture`.
        reference_K: see :class:`GatedSum`.

    Raises:
        FitError: weights that are not K finite numbers >= 0 of which one is positive.
    """
    w_K = np.asarray(weights_K, dtype=np.float64)
    if w_K.shape != (len(experts.names),) or not np.isfinite(w_K).all() or (w_K < 0).any() or not w_K.any():
        raise FitError(
            f"weights of shape {list(w_K.shape)} for {len(experts.names)} experts, or not finite, or below 0",
            place="fixed weights",
            fix="give one number >= 0 per expert, not all 0",
        )
    gate = Gate(GateShape(experts.hidden_size, len(w_K), hidden=0, n_hidden=0), gated=(w_K > 0).tolist())
    with torch.no_grad():
        gate.bias_K.copy_(torch.from_numpy(np.log(np.where(w_K > 0, w_K, 1.0))).float())
    return Mixture(experts, GatedSum(gate, debias_KK, reference_K=reference_K), beta=beta)
