"""The router: which task a prompt asks for, by cross-entropy on the gate's logits.

    minimise   mean_n w_n * -log softmax(z_n)[task_n]        afterwards  p = softmax(z / temperature)

The features are those of the frozen backbone where the prompt ends, with the whole dialogue before it. The loss takes
the logits: a softmax before it would leave a loss that cannot reach zero and a gradient that vanishes. Held-out prompts
choose the step whose state is kept, and then the temperature, which turns no row to another task.

Shapes: N rows, D hidden size, R router input size, T tasks.

Reference: DMoERM (arXiv 2403.01197), the outer mixture: one of T tasks, top-1. We differ from its code: a frozen
backbone, the loss on logits, the best state and not the last, every turn of the dialogue and not the user's alone,
prompts disjoint between training and validation, a confidence that is calibrated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from torch import Tensor
from torch.nn.functional import cross_entropy

from facetrm.core.statistics import Floats, Interval, bootstrap_mean
from facetrm.fit.loop import Progress, Schedule, train
from facetrm.fit.losses import weighted_mean
from facetrm.fit.projection import Projection, fit_projection
from facetrm.fit.router.config import RouterConfig
from facetrm.fit.router.report import RouterReport, calibration_error, report_routing
from facetrm.fit.router.rows import RouterRows, hold_out_by_task, router_rows
from facetrm.model.gate import Gate, GateShape

__all__ = ["RouterConfig", "RouterFit", "evaluate_router", "fit_router"]

_LEAST_LOG_TEMPERATURE: Final = -3.0
_MOST_LOG_TEMPERATURE: Final = 3.0


@dataclass(frozen=True)
class RouterFit:
    """A fitted router and how good it is.

    Attributes:
        gate: over the T tasks, with the fitted temperature; its largest weight is the confidence.
        names: the tasks, in the gate's order.
        report: on held-out prompts, of this very gate.
        uncalibrated: ``loss`` and ``calibration_error`` on the same rows at temperature 1.
        linear: the report of a linear router on the same rows.
        gain: accuracy beyond the linear router's, with the interval of the difference.
        training: ``accuracy`` and ``loss`` on the rows it was trained on.
        best_step: training step whose state was kept.
        history: loss at each evaluation.
        held_out_N: which of the rows given were held out.
        counts: rows trained on and held out, prompts, and prompts that carry more than one task.
    """

    gate: Gate
    names: tuple[str, ...]
    report: RouterReport
    uncalibrated: dict[str, float]
    linear: RouterReport
    gain: Interval
    training: dict[str, float]
    best_step: int
    history: list[dict[str, float]]
    held_out_N: NDArray[np.bool_]
    counts: dict[str, int]

    @property
    def temperature(self) -> float:
        """What divides the logits: above 1 where training left the router too sure of itself."""
        return self.gate.temperature

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-ready report, without the tensors."""
        names = ("temperature", "uncalibrated", "training", "best_step", "history", "counts")
        linear = {
            "accuracy": asdict(self.linear.accuracy),
            "loss": self.linear.loss,
            "calibration_error": self.linear.calibration_error,
        }
        held_out = {"held_out": self.report.to_dict(), "linear": linear, "gain_over_linear": asdict(self.gain)}
        return {**held_out, **{name: getattr(self, name) for name in names}}


