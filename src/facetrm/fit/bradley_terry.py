"""The linear Bradley-Terry head: the plain reward model on the same features, with no objectives to read.

    minimise over w:   mean_n w_n softplus(-(x_chosen - x_rejected) . w / sd) + ridge / 2 * |w|^2

Shapes: N pairs, D hidden size.

Reference: Bradley and Terry (1952); the head of FsfairX and of every sequence-classification reward model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from pydantic import Field, field_validator
from scipy.optimize import minimize
from scipy.special import expit
from torch import Tensor

from facetrm.backbone.encoder import Features
from facetrm.core.config import Section, Seed
from facetrm.core.errors import FitError
from facetrm.core.statistics import Floats
from facetrm.data.objectives import Objective
from facetrm.fit.gate.fixed import fixed_mixture
from facetrm.fit.pairs import score_pairs
from facetrm.model.experts import LinearExperts
from facetrm.model.mixture import Mixture

PREFERENCE = Objective(
    name="preference",
    low=0.0,
    high=1.0,
    kind="continuous",
    meaning="log odds of being preferred, up to a constant",
    rater="the preference pairs",
    source="bradley-terry",
)


class BradleyTerryConfig(Section):
    """Settings of the linear head.

    Attributes:
        ridges: strengths to choose from, on features divided by the root mean square of their differences.
        folds: prompt-disjoint folds that choose the strength by the loss on the held-out one.
        seed: of the folds.

    Example:
        >>> from facetrm import BradleyTerryConfig
        >>> BradleyTerryConfig(folds=3).folds
        3
    """

    ridges: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 1e1)
    folds: int = Field(default=5, ge=2)
    seed: Seed = 0

    @field_validator("ridges")
    @classmethod
    def _positive(cls, ridges: tuple[float, ...]) -> tuple[float, ...]:
        if not ridges or not all(np.isfinite(ridge) and ridge > 0 for ridge in ridges):
            raise ValueError("give one or more strengths above 0")
        return ridges


@dataclass(frozen=True)
class BradleyTerryFit:
    """The head as a mixture of one expert, the strength chosen, and the held-out loss of each strength."""

    mixture: Mixture
    ridge: float
    losses: dict[float, float]


def fit_bradley_terry(
    chosen: Features,
    rejected: Features,
    *,
    groups: Sequence[str],
    config: BradleyTerryConfig,
    weights: ArrayLike | None = None,
) -> BradleyTerryFit:
    """Fit the head by L2-regularised logistic regression on feature differences, without an intercept.

    Args:
        chosen, rejected: features of N pairs, row by row (one adapter).
        groups: prompt key of each pair; no prompt stands on both sides of a fold.
        config: see :class:`BradleyTerryConfig`.
        weights: of each pair.

    Returns:
        The head, fitted on all pairs with the strength that held-out prompts prefer; its ``beta`` is 1: rewards
        are log odds already.

    Raises:
        FitError: pairs that do not fit together, or fewer prompts than folds.
    """
    hidden = chosen.hidden_size
    blank = LinearExperts([PREFERENCE], torch.zeros(1, hidden), torch.zeros(1))
    pairs = score_pairs(chosen, rejected, experts=blank, groups=groups, weights=weights)
    x_ND = (chosen.response_NAD[:, 0].double() - rejected.response_NAD[:, 0].double()).numpy()
    w_N = pairs.weights_N.double().numpy()
    spread_D = np.sqrt((w_N @ x_ND**2) / w_N.sum())
    spread_D[spread_D <= 1e-12] = np.inf
    z_ND = x_ND / spread_D
    folds_N = _folds(pairs.groups_N, config)
    losses: dict[float, float] = {}
    for ridge in config.ridges:
        total = 0.0
        for fold in range(config.folds):
            held_N = folds_N == fold
            head_D = _fit(z_ND[~held_N], w_N[~held_N], ridge)
            total += float(w_N[held_N] @ np.logaddexp(0.0, -(z_ND[held_N] @ head_D)))
        losses[ridge] = total / float(w_N.sum())
    best = min(sorted(losses, reverse=True), key=lambda ridge: losses[ridge])
    weight_1D = torch.from_numpy(_fit(z_ND, w_N, best) / spread_D)[None]
    return BradleyTerryFit(_mixture(weight_1D, chosen, rejected), best, losses)


def _mixture(weight_1D: Tensor, chosen: Features, rejected: Features) -> Mixture:
    """Return the head as one expert, with its mean over the training answers as the reference."""
    experts = LinearExperts([PREFERENCE], weight_1D.float(), torch.zeros(1))
    with torch.no_grad():
        reference_K = torch.cat([experts(chosen), experts(rejected)]).double().mean(dim=0).float()
    return fixed_mixture(experts, torch.eye(1), weights_K=[1.0], reference_K=reference_K)


def _folds(groups_N: NDArray[np.int64], config: BradleyTerryConfig) -> NDArray[np.int64]:
    """Return the fold of each pair; pairs of one prompt share it."""
    names, codes = np.unique(groups_N, return_inverse=True)
    if len(names) < config.folds:
        raise FitError(
            f"{len(names)} prompts for {config.folds} folds", place="Bradley-Terry head", fix="give more pairs"
        )
    order = np.random.default_rng(config.seed).permutation(len(names))
    return np.asarray((np.argsort(order) % config.folds)[codes], dtype=np.int64)


def _fit(z_ND: Floats, w_N: Floats, ridge: float) -> Floats:
    """Return the minimiser, by L-BFGS in float64."""
    share_N = w_N / w_N.sum()

    def objective(head_D: Floats) -> tuple[float, Floats]:
        margin_N = z_ND @ head_D
        loss = share_N @ np.logaddexp(0.0, -margin_N) + 0.5 * ridge * (head_D @ head_D)
        return float(loss), z_ND.T @ (-share_N * expit(-margin_N)) + ridge * head_D

    found = minimize(objective, np.zeros(z_ND.shape[1]), jac=True, method="L-BFGS-B", options={"maxiter": 2000})
    return np.asarray(found.x, dtype=np.float64)
