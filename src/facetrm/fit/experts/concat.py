"""The network on all experts' vectors, fitted to overall preferences: DMoERM's third phase.

    r_n = f(z_n1 .. z_nK)       f: see :mod:`facetrm.model.concat`
    minimise  mean over pairs of w softplus(-(r_chosen - r_rejected))

Experts and adapters are frozen, so their vectors are read once. The network is trained on vectors that are centred and
scaled per dimension, and these steps are then folded into its first layer. With ``start: ratings`` it starts as the
best weighted sum of the experts' own ratings,

    f = sum_k v_k (w_k . z_k)    as units +-(w_k . z_k), since x = (PReLU(x) - PReLU(-x)) / (1 + slope)

with v >= 0 from :func:`facetrm.fit.gate.unconditional.fit_unconditional`, pulled toward equal weights (experts are
few and point up, pairs are noisy) as strongly as held-out folds want it; the other units start with output weight 0.
Training leaves that sum only if it clearly gains on held-out prompts (:mod:`facetrm.fit.experts.keep`); with few of
them, folds judge each other. ``start: random`` is the published one.

Shapes: N pairs, D hidden size, K experts, H units.

Reference: DMoERM (arXiv 2403.01197), phase 3. We differ: prompts that no expert was trained on (the released code's
capability labels hold them too), the best state by held-out loss with the better answer above (there it is the worst
by accuracy), softplus instead of a logarithm of a sigmoid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from facetrm.backbone.encoder import Features
from facetrm.core.errors import FitError
from facetrm.core.statistics import Floats, win_credit
from facetrm.fit.experts.concat_start import ConcatConfig, folds_of, started_network
from facetrm.fit.experts.keep import KeepDecision, decide_kept
from facetrm.fit.gate.unconditional import fit_beta
from facetrm.fit.loop import Schedule, train
from facetrm.fit.losses import bradley_terry_loss
from facetrm.fit.pairs import ScoredPairs, hold_out, score_pairs
from facetrm.model.adapter_experts import AdapterExperts
from facetrm.model.concat import ConcatMLP


@dataclass(frozen=True)
class ConcatFit:
    """A fitted network.

    Attributes:
        aggregator: The network, ready for a mixture.
        beta: Scale from reward to log odds, fitted on held-out margins.
        accuracy: Accuracy on the pairs of ``train`` and ``validation``.
        start: ``validation`` accuracy before the first step.
        loss: Held-out loss of the network that was kept, in nats per prompt.
        start_loss: Held-out loss before the first step.
        weights_K: Weights of the sum that training started from; None for a random start.
        best_step: Step of the state that was kept.
        decision: How clearly training beat the start.
        folds: Number of folds; 1 for a single split.
        history: Held-out loss and accuracy at each evaluation.
        counts: Pairs trained on and held out.
    """

    aggregator: ConcatMLP
    beta: float
    accuracy: dict[str, float]
    start: float
    loss: float
    start_loss: float
    weights_K: Floats | None
    best_step: int
    decision: KeepDecision
    folds: int
    history: list[dict[str, float]]
    counts: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-ready figures, without the tensors."""
        names = ("beta", "accuracy", "start", "loss", "start_loss", "best_step", "folds", "history", "counts")
        weights = None if self.weights_K is None else self.weights_K.tolist()
        return {**{name: getattr(self, name) for name in names}, **self.decision.to_dict(), "weights": weights}