def fit_router(
    prompt_ND: Tensor,
    tasks: Sequence[str],
    *,
    groups: Sequence[str],
    config: RouterConfig,
    names: Sequence[str] | None = None,
    weights: ArrayLike | None = None,
) -> RouterFit:
    """Fit the router on prompts whose task is known.

    Args:
        prompt_ND: prompt features of N rows, of the frozen backbone.
        tasks: the task of each row.
        groups: prompt key of each row; no prompt stands on both sides of the validation split.
        config: see :class:`RouterConfig`.
        names: the T tasks, in the order that the gate shall have; by default all that occur, in alphabetical order.
        weights: weights of each row; rows of weight 0 are left out of everything.

    Returns:
        The gate, ready for a :class:`~facetrm.model.reward_model.RewardModel`, and its report.

    Raises:
        FitError: rows that do not fit together, features that are not finite, a row without a task or with an unknown
            one, a task without a row, or no prompt that can be held out.

    Reference: DMoERM (arXiv 2403.01197), the outer mixture.

    Example:
        >>> import torch
        >>> from facetrm import RouterConfig, fit_router
        >>> prompts = torch.randn(80, 4, generator=torch.Generator().manual_seed(0))
        >>> tasks = ["code" if first > 0 else "chat" for first in prompts[:, 0].tolist()]
        >>> config = RouterConfig(steps=60, samples=20)
        >>> fit = fit_router(prompts, tasks, groups=[str(n) for n in range(80)], config=config)
        >>> fit.names
        ('chat', 'code')
    """
    rows = router_rows(prompt_ND, tasks, groups=groups, names=names, weights=weights)
    held = hold_out_by_task(rows, config.validation, seed=config.seed)
    inner, outer = rows.select(~held), rows.select(held)
    gate, progress, logits_NT = _fit(inner, outer, config, config.n_hidden)
    report = _report(gate, outer, config)
    linear = report if config.n_hidden == 0 else _report(_fit(inner, outer, config, 0)[0], outer, config)
    trained = _report(gate, inner, config.model_copy(update={"samples": 1}))
    raw_NT = np.exp(log_softmax(logits_NT, axis=1))
    uncalibrated = {
        "loss": report_routing(raw_NT, outer.truth_N, groups=outer.groups_N, names=rows.names, samples=1).loss,
        "calibration_error": calibration_error(raw_NT, outer.truth_N, bins=config.bins),
    }
    held_out_N = np.zeros(len(tasks), dtype=bool)
    held_out_N[rows.number_N[held]] = True
    return RouterFit(
        gate=gate,
        names=rows.names,
        report=report,
        uncalibrated=uncalibrated,
        linear=linear,
        gain=bootstrap_mean(
            report.correct_N - linear.correct_N,
            outer.groups_N,
            samples=config.samples,
            seed=config.seed,
            within=(-1.0, 1.0),
        ),
        training={"accuracy": trained.accuracy.value, "loss": trained.loss},
        best_step=progress.best_step,
        history=progress.history,
        held_out_N=held_out_N,
        counts={"train": len(inner), "validation": len(outer), **rows.counts()},
    )


def evaluate_router(
    gate: Gate,
    prompt_ND: Tensor,
    *,
    tasks: Sequence[str],
    groups: Sequence[str],
    names: Sequence[str],
    config: RouterConfig | None = None,
) -> RouterReport:
    """Return the report of a fitted router on other rows: those of a test part that chose nothing.

    Args:
        gate: the router.
        prompt_ND: prompt features of N rows.
        tasks: the true task of each row.
        groups: prompt key of each row, the unit of the bootstrap.
        names: the tasks, in the gate's order; a task may be absent from these rows.
        config: bins, thresholds, samples and seed of the figures.

    Raises:
        FitError: rows that do not fit together, or a task that is not among ``names``.
    """
    rows = router_rows(prompt_ND, tasks, groups=groups, names=names, weights=None, every_task=False)
    return _report(gate, rows, config or RouterConfig())


def _report(gate: Gate, rows: RouterRows, config: RouterConfig) -> RouterReport:
    with torch.no_grad():
        probability_NT = gate(rows.prompt_ND).double().numpy()
    return report_routing(
        probability_NT,
        rows.truth_N,
        groups=rows.groups_N,
        names=rows.names,
        bins=config.bins,
        thresholds=config.thresholds,
        samples=config.samples,
        seed=config.seed,
    )


def _fit(inner: RouterRows, outer: RouterRows, config: RouterConfig, n_hidden: int) -> tuple[Gate, Progress, Floats]:
    """Return the trained and calibrated gate, its training, and the held-out logits before the calibration."""
    gate = _start(inner, config, n_hidden)
    progress = _train(gate, inner, outer, config)
    with torch.no_grad():
        logits_NT = gate.logits(outer.prompt_ND).double().numpy()
    if config.calibrate and len(inner.names) > 1:
        gate.shape = replace(gate.shape, temperature=_fit_temperature(logits_NT, outer, config.bins))
    return gate, progress, logits_NT


