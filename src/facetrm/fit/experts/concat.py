"""The network on all experts' vectors, fitted to overall preferences: DMoERM's third phase.

    r_n = f(z_n1 .. z_nK)       f: see :mod:`facetrm.model.concat`
    minimise  mean over pairs of w softplus(-(r_chosen - r_rejected))

Experts and adapters are frozen, so their vectors are read once. The network is trained on vectors that are centred and
scaled by dimension, and these steps are then folded into its first layer. With ``start: ratings`` it begins as the best
weighted sum of the experts' own ratings,

    f = sum_k v_k (w_k . z_k)    as units +-(w_k . z_k), since x = (PReLU(x) - PReLU(-x)) / (1 + slope)

with v >= 0 from :func:`facetrm.fit.gate.unconditional.fit_unconditional`, pulled toward equal weights (experts are
few and point up, pairs are noisy) as strongly as held-out folds want it; the other units begin with output weight 0.
Training may leave that sum where held-out prompts agree. ``start: random`` is the published one.

Shapes: N pairs, D hidden size, K experts, H units.

Reference: DMoERM (arXiv 2403.01197), phase 3. We differ: prompts that no expert was trained on (the released code's
capability labels hold them too), the best state by held-out accuracy with the better answer above (there it is the
worst), softplus instead of a logarithm of a sigmoid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from pydantic import Field
from torch import Tensor

from facetrm.backbone.encoder import Features
from facetrm.core.config import Section, Seed
from facetrm.core.errors import FitError
from facetrm.core.statistics import Floats, win_credit
from facetrm.fit.experts.adapters import gained
from facetrm.fit.gate.unconditional import FixedWeights, fit_beta, fit_unconditional
from facetrm.fit.loop import Schedule, train
from facetrm.fit.losses import bradley_terry_loss
from facetrm.fit.pairs import ScoredPairs, hold_out, score_pairs
from facetrm.model.adapter_experts import AdapterExperts
from facetrm.model.concat import ConcatMLP


class ConcatConfig(Section):
    """Settings of the third phase; the defaults suit a few hundred pairs a task.

    Attributes:
        hidden: H; D by default, as published.
        start: ``ratings`` begins as a weighted sum of the experts' ratings, ``random`` as published.
        ridges: strengths to choose from by prompt-disjoint folds of the training part; they pull the weights of that
            sum toward equal ones, in units of the ratings' spread.
        folds: how many.
        steps, batch_size (with replacement; 0 for all pairs), learning_rate, weight_decay: AdamW, down a cosine.
        evaluate_every: steps between evaluations.
        patience: evaluations without a new best before it stops; 0 for never.
        validation: share of the prompts that are held out: they choose the state that is kept.
        select: the state with the best ``accuracy`` or ``loss`` on them; of equal ones the earlier.
        gain: with ``accuracy``, standard errors by which it must beat the start, else the start stays; 0 for any gain.
        seed: random seed of split, initial values and batches.
    """

    hidden: int | None = Field(default=None, ge=1)
    start: Literal["ratings", "random"] = "ratings"
    ridges: tuple[float, ...] = Field(default=(1e-3, 1e-2, 1e-1, 1.0, 10.0), min_length=1)
    folds: int = Field(default=5, ge=2)
    steps: int = Field(default=200, ge=0)
    batch_size: int = Field(default=128, ge=0)
    learning_rate: float = Field(default=1e-3, gt=0.0)
    weight_decay: float = Field(default=0.1, ge=0.0)
    evaluate_every: int = Field(default=10, ge=1)
    patience: int = Field(default=8, ge=0)
    validation: float = Field(default=0.2, gt=0.0, lt=1.0)
    select: Literal["accuracy", "loss"] = "accuracy"
    gain: float = Field(default=1.0, ge=0.0)
    seed: Seed = 0


@dataclass(frozen=True)
class ConcatFit:
    """A fitted network.

    Attributes:
        aggregator: ready for a mixture.
        beta: fitted on held-out margins.
        accuracy: ``train`` and ``validation``.
        start: ``validation`` accuracy before the first step.
        weights_K: weights of the sum that training began with; None for a random start.
        best_step: step of the state that was kept.
        history: one row per evaluation.
        counts: pairs trained on and held out.
    """

    aggregator: ConcatMLP
    beta: float
    accuracy: dict[str, float]
    start: float
    weights_K: Floats | None
    best_step: int
    history: list[dict[str, float]]
    counts: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-ready figures, without the tensors."""
        names = ("beta", "accuracy", "start", "best_step", "history", "counts")
        weights = None if self.weights_K is None else self.weights_K.tolist()
        return {**{name: getattr(self, name) for name in names}, "weights": weights}


