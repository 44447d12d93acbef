"""Where the network of DMoERM's third phase starts: as the best weighted sum of the experts' ratings, or at random.

    f = sum_k v_k (w_k . z_k)    as units +-(w_k . z_k), since x = (PReLU(x) - PReLU(-x)) / (1 + slope)

Shapes: N pairs, D hidden size, K experts, H units.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from facetrm.core.config import Section, Seed
from facetrm.core.errors import FitError
from facetrm.core.statistics import Floats
from facetrm.fit.gate.unconditional import FixedWeights, fit_unconditional
from facetrm.fit.pairs import ScoredPairs
from facetrm.model.adapter_experts import AdapterExperts
from facetrm.model.concat import ConcatMLP


class ConcatConfig(Section):
    """Settings of the third phase; the defaults suit a few hundred pairs per task.

    Attributes:
        hidden: Hidden units H; D by default, as published.
        start: ``ratings`` starts as a weighted sum of the experts' ratings, ``random`` as published.
        standardise: Train on vectors that are centred and scaled per dimension; the published code does not.
        ridges: Strengths to choose from by prompt-disjoint folds of the training part. They pull the weights of that
            sum toward equal ones, in units of the ratings' spread.
        folds: Number of these folds, and of the cross-validation below.
        few: With fewer held-out prompts than this, ``folds`` networks judge each other's prompts, and a last one is
            trained on all prompts up to the step that they chose. 0 always uses one split.
        steps: Steps of AdamW, with the learning rate on a cosine.
        batch_size: Pairs per step, drawn with replacement; 0 takes all pairs.
        learning_rate: Learning rate.
        weight_decay: Weight decay.
        evaluate_every: Steps between evaluations.
        patience: Evaluations without a new best before training stops; 0 never stops early.
        validation: Share of the prompts to hold out; they choose the state that is kept.
        select: Keep the state with the lowest held-out ``loss`` or the highest held-out ``accuracy``.
        gain: Standard errors of the paired per-prompt difference by which that state must beat the start; otherwise
            the start is kept. 0 keeps the best state however small its gain.
        seed: Random seed of split, initial values and batches.

    Example:
        >>> from facetrm import ConcatConfig
        >>> ConcatConfig(hidden=64).start
        'ratings'
    """

    hidden: int | None = Field(default=None, ge=1)
    start: Literal["ratings", "random"] = "ratings"
    standardise: bool = True
    ridges: tuple[float, ...] = Field(default=(1e-3, 1e-2, 1e-1, 1.0, 10.0), min_length=1)
    folds: int = Field(default=5, ge=2)
    few: int = Field(default=50, ge=0)
    steps: int = Field(default=200, ge=0)
    batch_size: int = Field(default=128, ge=0)
    learning_rate: float = Field(default=1e-3, gt=0.0)
    weight_decay: float = Field(default=0.1, ge=0.0)
    evaluate_every: int = Field(default=10, ge=1)
    patience: int = Field(default=8, ge=0)
    validation: float = Field(default=0.2, gt=0.0, lt=1.0)
    select: Literal["accuracy", "loss"] = "loss"
    gain: float = Field(default=1.0, ge=0.0)
    seed: Seed = 0


def started_network(
    config: ConcatConfig, experts: AdapterExperts, spread_KD: Tensor, pairs: ScoredPairs, inner: Tensor
) -> tuple[ConcatMLP, Floats | None]:
    """Return the network before its first step, and the weights of the sum that it computes then.

    Args:
        config: Settings.
        experts: The K experts.
        spread_KD: What each dimension of the vectors was divided by.
        pairs: Ratings of all pairs.
        inner: Rows to fit the sum on.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = ConcatMLP(torch.zeros(spread_KD.shape), hidden=config.hidden)
    if config.start == "random":
        return network, None
    fixed = _sum_of_ratings(pairs.select(inner.numpy()), config)
    weights_K = fixed.weights_K * fixed.beta
    start_as_sum(network, experts.weight_KD.double() * spread_KD, torch.from_numpy(weights_K))
    return network, weights_K


def folds_of(groups_N: NDArray[Any], folds: int) -> NDArray[np.int64]:
    """Return the fold of each pair, [N]; no prompt is in two folds.

    Args:
        groups_N: Prompt of each pair; groups are in the order of their prompts' hashes.
        folds: Number of folds.
    """
    return np.searchsorted(np.unique(groups_N), groups_N) % folds


def _sum_of_ratings(pairs: ScoredPairs, config: ConcatConfig) -> FixedWeights:
    """Return the best weighted sum of the ratings, pulled as strongly as held-out folds of prompts prefer."""
    gap_NK = (pairs.chosen_NK.double() - pairs.rejected_NK.double()).numpy()
    w_N = pairs.weights_N.double().numpy()
    names, fold_N = np.unique(pairs.groups_N), folds_of(pairs.groups_N, config.folds)

    def fitted(rows: NDArray[np.bool_], ridge: float) -> FixedWeights:
        gated = [True] * gap_NK.shape[1]
        return fit_unconditional(gap_NK[rows], gated=gated, weights=w_N[rows], ridge=ridge, toward="equal")

    def loss(ridge: float) -> float:
        total = 0.0
        for fold in range(config.folds):
            out = fold_N == fold
            found = fitted(~out, ridge)
            total += float(w_N[out] @ np.logaddexp(0.0, -found.beta * (gap_NK[out] @ found.weights_K)))
        return total

    ridge = config.ridges[-1] if len(names) < config.folds else min(config.ridges, key=loss)
    return fitted(np.ones(len(gap_NK), dtype=bool), ridge)


@torch.no_grad()
def start_as_sum(network: ConcatMLP, weight_KD: Tensor, weights_K: Tensor) -> None:
    """Set ``network`` to ``f = sum_k weights_k (weight_k . z_k)``; its other units add nothing yet, but can learn.

    Args:
        network: of K experts and H >= 2 K units.
        weight_KD: the heads.
        weights_K: weights of the sum.

    Raises:
        FitError: too few units.
    """
    size, units = network.size, network.hidden
    if units < 2 * size:
        raise FitError(
            f"{units} units cannot hold the sum of {size} ratings",
            place="concat.hidden",
            fix=f"give {2 * size} or more, or start: random",
        )
    slope = float(network.rectifier.weight[0])
    columns_HKD = network.first.weight.reshape(units, size, -1)
    network.first.bias[: 2 * size] = 0.0
    columns_HKD[: 2 * size] = 0.0
    network.last.weight.zero_()
    network.last.bias.zero_()
    for k in range(size):
        norm = float(weight_KD[k].norm().clamp_min(1e-12))
        for unit, sign in ((2 * k, 1.0), (2 * k + 1, -1.0)):
            columns_HKD[unit, k] = (sign * weight_KD[k] / norm).float()
            network.last.weight[0, unit] = sign * float(weights_K[k]) * norm / (1.0 + slope)