def _start(rows: RouterRows, config: RouterConfig, n_hidden: int) -> Gate:
    """Return the gate before its first step: it gives every prompt the shares of the tasks in training."""
    once = np.unique(rows.groups_N, return_index=True)[1]
    projection: Projection = fit_projection(
        rows.prompt_ND[torch.from_numpy(once)],
        rank=config.rank,
        shrinkage=config.shrinkage,
        standardise=config.standardise,
    )
    matrix_DR = projection.projection_DR
    shape = GateShape(
        hidden_size=rows.prompt_ND.shape[1],
        choices=len(rows.names),
        hidden=config.hidden,
        n_hidden=n_hidden,
        rank=None if matrix_DR is None else matrix_DR.shape[1],
        dropout=config.dropout,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        gate = Gate(shape)
    gate.center_D, gate.spread_D, gate.projection_DR = projection.center_D, projection.spread_D, matrix_DR
    share_T = torch.bincount(
        torch.from_numpy(rows.truth_N), weights=_training_weights(rows, config), minlength=shape.choices
    )
    with torch.no_grad():
        gate.bias_K.copy_((share_T / share_T.sum()).clamp_min(1e-6).log())
        if gate.head is not None:
            gate.head.weight.zero_()
    return gate


def _training_weights(rows: RouterRows, config: RouterConfig) -> Tensor:
    """Return the weight of each row in the loss, [N]: its own, or so that every task weighs the same in total."""
    weights_N = rows.weights_N
    if config.class_weight == "balanced":
        total_T = np.bincount(rows.truth_N, weights=weights_N, minlength=len(rows.names))
        weights_N = weights_N / total_T[rows.truth_N]
    return torch.from_numpy(weights_N / weights_N.mean()).float()


def _train(gate: Gate, inner: RouterRows, outer: RouterRows, config: RouterConfig) -> Progress:
    """Train the gate and leave it in the state with the lowest loss on held-out prompts."""
    schedule = Schedule(
        steps=config.steps if len(inner.names) > 1 else 0,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        evaluate_every=config.evaluate_every,
        patience=config.patience,
        seed=config.seed,
    )
    parts = [
        (gate.project(rows.prompt_ND), torch.from_numpy(rows.truth_N), _training_weights(rows, config))
        for rows in (inner, outer)
    ]

    def loss_of(part: int, rows: Tensor | slice) -> Tensor:
        x_NR, truth_N, weights_N = parts[part]
        loss_N = cross_entropy(gate.logits_of(x_NR[rows]), truth_N[rows], reduction="none")
        return weighted_mean(loss_N, weights_N[rows])

    return train(
        gate,
        schedule,
        rows=len(inner),
        loss=lambda rows: loss_of(0, rows),
        evaluate=lambda: float(loss_of(1, slice(None))),
    )


def _fit_temperature(logits_NT: Floats, rows: RouterRows, bins: int) -> float:
    """Return the temperature under which held-out tasks are most likely, or 1 where it would not help.

        minimise over T:   sum_n w_n * -log softmax(z_n / T)[task_n] + log(T)^2 / 2

    The last term, a standard normal on log(T), decides only where rows are few or all right (then the rest falls
    forever as T falls to 0). A temperature that raised the calibration error of these rows is not taken.
    """
    weights_N = rows.weights_N / rows.weights_N.mean()
    row_N = np.arange(len(rows))

    def objective(log_temperature: float) -> float:
        loss_N = -log_softmax(logits_NT / np.exp(log_temperature), axis=1)[row_N, rows.truth_N]
        return float(weights_N @ loss_N + 0.5 * log_temperature**2)

    bounds = (_LEAST_LOG_TEMPERATURE, _MOST_LOG_TEMPERATURE)
    temperature = float(np.exp(minimize_scalar(objective, bounds=bounds, method="bounded").x))
    before, after = (
        calibration_error(np.exp(log_softmax(logits_NT / t, axis=1)), rows.truth_N, bins=bins)
        for t in (1.0, temperature)
    )
    return temperature if after < before else 1.0
