"""Ensembles: combine the rewards of several models, trained with different seeds, into one conservative reward.

    z_mn         = (r_mn - mean_m) / deviation_m        over a reference set, so that all members count equally
    mean         = mean_m z_mn
    worst        = min_m z_mn                            worst-case optimisation
    uncertainty  = mean_m z_mn - penalty * var_m z_mn    uncertainty-weighted optimisation

Shapes: M members, N answers.

Reference: Coste et al., Reward Model Ensembles Help Mitigate Overoptimization (arXiv 2310.02743).
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from facetrm.core.errors import FitError
from facetrm.core.statistics import Floats

EnsembleKind = Literal["mean", "worst", "uncertainty"]


def ensemble_rewards(
    rewards_MN: Floats, *, reference_MR: Floats, kind: EnsembleKind = "mean", penalty: float = 0.5
) -> Floats:
    """Return one reward per answer, [N].

    Args:
        rewards_MN: Reward of each answer by each member, [M, N].
        reference_MR: Reward of each of R reference answers by each member, [M, R]. They give each member's mean and
            standard deviation; training answers are a good choice.
        kind: How the members' rewards are combined.
        penalty: Weight of the variance, for ``uncertainty``.

    Raises:
        FitError: There are fewer than two members, the shapes do not match, or a member gives all reference answers the
            same reward.
    """
    rewards, reference = np.asarray(rewards_MN, dtype=np.float64), np.asarray(reference_MR, dtype=np.float64)
    if rewards.ndim != 2 or reference.ndim != 2 or len(rewards) != len(reference) or len(rewards) < 2:
        raise FitError(
            f"rewards of shape {rewards.shape} with a reference of shape {reference.shape}",
            place="ensemble",
            fix="give both one row per member, and at least two members",
        )
    deviation_M = reference.std(axis=1)
    if not (np.isfinite(deviation_M).all() and (deviation_M > 0).all()):
        member = int(np.argmin(np.where(np.isfinite(deviation_M), deviation_M, -1.0)))
        raise FitError(f"member {member} gives all answers the same reward", place="ensemble", fix="train it again")
    z_MN = (rewards - reference.mean(axis=1, keepdims=True)) / deviation_M[:, None]
    if kind == "worst":
        return np.asarray(z_MN.min(axis=0))
    mean_N = z_MN.mean(axis=0)
    return np.asarray(mean_N - penalty * z_MN.var(axis=0) if kind == "uncertainty" else mean_N)
