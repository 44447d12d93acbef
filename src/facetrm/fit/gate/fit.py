"""Stage 2: fit the gate with the Bradley-Terry loss on preferences, on the rewards that the model returns in use.

    minimise   mean_n softplus(-beta * (reward_chosen - reward_rejected))
               + kl * KL(weights || unconditional) + entropy * KL(weights || uniform)

beta is trained with the gate. Afterwards it is fitted on held-out pairs and stored; it turns margins into P(A > B).

On small data a plain gate overfits its training pairs. Four things prevent that: the gate reads a few whitened
directions of the prompt vector (principal components, or those that tell tasks apart best); it starts from the best
unconditional weights and is regularised towards them; training stops early; and held-out prompts choose a factor for
the prompt-dependent part of the logits (factor 0 restores the unconditional weights).

Shapes: N pairs, D hidden size, R gate input size, K objectives.

Reference: ArmoRM (arXiv 2406.12845), section 3.2. We add all of the above, and validation on other prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from facetrm.backbone.encoder import Features
from facetrm.core.fingerprint import fingerprint
from facetrm.core.statistics import Floats, win_credit
from facetrm.fit.blocks import row_blocks
from facetrm.fit.gate.config import GateConfig
from facetrm.fit.gate.input import GateInput, gate_projection
from facetrm.fit.gate.unconditional import FixedWeights, fit_beta, fit_unconditional
from facetrm.fit.loop import Progress, Schedule, train
from facetrm.fit.losses import bradley_terry_loss, divergence, weighted_mean
from facetrm.fit.pairs import ScoredPairs, hold_out, score_pairs
from facetrm.fit.projection import Projection
from facetrm.model.aggregate import GatedSum
from facetrm.model.gate import Gate, GateShape
from facetrm.model.kinds import Experts

__all__ = ["GateConfig", "GateFit", "fit_gate", "fit_scored_gate"]


_LEAST_SPREAD: Final = 0.01


@dataclass(frozen=True)
class GateFit:
    """A fitted gate and the figures of its fit.

    Attributes:
        gate: fitted gate, for a :class:`GatedSum` with the debiasing matrix of the fit.
        beta: factor that turns reward margins into log odds, fitted on held-out pairs.
        reference_K: mean scores of all training answers, [K]; each answer has the weight of its pair.
        unconditional: best weights that do not depend on the prompt, fitted on the same pairs.
        blend: factor on the prompt-dependent part of the logits that held-out prompts chose.
        best_step: training step of the state that was kept.
        history: training and validation loss at each evaluation.
        accuracy: share of pairs in the right order, by part; ``PART.unconditional`` is that of the unconditional
            weights. Without ``refit`` the parts are ``train`` and ``validation`` (held-out prompts). With ``refit`` the
            returned gate is trained on all pairs (``train``). The parts ``before_refit.train`` and
            ``before_refit.validation`` then belong to the gate that chose step and blend, not to the returned one.
        loss: Bradley-Terry loss at the fitted beta, in nats, by the same parts.
        pairs: number of pairs trained on before the refit, number held out, and number of prompts.
    """

    gate: Gate
    beta: float
    reference_K: Tensor
    unconditional: FixedWeights
    blend: float
    best_step: int
    history: list[dict[str, float]]
    accuracy: dict[str, float]
    loss: dict[str, float]
    pairs: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-ready report, without the tensors."""
        names = ("beta", "blend", "best_step", "history", "accuracy", "loss", "pairs")
        return {name: copy(getattr(self, name)) for name in names}


