"""Fit the router, which predicts the task of a prompt, with cross-entropy on its logits.

    minimise   mean_n w_n * -log softmax(z_n)[task_n]        afterwards  p = softmax(z / temperature)

The features are those of the frozen backbone at the end of the prompt, after the whole dialogue. The loss takes the
logits: with a second softmax, the loss could not reach zero and the gradient would vanish. Held-out prompts choose the
step whose state is kept, and then the temperature, which does not change the task of any row.

Shapes: N rows, D hidden size, R router input size, T tasks.

Reference: DMoERM (arXiv 2403.01197), the outer mixture: one of T tasks, top-1. We differ from its code: the
backbone is frozen, the loss takes logits, the best state is kept and not the last one, the router reads all turns and
not only the user's, training and validation share no prompt, and the confidence is calibrated.
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
    """A fitted router and the figures of its fit.

    Attributes:
        gate: gate over the T tasks, with the fitted temperature; its largest weight is the confidence.
        names: names of the T tasks, in the gate's order.
        report: report of the router on held-out prompts.
        uncalibrated: ``loss`` and ``calibration_error`` on the same rows at temperature 1.
        linear: report of a linear router on the same rows.
        gain: accuracy minus that of the linear router, with the interval of the difference.
        training: ``accuracy`` and ``loss`` on the training rows.
        best_step: training step of the state that was kept.
        history: training and validation loss at each evaluation.
        held_out_N: True for the input rows that were held out.
        counts: numbers of training rows, held-out rows, prompts, and prompts with more than one task.
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
        """Divisor of the logits; above 1 if the router was overconfident after training."""
        return self.gate.temperature

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as a JSON-ready dict, without the tensors."""
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
    """Fit the router on prompts with known tasks.

    Args:
        prompt_ND: prompt vectors of the frozen backbone, [N, D].
        tasks: task of each row, [N].
        groups: prompt key of each row, [N]; all rows of a prompt are on the same side of the validation split.
        config: settings of the router and its training.
        names: names of the T tasks, in the order of the gate; None for all tasks that occur, in alphabetical order.
        weights: weight of each row, [N], 0 or more; rows of weight 0 are not used at all. None for equal weights.

    Returns:
        The gate, for a :class:`~facetrm.model.reward_model.RewardModel`, and the figures of the fit.

    Raises:
        FitError: inputs with different numbers of rows, a feature that is not finite, a row without a task or with an
            unknown task, a task without rows, or no task with two prompts.

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
    """Evaluate a fitted router on rows that were not used in the fit, such as a test set.

    Args:
        gate: the fitted router.
        prompt_ND: prompt vectors of the frozen backbone, [N, D].
        tasks: true task of each row, [N].
        groups: prompt key of each row, [N]; the bootstrap resamples prompts.
        names: names of the T tasks, in the gate's order; a task may have no rows.
        config: settings, of which bins, thresholds, samples and seed are used; None for the defaults.

    Returns:
        The report on these rows.

    Raises:
        FitError: inputs with different numbers of rows, a feature that is not finite, or a task that is not in
            ``names``.
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
    """Return the trained and calibrated gate, the state of its training, and the held-out logits at temperature 1."""
    gate = _start(inner, config, n_hidden)
    progress = _train(gate, inner, outer, config)
    with torch.no_grad():
        logits_NT = gate.logits(outer.prompt_ND).double().numpy()
    if config.calibrate and len(inner.names) > 1:
        gate.shape = replace(gate.shape, temperature=_fit_temperature(logits_NT, outer, config.bins))
    return gate, progress, logits_NT


def _start(rows: RouterRows, config: RouterConfig, n_hidden: int) -> Gate:
    """Return the gate before its first step; its probabilities are the shares of the tasks in the training rows."""
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
    """Return the weight of each row in the loss, [N]; if balanced, every task has the same total weight."""
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
    """Return the temperature with the lowest held-out loss, or 1 if it does not lower the calibration error.

        minimise over T:   sum_n w_n * -log softmax(z_n / T)[task_n] + log(T)^2 / 2

    The last term is a standard normal prior on log(T). It matters only if there are few rows, or if all are right, in
    which case the other term falls without limit as T goes to 0.
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
