"""The linear Bradley-Terry head: a plain reward model on the same features, without objectives.

    minimise over w:   mean_n w_n softplus(-(x_chosen - x_rejected) . w / sd) + ridge / 2 * |w|^2

Shapes: N pairs, D hidden size.

Reference: Bradley and Terry (1952); the head of FsfairX and of other sequence-classification reward models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from pydantic import Field, field_validator
from scipy.optimize import minimize
from scipy.special import expit
from torch import Tensor

from facetrm.backbone.encoder import Features, Layer
from facetrm.core.config import Section, Seed
from facetrm.core.errors import FitError
from facetrm.core.statistics import Floats
from facetrm.core.threads import few_blas_threads
from facetrm.data.objectives import Objective
from facetrm.fit.blocks import PairBlocks, VectorFile, Vectors, gather, row_blocks
from facetrm.fit.gate.fixed import fixed_mixture
from facetrm.fit.pairs import expert_scores, score_pairs
from facetrm.model.experts import LinearExperts
from facetrm.model.mixture import Mixture

_PLACE: Final = "Bradley-Terry head"

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
        ridges: ridge strengths to choose from, for features divided by the root mean square of their differences.
        folds: number of cross-validation folds that choose the strength by held-out loss; all pairs of a prompt are in
            one fold.
        seed: random seed of the folds.

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
    """A fitted Bradley-Terry head.

    Attributes:
        mixture: the head as a mixture with one expert.
        ridge: ridge strength that was chosen.
        losses: mean held-out Bradley-Terry loss of each ridge strength, in nats.
    """

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
        chosen: features of the chosen answers of N pairs, with one adapter.
        rejected: features of the rejected answers, in the same order.
        groups: prompt key of each pair, [N]; all pairs of a prompt are in one fold.
        config: settings of the head.
        weights: weight of each pair, [N], 0 or more; None for equal weights.

    Returns:
        The head, fitted on all pairs with the ridge strength that has the lowest held-out loss. Its ``beta`` is 1,
        because its rewards are already log odds.

    Raises:
        FitError: inputs with different numbers of rows, two answers with different prompts, a feature that is not
            finite, or fewer prompts than folds.
    """
    score_pairs(chosen, rejected, experts=_blank(chosen), groups=groups, weights=weights)
    return fit_bradley_terry_blocks(_Whole(chosen, rejected), groups=groups, config=config, weights=weights)


def fit_bradley_terry_blocks(
    pairs: PairBlocks,
    *,
    groups: Sequence[str],
    config: BradleyTerryConfig,
    weights: ArrayLike | None = None,
    folder: Path | None = None,
) -> BradleyTerryFit:
    """Fit the head block by block. The feature differences go to a temporary file if they are too large for memory.

    Args:
        pairs: N pairs, with one adapter.
        groups: prompt key of each pair, [N]; all pairs of a prompt are in one fold.
        config: settings of the head.
        weights: weight of each pair, [N], 0 or more; None for equal weights.
        folder: folder of the temporary file; None for the system's temporary folder.

    Returns:
        The head, as from :func:`fit_bradley_terry`.

    Raises:
        FitError: no pair, a feature that is not finite, or fewer prompts than folds.
    """
    if not len(pairs) or len(groups) != len(pairs):
        raise FitError(
            f"{len(pairs)} pairs, {len(groups)} prompt groups", place=_PLACE, fix="give one of each per pair"
        )
    w_N = (torch.ones(len(pairs)) if weights is None else torch.as_tensor(np.asarray(weights))).float().double().numpy()
    _, codes = np.unique(np.asarray(groups), return_inverse=True)
    folds_N = _folds(codes.astype(np.int64), config)
    read: list[Layer] = []
    x_ND = gather(_differences(pairs, read), rows=len(pairs), folder=folder)
    spread_D = np.sqrt(_squares(x_ND, w_N) / w_N.sum())
    spread_D[spread_D <= 1e-12] = np.inf
    fit = _in_memory(x_ND.numpy(), spread_D) if isinstance(x_ND, Tensor) else _from_file(x_ND, spread_D)
    losses: dict[float, float] = {}
    for ridge in config.ridges:
        total = 0.0
        for fold in range(config.folds):
            held_N = folds_N == fold
            head_D = fit(w_N, ~held_N, ridge)
            total += _held_loss(x_ND, head_D / spread_D, w_N, held_N)
        losses[ridge] = total / float(w_N.sum())
    best = min(sorted(losses, reverse=True), key=lambda ridge: losses[ridge])
    everyone_N = np.ones(len(pairs), dtype=bool)
    weight_1D = torch.from_numpy(fit(w_N, everyone_N, best) / spread_D)[None]
    return BradleyTerryFit(_mixture(weight_1D, pairs, w_N, read[-1]), best, losses)


@dataclass(frozen=True)
class _Whole:
    """Pairs in memory, as one block."""

    chosen: Features
    rejected: Features

    def __len__(self) -> int:
        return len(self.chosen)

    def blocks(self) -> Iterator[tuple[Features, Features]]:
        yield self.chosen, self.rejected