@dataclass(frozen=True)
class _Part:
    """One network and its margins of the held-out pairs at every look."""

    network: ConcatMLP
    begin: dict[str, Tensor]
    mean_KD: Tensor
    center_KD: Tensor
    spread_KD: Tensor
    weights_K: Floats | None
    margin_SN: dict[int, Floats]


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
        chosen: Features of the N chosen answers, with the K adapters in the experts' order.
        rejected: Features of the N rejected answers, in the same order.
        experts: The K experts, frozen.
        groups: Prompt key of each pair; no prompt is on both sides of a split.
        config: Settings, see :class:`ConcatConfig`.
        weights: Weight of each pair.

    Returns:
        The network, whose reference is the mean vector of the training answers, and its report.

    Raises:
        FitError: Pairs that do not fit together, only one prompt, or features that are not finite.

    Example:
        >>> import torch
        >>> from facetrm import AdapterExperts, ConcatConfig, World, fit_concat_mlp, toy_model
        >>> encoder, pairs = toy_model().encoder, list(World().preferences(12, part="gate"))
        >>> chosen, rejected = encoder.encode([p.chosen for p in pairs]), encoder.encode([p.rejected for p in pairs])
        >>> head_KD, bias_K = torch.randn(1, encoder.hidden_size), torch.zeros(1)
        >>> experts = AdapterExperts(World.objectives[:1], head_KD, bias_K, adapters=["chat"])
        >>> keys = [p.prompt_key for p in pairs]
        >>> fit = fit_concat_mlp(chosen, rejected, experts=experts, groups=keys, config=ConcatConfig(steps=10))
        >>> fit.decision.prompts
        12

    Reference: DMoERM (arXiv 2403.01197), phase 3.
    """
    pairs = score_pairs(chosen, rejected, experts=experts, groups=groups, weights=weights)
    sides_NKD = [side.response_NAD.double() for side in (chosen, rejected)]
    if not all(bool(torch.isfinite(side).all()) for side in sides_NKD):
        raise FitError("a vector is not finite", place="concatenated experts", fix="encode the pairs again")
    outer = _held_out(pairs, config)
    folds = len(outer)
    parts = [_trained(sides_NKD, pairs, experts, config, rows, stops=folds == 1) for rows in outer]
    judged = _judged(parts, outer, pairs, config)
    step, part = judged.steps[judged.decision.look], parts[0]
    if folds > 1:
        none = torch.empty(0, dtype=torch.int64)
        part = _trained(sides_NKD, pairs, experts, config, none, stops=False, until=step)
    network = part.network
    if step == 0:
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                parameter.copy_(part.begin[name])
    inner = _others(len(pairs.groups_N), outer[0]) if folds == 1 else torch.arange(len(pairs.groups_N))
    trained_on = _margins(network, [_scaled(side[inner], part.center_KD, part.spread_KD) for side in sides_NKD])
    return ConcatFit(
        aggregator=_folded(network, part),
        weights_K=part.weights_K,
        best_step=step,
        folds=folds,
        counts={"train": len(inner), "validation": sum(map(len, outer))},
        **judged.figures(train=_accuracy(trained_on, pairs.weights_N[inner])),
    )


@dataclass(frozen=True)
class _Judged:
    """Held-out figures at the looks that all parts took, and the look that is kept."""

    steps: list[int]
    margin_SN: Floats
    weights_N: Floats
    loss_S: Floats
    accuracy_S: Floats
    decision: KeepDecision

    def figures(self, *, train: float) -> dict[str, Any]:
        """Return the figures of a fit whose accuracy on its training pairs is ``train``."""
        look, w_N = self.decision.look, self.weights_N
        right = [
            float(win_credit(margin_N) @ w_N / w_N.sum()) for margin_N in (self.margin_SN[0], self.margin_SN[look])
        ]
        rows = zip(self.steps, self.loss_S.tolist(), self.accuracy_S.tolist(), strict=True)
        return {
            "beta": fit_beta(self.margin_SN[look], weights=w_N, log_odds=True),
            "accuracy": {"train": train, "validation": right[1]},
            "start": right[0],
            "loss": float(self.loss_S[look]),
            "start_loss": float(self.loss_S[0]),
            "decision": self.decision,
            "history": [
                {"step": float(n), "validation_loss": loss, "validation_accuracy": share} for n, loss, share in rows
            ],
        }


def _held_out(pairs: ScoredPairs, config: ConcatConfig) -> list[Tensor]:
    """Return the rows that are held out: of one split, or of each fold if one split holds out too few prompts."""
    held_N = hold_out(pairs.groups_N, config.validation, seed=config.seed)
    few = len(np.unique(pairs.groups_N[held_N])) < config.few
    if not few or len(np.unique(pairs.groups_N)) < 2 * config.folds:
        return [torch.from_numpy(np.flatnonzero(held_N))]
    fold_N = folds_of(pairs.groups_N, config.folds)
    return [torch.from_numpy(np.flatnonzero(fold_N == fold)) for fold in range(config.folds)]


def _others(count: int, rows: Tensor) -> Tensor:
    """Return the rows up to ``count`` that are not among ``rows``."""
    inside_N = torch.ones(count, dtype=torch.bool)
    inside_N[rows] = False
    return inside_N.nonzero()[:, 0]


def _judged(parts: Sequence[_Part], outer: Sequence[Tensor], pairs: ScoredPairs, config: ConcatConfig) -> _Judged:
    """Return the held-out figures of all parts side by side, and the decision between their looks."""
    steps = sorted(set.intersection(*(set(part.margin_SN) for part in parts)))
    margin_SN = np.stack([np.concatenate([part.margin_SN[step] for part in parts]) for step in steps])
    held = pairs.select(torch.cat(list(outer)).numpy())
    loss_SP, accuracy_SP = (_by_prompt(values(margin_SN), held) for values in (_losses, win_credit))
    share_P = np.bincount(_prompt_codes(held), weights=held.weights_N.double().numpy()).astype(np.float64)
    share_P /= share_P.sum()
    decision = decide_kept(
        loss_SP if config.select == "loss" else 1.0 - accuracy_SP,
        errors=config.gain,
        folds_P=None if len(parts) == 1 else _fold_of_prompts(held, [len(rows) for rows in outer]),
        weights_P=share_P,
    )
    weights_N = held.weights_N.double().numpy()
    return _Judged(steps, margin_SN, weights_N, loss_SP @ share_P, accuracy_SP @ share_P, decision)


def _trained(
    sides_NKD: Sequence[Tensor],
    pairs: ScoredPairs,
    experts: AdapterExperts,
    config: ConcatConfig,
    outer: Tensor,
    *,
    stops: bool,
    until: int | None = None,
) -> _Part:
    """Train one network on all pairs but ``outer`` and leave it in its best state, or in that of step ``until``."""
    inner = _others(len(pairs.groups_N), outer)
    mean_KD, spread_KD = _typical([side[inner] for side in sides_NKD], pairs.weights_N[inner])
    center_KD = mean_KD
    if not config.standardise:
        center_KD, spread_KD = torch.zeros_like(mean_KD), torch.ones_like(spread_KD)
    scaled = [_scaled(side, center_KD, spread_KD) for side in sides_NKD]
    network, weights_K = started_network(config, experts, spread_KD, pairs, inner)
    begin = {name: p.detach().clone() for name, p in network.named_parameters()}
    seen: list[Floats] = []

    def evaluate() -> float:
        margin_N = _margins(network, [side[outer] for side in scaled])
        seen.append(margin_N.double().numpy())
        weights_N = pairs.weights_N[outer]
        if config.select == "accuracy":
            return 1.0 - _accuracy(margin_N, weights_N)
        return float(bradley_terry_loss(margin_N, weights_N))

    def loss(rows: Tensor | slice) -> Tensor:
        at = inner[rows]
        return bradley_terry_loss(_margins(network, [side[at] for side in scaled]), pairs.weights_N[at])

    schedule = {field.name: getattr(config, field.name) for field in fields(Schedule)}
    if not stops:
        schedule["patience"] = 0
    steps: list[int] = []
    if until != 0:
        progress = train(
            network,
            Schedule(**schedule),
            rows=len(inner),
            loss=loss,
            evaluate=evaluate if until is None else None,
            stop=until,
        )
        steps = [int(row["step"]) for row in progress.history]
    return _Part(network, begin, mean_KD, center_KD, spread_KD, weights_K, dict(zip(steps, seen, strict=True)))


def _scaled(side_NKD: Tensor, center_KD: Tensor, spread_KD: Tensor) -> Tensor:
    return ((side_NKD - center_KD) / spread_KD).float()


def _margins(network: ConcatMLP, sides_NKD: Sequence[Tensor]) -> Tensor:
    return _rewards(network, sides_NKD[0]) - _rewards(network, sides_NKD[1])


def _losses(margin_SN: Floats) -> Floats:
    return np.asarray(np.logaddexp(0.0, -margin_SN))


def _by_prompt(values_SN: Floats, pairs: ScoredPairs) -> Floats:
    """Return the weighted mean of each prompt's pairs, in the order in which the prompts occur, [S, P]."""
    code_N = _prompt_codes(pairs)
    w_N = pairs.weights_N.double().numpy()
    whole_P = np.maximum(np.bincount(code_N, weights=w_N), 1e-300)
    return np.stack([np.bincount(code_N, weights=w_N * row) / whole_P for row in values_SN])


