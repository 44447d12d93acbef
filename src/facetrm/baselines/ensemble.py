"""Ensembles: several reward models of one kind, which differ by their seed, made one conservative reward.

    z_mn         = (r_mn - mean_m) / deviation_m        over a reference set, so that members count alike
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
    """Return one reward for each of N answers, [N].

    Args:
        rewards_MN: of each member.
        reference_MR: of each member on R reference answers, such as those of training: they give mean and deviation.
        kind: how members are joined.
        penalty: weight of the variance, for ``uncertainty``.

    Raises:
        FitError: fewer than two members, members that do not fit together, or a member that gives one reward to all.
    """
    rewards, reference = np.asarray(rewards_MN, dtype=np.float64), np.asarray(reference_MR, dtype=np.float64)
    if rewards.ndim != 2 or reference.ndim != 2 or len(rewards) != len(reference) or len(rewards) < 2:
        raise FitError(
            f"rewards of shape {rewards.shape} with a reference of shape {reference.shape}",
            place="ensemble",
            fix="give one row per member in both, and two members or more",
        )
    deviation_M = reference.std(axis=1)
    if not (np.isfinite(deviation_M).all() and (deviation_M > 0).all()):
        member = int(np.argmin(np.where(np.isfinite(deviation_M), deviation_M, -1.0)))
        raise FitError(f"member {member} gives one reward to all", place="ensemble", fix="train it again")
    z_MN = (rewards - reference.mean(axis=1, keepdims=True)) / deviation_M[:, None]
    if kind == "worst":
        return np.asarray(z_MN.min(axis=0))
    mean_N = z_MN.mean(axis=0)
    return np.asarray(mean_N - penalty * z_MN.var(axis=0) if kind == "uncertainty" else mean_N)