def fit_gate(
    chosen: Features,
    rejected: Features,
    *,
    experts: Experts,
    debias_KK: Tensor,
    groups: Sequence[str],
    config: GateConfig,
    weights: ArrayLike | None = None,
    scores: tuple[Tensor, Tensor] | None = None,
    tasks: Sequence[str | None] | None = None,
    checkpoint: Path | None = None,
) -> GateFit:
    """Fit the gate on preference pairs.

    Args:
        chosen: features of the N chosen answers.
        rejected: features of the N rejected answers, in the same order.
        experts: the K experts of stage 1; they are not changed.
        debias_KK: debiasing matrix T, [K, K]; an objective whose column is zero (such as verbosity) gets no weight.
        groups: prompt key of each pair, [N]; all pairs of a prompt are on the same side of the validation split.
        config: settings of the gate and its training.
        weights: weight of each pair, [N], 0 or more; None for equal weights.
        scores: cross-fitted scores of the chosen and the rejected answers, [N, K] each, from heads that were not
            trained on the prompt; None scores them with ``experts``.
        tasks: task of each pair, [N], for ``directions: tasks``; None where it is not known. The first task that the
            pairs of a prompt name is that of the prompt.
        checkpoint: file from which a killed run resumes, with the same result; None for no file.

    Returns:
        The gate, all that a :class:`~facetrm.model.mixture.Mixture` needs with it, and the figures of the fit.

    Raises:
        FitError: inputs with different numbers of rows, features that are not finite, fewer than two prompts, fewer
            than two tasks for ``directions: tasks``, or a checkpoint of another run.

    Example:
        >>> import torch
        >>> from facetrm import GateConfig, World, fit_gate, toy_model
        >>> model, pairs = toy_model(), list(World().preferences(40))
        >>> read = [model.features([p.chosen for p in pairs]), model.features([p.rejected for p in pairs])]
        >>> with_what = {"experts": model.mixtures["all"].experts, "debias_KK": torch.eye(3)}
        >>> config, groups = GateConfig(steps=5, rank=4), [pair.prompt_key for pair in pairs]
        >>> fit_gate(*read, **with_what, groups=groups, config=config).beta > 0
        True
    """
    pairs = score_pairs(chosen, rejected, experts=experts, groups=groups, weights=weights, scores=scores, tasks=tasks)
    return fit_scored_gate(pairs, experts=experts, debias_KK=debias_KK, config=config, checkpoint=checkpoint)


def fit_scored_gate(
    pairs: ScoredPairs,
    *,
    experts: Experts,
    debias_KK: Tensor,
    config: GateConfig,
    checkpoint: Path | None = None,
) -> GateFit:
    """Fit the gate on scored pairs. Prompt vectors in a file are read batch by batch.

    Args:
        pairs: scored pairs, from :func:`facetrm.fit.pairs.score_pairs` or :func:`facetrm.fit.pairs.score_pair_blocks`.
        experts: the K experts that scored them.
        debias_KK: debiasing matrix T, [K, K].
        config: settings of the gate and its training.
        checkpoint: file from which a killed run resumes, with the same result; None for no file.

    Returns:
        The gate and the figures of the fit, as from :func:`fit_gate`.

    Raises:
        FitError: fewer than two prompts, fewer than two tasks for ``directions: tasks``, or a checkpoint of another
            run.
    """
    removed = (debias_KK == 0).all(dim=0).tolist()
    gated = [o.gated and not gone for o, gone in zip(experts.objectives, removed, strict=True)]
    reference_K = pairs.typical_scores()
    held = hold_out(pairs.groups_N, config.validation, seed=config.seed)
    inner, outer = pairs.select(~held), pairs.select(held)
    unit_K = _units(pairs, debias_KK) if config.unit_spread else torch.ones(len(gated))
    # a rare task may be in the held-out part alone; its prompts then help to tell the tasks apart
    wide = config.directions == "tasks" and len(set(inner.tasks_N) - {None}) < 2
    run = _Run(
        config, gated, debias_KK.detach().float(), unit_K, reference_K, gate_projection(config, pairs) if wide else None
    )
    ridge = _best_ridge(run, inner, outer)
    start = _fit_fixed(run, inner, ridge)
    described = [config.model_dump(mode="json"), gated, debias_KK.tolist(), pairs.fingerprint()]
    key = fingerprint(described + ([list(pairs.tasks_N)] if config.directions == "tasks" else []))
    module, progress = _train(run, inner, start, validation=outer, checkpoint=checkpoint, key=key)
    blend, beta = _choose_blend(module, outer, config.blends)
    if config.refit:
        accuracy, loss = _report(module, start, beta, {"before_refit.train": inner, "before_refit.validation": outer})
        start = _fit_fixed(run, pairs, ridge)
        module, _ = _train(run, pairs, start, stop=progress.best_step)
        module.blend(blend)
        returned = _report(module, start, beta, {"train": pairs})
        accuracy, loss = returned[0] | accuracy, returned[1] | loss
    else:
        accuracy, loss = _report(module, start, beta, {"train": inner, "validation": outer})
    counts = {"train": len(inner), "validation": len(outer), "prompts": len(np.unique(pairs.groups_N))}
    history, best_step = progress.history, progress.best_step
    return GateFit(module.gate, beta, reference_K, start, blend, best_step, history, accuracy, loss, counts)