def fit_concat_mlp(
    chosen: Features,
    rejected: Features,
    *,
    experts: AdapterExperts,
    groups: Sequence[str],
    config: ConcatConfig,
    weights: ArrayLike | None = None,
) -> ConcatFit:
    """Fit the network on preference pairs whose answers the experts' adapters have read.

    Args:
        chosen: features of the N chosen answers, with the K adapters in the experts' order.
        rejected: features of the N rejected answers, in the same order.
        experts: the K raters, frozen.
        groups: prompt key of each pair; no prompt stands on both sides of the validation split.
        config: see :class:`ConcatConfig`.
        weights: weights of each pair.

    Returns:
        The network, whose reference is the mean vector of the training answers, and its report.

    Raises:
        FitError: pairs that do not fit together, one prompt only, or features that are not finite.

    Reference: DMoERM (arXiv 2403.01197), phase 3.
    """
    pairs = score_pairs(chosen, rejected, experts=experts, groups=groups, weights=weights)
    sides_NKD = [side.response_NAD.double() for side in (chosen, rejected)]
    if not all(bool(torch.isfinite(side).all()) for side in sides_NKD):
        raise FitError("a vector is not finite", place="concatenated experts", fix="encode the pairs again")
    held_N = hold_out(pairs.groups_N, config.validation, seed=config.seed)
    inner, outer = (torch.from_numpy(np.flatnonzero(rows)) for rows in (~held_N, held_N))
    center_KD, spread_KD = _typical([side[inner] for side in sides_NKD], pairs.weights_N[inner])
    scaled = [((side - center_KD) / spread_KD).float() for side in sides_NKD]
    network, weights_K = _started(config, experts, spread_KD, pairs, inner)

    def margin(rows: Tensor) -> Tensor:
        sides = [_rewards(network, side[rows]) for side in scaled]
        return sides[0] - sides[1]

    def evaluate() -> float:
        margin_N, w_N = margin(outer), pairs.weights_N[outer]
        if config.select == "loss":
            return float(bradley_terry_loss(margin_N, w_N))
        return 1.0 - _accuracy(margin_N, w_N)

    with torch.no_grad():
        start = _accuracy(margin(outer), pairs.weights_N[outer])
        begin = {name: p.clone() for name, p in network.named_parameters()}
    progress = train(
        network,
        Schedule(**{field.name: getattr(config, field.name) for field in fields(Schedule)}),
        rows=len(inner),
        loss=lambda rows: bradley_terry_loss(margin(inner[rows]), pairs.weights_N[inner[rows]]),
        evaluate=evaluate,
    )
    with torch.no_grad():
        best_step, best = progress.best_step, _accuracy(margin(outer), pairs.weights_N[outer])
        if config.select == "accuracy" and not gained(
            best, start, held=len(np.unique(pairs.groups_N[outer.numpy()])), errors=config.gain
        ):
            best_step = 0
            for name, parameter in network.named_parameters():
                parameter.copy_(begin[name])
        margins = {name: margin(rows) for name, rows in (("train", inner), ("validation", outer))}
    outer_weights = pairs.weights_N[outer].double().numpy()
    return ConcatFit(
        aggregator=_folded(network, center_KD, spread_KD),
        beta=fit_beta(margins["validation"].double().numpy(), weights=outer_weights, log_odds=True),
        accuracy={
            "train": _accuracy(margins["train"], pairs.weights_N[inner]),
            "validation": _accuracy(margins["validation"], pairs.weights_N[outer]),
        },
        start=start,
        weights_K=weights_K,
        best_step=best_step,
        history=progress.history,
        counts={"train": len(inner), "validation": len(outer)},
    )


def _started(
    config: ConcatConfig, experts: AdapterExperts, spread_KD: Tensor, pairs: ScoredPairs, inner: Tensor
) -> tuple[ConcatMLP, Floats | None]:
    """Return the network before its first step, and the weights of the sum that it then is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = ConcatMLP(torch.zeros(spread_KD.shape), hidden=config.hidden)
    if config.start == "random":
        return network, None
    fixed = _sum_of_ratings(pairs.select(inner.numpy()), config)
    weights_K = fixed.weights_K * fixed.beta
    start_as_sum(network, experts.weight_KD.double() * spread_KD, torch.from_numpy(weights_K))
    return network, weights_K


def _typical(sides_NKD: Sequence[Tensor], weights_N: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and deviation of both sides' vectors by dimension, [K, D] each; ``weights_N`` are the pairs'.

    Pairs of a group sum to one weight, so its answers count once however many pairs they stand in.
    """
    share_N11 = (weights_N.double() / (2.0 * weights_N.double().sum()))[:, None, None]
    center_KD = torch.stack([(share_N11 * side).sum(dim=0) for side in sides_NKD]).sum(dim=0)
    square_KD = torch.stack([(share_N11 * (side - center_KD) ** 2).sum(dim=0) for side in sides_NKD]).sum(dim=0)
    return center_KD, square_KD.sqrt().clamp_min(1e-6 * float(square_KD.mean()) ** 0.5 + 1e-12)


def _sum_of_ratings(pairs: ScoredPairs, config: ConcatConfig) -> FixedWeights:
    """Return the best weighted sum of the ratings, pulled as strongly as held-out folds of prompts prefer."""
    gap_NK = (pairs.chosen_NK.double() - pairs.rejected_NK.double()).numpy()
    w_N = pairs.weights_N.double().numpy()
    names = np.unique(pairs.groups_N)
    fold_N = np.searchsorted(names, pairs.groups_N) % config.folds  # groups are in the order of their prompts' hashes

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


def _rewards(network: ConcatMLP, response_NKD: Tensor) -> Tensor:
    """Return only the rewards of vectors, [N]."""
    hidden_NH = network.rectifier(network.first(response_NKD.flatten(1)))
    reward_N: Tensor = network.last(hidden_NH)[:, 0]
    return reward_N


@torch.no_grad()
def _folded(network: ConcatMLP, center_KD: Tensor, spread_KD: Tensor) -> ConcatMLP:
    """Return the network on vectors as they come, with their mean as its reference."""
    first, rectifier, last = network.first, network.rectifier, network.last
    weight_HKD = first.weight.double() / spread_KD.flatten()
    bias_H = first.bias.double() - weight_HKD @ center_KD.flatten()
    first.weight.copy_(weight_HKD.float())
    first.bias.copy_(bias_H.float())
    return ConcatMLP(center_KD.float(), layers=(first, rectifier, last))


def _accuracy(margin_N: Tensor, weights_N: Tensor) -> float:
    w_N = weights_N.double().numpy()
    return float(win_credit(margin_N.detach().double().numpy()) @ w_N / w_N.sum())