def _blank(features: Features) -> LinearExperts:
    size = features.hidden_size
    return LinearExperts([PREFERENCE], torch.zeros(1, size), torch.zeros(1), layers=[features.highest])


def _differences(pairs: PairBlocks, read: list[Layer]) -> Iterator[Tensor]:
    """Yield the differences of the highest layer in the features, block by block; ``read`` receives its name."""
    start = 0
    for chosen, rejected in pairs.blocks():
        read.append(chosen.highest)
        x_ND = chosen.response().double() - rejected.response().double()
        bad = torch.nonzero(~torch.isfinite(x_ND).all(dim=1)).flatten().tolist()
        if bad:
            raise FitError(f"features of pair {start + bad[0]} are not finite", place=_PLACE, fix="encode it again")
        start += len(chosen)
        yield x_ND


def _mixture(weight_1D: Tensor, pairs: PairBlocks, w_N: Floats, layer: Layer) -> Mixture:
    """Return the head as a mixture with one expert; its reference is the weighted mean training score."""
    experts = LinearExperts([PREFERENCE], weight_1D.float(), torch.zeros(1), layers=[layer])
    weights_N, (chosen_NK, rejected_NK) = torch.from_numpy(w_N).double(), expert_scores(experts, pairs)
    total_K = weights_N @ (chosen_NK.double() + rejected_NK.double())
    reference_K = (total_K / (2.0 * weights_N.sum())).float()
    return fixed_mixture(experts, torch.eye(1), weights_K=[1.0], reference_K=reference_K)


def _folds(groups_N: NDArray[np.int64], config: BradleyTerryConfig) -> NDArray[np.int64]:
    """Return the fold of each pair, [N]; pairs of one prompt are in the same fold."""
    names, codes = np.unique(groups_N, return_inverse=True)
    if len(names) < config.folds:
        raise FitError(f"{len(names)} prompts for {config.folds} folds", place=_PLACE, fix="give more pairs")
    order = np.random.default_rng(config.seed).permutation(len(names))
    return np.asarray((np.argsort(order) % config.folds)[codes], dtype=np.int64)


_Fit: TypeAlias = Callable[[Floats, NDArray[np.bool_], float], Floats]
"""Function from pair weights, a mask of the pairs to fit on and a ridge strength to a head on scaled differences."""


def _in_memory(x_ND: Floats, spread_D: Floats) -> _Fit:
    z_ND = x_ND / spread_D

    def fit(w_N: Floats, rows_N: NDArray[np.bool_], ridge: float) -> Floats:
        share_N = w_N[rows_N] / w_N[rows_N].sum()
        z_RD = z_ND[rows_N]

        def objective(head_D: Floats) -> tuple[float, Floats]:
            margin_N = z_RD @ head_D
            loss = share_N @ np.logaddexp(0.0, -margin_N) + 0.5 * ridge * (head_D @ head_D)
            return float(loss), z_RD.T @ (-share_N * expit(-margin_N)) + ridge * head_D

        with few_blas_threads(z_RD.size):
            return _minimised(objective, z_ND.shape[1])

    return fit


def _from_file(x_ND: VectorFile, spread_D: Floats) -> _Fit:
    """Return a fit that reads the differences once per optimiser step; pairs outside the mask have weight 0."""

    def fit(w_N: Floats, rows_N: NDArray[np.bool_], ridge: float) -> Floats:
        share_N = np.where(rows_N, w_N, 0.0) / w_N[rows_N].sum()

        def objective(head_D: Floats) -> tuple[float, Floats]:
            loss, slope_D = 0.5 * ridge * float(head_D @ head_D), ridge * head_D
            for rows, block in row_blocks(x_ND):
                z_BD = block.numpy() / spread_D
                margin_B = z_BD @ head_D
                loss += float(share_N[rows] @ np.logaddexp(0.0, -margin_B))
                slope_D = slope_D + z_BD.T @ (-share_N[rows] * expit(-margin_B))
            return loss, slope_D

        return _minimised(objective, x_ND.shape[1])

    return fit


def _minimised(objective: Callable[[Floats], tuple[float, Floats]], hidden: int) -> Floats:
    """Return the minimiser of ``objective``, found with L-BFGS in float64."""
    found = minimize(objective, np.zeros(hidden), jac=True, method="L-BFGS-B", options={"maxiter": 2000})
    return np.asarray(found.x, dtype=np.float64)


def _squares(x_ND: Vectors, w_N: Floats) -> Floats:
    total_D = np.zeros(x_ND.shape[1])
    for rows, block in row_blocks(x_ND):
        total_D = total_D + w_N[rows] @ block.numpy() ** 2
    return total_D


def _held_loss(x_ND: Vectors, weight_D: Floats, w_N: Floats, held_N: NDArray[np.bool_]) -> float:
    total = 0.0
    for rows, block in row_blocks(x_ND):
        here = held_N[rows]
        total += float(w_N[rows][here] @ np.logaddexp(0.0, -(block.numpy()[here] @ weight_D)))
    return total