def _units(pairs: ScoredPairs, debias_KK: Tensor) -> Tensor:
    """Return the inverse standard deviation of each debiased score between answers to one prompt, [K].

    A deviation below 0.01 counts as 0.01. Amplifying a head that hardly varies would make rewards so large that float32
    could not resolve their margins.
    """
    w_N = pairs.weights_N.double().numpy()
    spread_K = np.sqrt(w_N @ pairs.difference(debias_KK) ** 2 / w_N.sum() / 2.0)
    return torch.from_numpy(1.0 / np.maximum(spread_K, _LEAST_SPREAD)).float()


@dataclass(frozen=True)
class _Run:
    """What all steps of one fit share."""

    config: GateConfig
    gated: list[bool]
    debias_KK: Tensor
    unit_K: Tensor
    reference_K: Tensor
    projection: Projection | None = None


class _Trainable(nn.Module):
    """A gate in its weighted sum, with the trained factor beta; ``start_K`` are its initial logits."""

    def __init__(self, gate: Gate, run: _Run, *, beta: float, prior_K: Tensor) -> None:
        super().__init__()
        self.sum = GatedSum(gate, run.debias_KK, reference_K=run.reference_K)
        self.log_beta = nn.Parameter(torch.tensor(beta).log())
        self.start_K, self.prior_K = gate.bias_K.detach().clone(), prior_K

    @property
    def gate(self) -> Gate:
        return self.sum.gate

    def rewards(self, logits_NK: Tensor, pairs: ScoredPairs, rows: Tensor | slice) -> Tensor:
        """Return the reward margins of some pairs, computed by :class:`GatedSum` as in scoring."""
        weights_NK = self.sum.weights_of(logits_NK)
        chosen_N = self.sum.combine(weights_NK, pairs.chosen_NK[rows]).reward_N
        return chosen_N - self.sum.combine(weights_NK, pairs.rejected_NK[rows]).reward_N

    def blend(self, factor: float) -> None:
        """Scale the difference between the logits and their initial values by ``factor``."""
        with torch.no_grad():
            if self.gate.head is not None:
                self.gate.head.weight *= factor
            self.gate.bias_K.copy_(self.start_K + factor * (self.gate.bias_K - self.start_K))

    def margins(self, pairs: ScoredPairs) -> Floats:
        """Return the reward margins of all pairs, in float64."""
        self.eval()
        with torch.no_grad():
            blocks = [
                self.rewards(self.gate.logits(block_ND), pairs, rows) for rows, block_ND in row_blocks(pairs.prompt_ND)
            ]
        margin_N = torch.cat(blocks)
        return np.asarray(margin_N.double().numpy(), dtype=np.float64)


def _fit_fixed(run: _Run, pairs: ScoredPairs, ridge: float) -> FixedWeights:
    w_N = pairs.weights_N.double().numpy()
    return fit_unconditional(pairs.difference(run.debias_KK), gated=run.gated, weights=w_N, ridge=ridge)


def _best_ridge(run: _Run, inner: ScoredPairs, outer: ScoredPairs) -> float:
    """Return the ridge strength with the lowest loss on held-out prompts (the larger of two equal ones)."""
    difference_NK, w_N = outer.difference(run.debias_KK), outer.weights_N.double().numpy()
    found: dict[float, float] = {}
    for ridge in sorted(run.config.ridge, reverse=True):
        fixed = _fit_fixed(run, inner, ridge)
        found[ridge] = _loss(difference_NK @ fixed.weights_K * fixed.beta, w_N)
    return min(found, key=lambda ridge: found[ridge])


def _loss(margin_N: Floats, w_N: Floats) -> float:
    return float(w_N @ np.logaddexp(0.0, -margin_N) / w_N.sum())


