"""Fixed weightings of the same experts, which the gate must beat to justify itself.

Every baseline is a :class:`Mixture`, so it scores, explains and saves like the real model.

Shapes: N pairs, K experts.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from facetrm.core.errors import FitError
from facetrm.core.statistics import Floats, win_credit
from facetrm.fit.blocks import PairBlocks
from facetrm.fit.gate.fixed import fixed_mixture
from facetrm.fit.gate.unconditional import FixedWeights, fit_beta
from facetrm.fit.pairs import expert_scores
from facetrm.model.kinds import Experts
from facetrm.model.mixture import Mixture


def uniform_mixture(experts: Experts, debias_KK: Tensor, *, reference_K: Tensor | None = None) -> Mixture:
    """Return the plain average of the debiased objectives whose direction is known.

    Args:
        experts: The K experts.
        debias_KK: Debiasing matrix, [K, K].
        reference_K: Scores of a typical answer (the training mean), [K]; None for zeros.

    Raises:
        FitError: No objective has a known direction.
    """
    flags = _open(experts, debias_KK)
    return fixed_mixture(experts, debias_KK, weights_K=flags.astype(float), reference_K=reference_K)


def unconditional_mixture(
    experts: Experts, debias_KK: Tensor, *, fixed: FixedWeights, reference_K: Tensor | None = None
) -> Mixture:
    """Return a mixture with learned weights that do not depend on the prompt.

    Args:
        experts: The K experts.
        debias_KK: Debiasing matrix, [K, K].
        fixed: Learned weights and their scale beta, as in ``GateFit.unconditional``.
        reference_K: Scores of a typical answer (the training mean), [K]; None for zeros.
    """
    return fixed_mixture(experts, debias_KK, weights_K=fixed.weights_K, beta=fixed.beta, reference_K=reference_K)


def best_objective(
    pairs: PairBlocks,
    *,
    experts: Experts,
    debias_KK: Tensor,
    weights: ArrayLike | None = None,
    scores: tuple[Tensor, Tensor] | None = None,
    reference_K: Tensor | None = None,
) -> tuple[str, Mixture]:
    """Return the single debiased objective that orders the most *training* pairs correctly.

    Args:
        pairs: N training pairs.
        experts: The K experts.
        debias_KK: Debiasing matrix, [K, K].
        weights: Weight of each pair, [N]; None for equal weights.
        scores: Scores of the chosen and the rejected answers, each [N, K], to use instead of the experts' own, such as
            cross-fitted ones.
        reference_K: Scores of a typical answer (the training mean), [K]; None for zeros.

    Returns:
        The name of the objective (the first of several equally good ones), and the mixture that uses only it.

    Raises:
        FitError: No objective has a known direction.
    """
    chosen_NK, rejected_NK = expert_scores(experts, pairs) if scores is None else scores
    difference_NK: Floats = ((chosen_NK.double() - rejected_NK.double()) @ debias_KK.double()).numpy()
    w_N = np.ones(len(difference_NK)) if weights is None else np.asarray(weights, dtype=np.float64)
    credit_K = (w_N @ win_credit(difference_NK)) / w_N.sum()
    best = int(np.argmax(np.where(_open(experts, debias_KK), credit_K, -1.0)))
    one_hot: Floats = np.eye(len(credit_K))[best]
    beta = fit_beta(difference_NK[:, best], weights=w_N)
    mixture = fixed_mixture(experts, debias_KK, weights_K=one_hot, beta=beta, reference_K=reference_K)
    return experts.names[best], mixture


def _open(experts: Experts, debias_KK: Tensor) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Return which objectives may have weight: those of known direction that debiasing does not remove."""
    removed = (debias_KK == 0).all(dim=0).tolist()
    flags = np.array([o.gated and not gone for o, gone in zip(experts.objectives, removed, strict=True)])
    if not flags.any():
        raise FitError(
            "no objective has a known direction", place="baselines", fix="declare the direction of at least one"
        )
    return flags