def _prompt_codes(pairs: ScoredPairs) -> NDArray[np.int64]:
    _, first, code_N = np.unique(pairs.groups_N, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[code_N.ravel()]


def _fold_of_prompts(pairs: ScoredPairs, sizes: Sequence[int]) -> list[int]:
    """Return the fold of each prompt; the pairs of a fold stand together, ``sizes`` of them."""
    fold_N = np.repeat(np.arange(len(sizes)), sizes)
    code_N = _prompt_codes(pairs)
    fold_P = np.empty(int(code_N.max()) + 1, dtype=np.int64)
    fold_P[code_N] = fold_N
    return [int(fold) for fold in fold_P]


def _typical(sides_NKD: Sequence[Tensor], weights_N: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and deviation of both sides' vectors by dimension, [K, D] each; ``weights_N`` are the pairs'.

    Pairs of a group sum to one weight, so its answers count once however many pairs they stand in.
    """
    share_N11 = (weights_N.double() / (2.0 * weights_N.double().sum()))[:, None, None]
    center_KD = torch.stack([(share_N11 * side).sum(dim=0) for side in sides_NKD]).sum(dim=0)
    square_KD = torch.stack([(share_N11 * (side - center_KD) ** 2).sum(dim=0) for side in sides_NKD]).sum(dim=0)
    return center_KD, square_KD.sqrt().clamp_min(1e-6 * float(square_KD.mean()) ** 0.5 + 1e-12)


def _rewards(network: ConcatMLP, response_NKD: Tensor) -> Tensor:
    """Return only the rewards of vectors, [N]."""
    hidden_NH = network.rectifier(network.first(response_NKD.flatten(1)))
    reward_N: Tensor = network.last(hidden_NH)[:, 0]
    return reward_N


@torch.no_grad()
def _folded(network: ConcatMLP, part: _Part) -> ConcatMLP:
    """Return the network on vectors as they are read, with the mean vector as its reference."""
    first, rectifier, last = network.first, network.rectifier, network.last
    weight_HKD = first.weight.double() / part.spread_KD.flatten()
    bias_H = first.bias.double() - weight_HKD @ part.center_KD.flatten()
    first.weight.copy_(weight_HKD.float())
    first.bias.copy_(bias_H.float())
    return ConcatMLP(part.mean_KD.float(), layers=(first, rectifier, last))


@torch.no_grad()
def _accuracy(margin_N: Tensor, weights_N: Tensor) -> float:
    w_N = weights_N.double().numpy()
    return float(win_credit(margin_N.detach().double().numpy()) @ w_N / w_N.sum())