def _start(run: _Run, pairs: ScoredPairs, start: FixedWeights) -> _Trainable:
    """Return the gate before its first step."""
    config = run.config
    projection = run.projection or gate_projection(config, pairs)
    flags = torch.tensor(run.gated)
    shape = GateShape(
        hidden_size=int(pairs.prompt_ND.shape[1]),
        choices=len(run.gated),
        hidden=config.hidden,
        n_hidden=config.n_hidden,
        rank=None if projection.projection_DR is None else projection.projection_DR.shape[1],
        temperature=config.temperature,
        dropout=config.dropout,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        gate = Gate(shape, gated=run.gated)
    gate.center_D, gate.spread_D = projection.center_D, projection.spread_D
    gate.projection_DR = projection.projection_DR
    gate.unit_K = run.unit_K.clone()
    weights_K = torch.from_numpy(start.weights_K) / run.unit_K
    total = float(weights_K.sum())
    smoothing = 1e-6 if shape.unconditional else config.smoothing
    uniform_K = flags.double() / flags.sum()
    prior_K = ((1.0 - smoothing) * weights_K / total + smoothing * uniform_K).float()
    beta = start.beta * total if config.beta is None else config.beta
    if config.start == "unconditional" or shape.unconditional:
        with torch.no_grad():
            gate.bias_K.copy_(torch.where(flags, prior_K.clamp_min(1e-12).log() * config.temperature, 0.0))
            if gate.head is not None:
                gate.head.weight.zero_()
    return _Trainable(gate, run, beta=beta, prior_K=prior_K)


def _train(
    run: _Run,
    pairs: ScoredPairs,
    start: FixedWeights,
    *,
    validation: ScoredPairs | None = None,
    stop: int | None = None,
    checkpoint: Path | None = None,
    key: str = "",
) -> tuple[_Trainable, Progress]:
    """Train from ``start``; return the best state, or without ``validation`` the one after ``stop`` steps."""
    config, module = run.config, _start(run, pairs, start)
    schedule = Schedule(
        steps=0 if module.gate.shape.unconditional else config.steps,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        evaluate_every=config.evaluate_every,
        patience=config.patience,
        seed=config.seed,
    )
    prompts = GateInput(module.gate, pairs.prompt_ND)

    def loss(rows: Tensor | slice) -> Tensor:
        logits_NK, w_N = module.gate.logits_of(prompts[rows]), pairs.weights_N[rows]
        value = bradley_terry_loss(module.log_beta.exp() * module.rewards(logits_NK, pairs, rows), w_N)
        if config.kl:
            value = value + config.kl * weighted_mean(divergence(logits_NK, module.prior_K), w_N)
        if config.entropy:
            uniform_K = module.gate.gated_K / module.gate.gated_K.sum()
            value = value + config.entropy * weighted_mean(divergence(logits_NK, uniform_K), w_N)
        return value

    def evaluate() -> float:
        assert validation is not None
        return _loss(float(module.log_beta.exp()) * module.margins(validation), validation.weights_N.double().numpy())

    if validation is None:
        return module, train(module, schedule, rows=len(pairs), loss=loss, stop=stop)
    progress = train(
        module, schedule, rows=len(pairs), loss=loss, evaluate=evaluate, checkpoint=checkpoint, key=key, stop=stop
    )
    return module, progress


def _choose_blend(module: _Trainable, outer: ScoredPairs, blends: Sequence[float]) -> tuple[float, float]:
    """Set the blend with the lowest loss on held-out prompts (the smaller of two equal ones); return it and beta."""
    w_N, found = outer.weights_N.double().numpy(), []
    trained = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    for factor in sorted(set(blends)):
        module.load_state_dict(trained)
        module.blend(factor)
        margin_N = module.margins(outer)
        beta = fit_beta(margin_N, weights=w_N)
        found.append((_loss(beta * margin_N, w_N), factor, beta))
    _, factor, beta = min(found)
    module.load_state_dict(trained)
    module.blend(factor)
    return factor, beta


def _report(
    module: _Trainable, start: FixedWeights, beta: float, parts: dict[str, ScoredPairs]
) -> tuple[dict[str, float], dict[str, float]]:
    """Return accuracy and loss of the gate and of the unconditional weights on each part."""
    accuracy, loss = {}, {}
    for name, pairs in parts.items():
        w_N = pairs.weights_N.double().numpy()
        fixed_N = pairs.difference(module.sum.debias_KK) @ start.weights_K
        for label, margin_N, factor in (
            (name, module.margins(pairs), beta),
            (f"{name}.unconditional", fixed_N, start.beta),
        ):
            accuracy[label] = float(win_credit(margin_N).mean())
            loss[label] = _loss(factor * margin_N, w_N)
    return accuracy, loss
