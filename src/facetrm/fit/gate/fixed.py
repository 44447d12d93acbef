"""Mixtures whose weights do not depend on the prompt.

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
    """Return a mixture whose weights do not depend on the prompt.

    Args:
        experts: the K experts.
        debias_KK: debiasing matrix T, [K, K].
        weights_K: weight of each expert, [K], 0 or more. They are scaled to sum to 1; a weight of 0 stays 0.
        beta: factor that turns a reward margin into log odds.
        reference_K: scores of the reference answer, [K], from which contributions are measured; None for zeros.

    Raises:
        FitError: weights that are not K finite numbers of 0 or more, or that are all 0.
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
