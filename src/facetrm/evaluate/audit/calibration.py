"""Are the probabilities P(A > B) = sigmoid(beta * margin) right?

The chosen answer of a pair stands first by convention, so a diagram over P(chosen wins) would only show that. Here each
pair counts once, from the side that the model favours: its confidence is sigmoid(beta * |margin|), 0.5 to 1, and it is
right if the favoured answer is the chosen one (a tie is half right).

Shapes: P pairs, B bins.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from facetrm.core.statistics import Floats, Interval, bootstrap_mean, cluster_counts, win_credit
from facetrm.evaluate.audit.settings import AuditConfig

_NOISE_DRAWS = 400


@dataclass(frozen=True)
class Bin:
    """One bin of a reliability diagram.

    Attributes:
        low: lower edge of the confidence.
        high: upper edge of the confidence.
        pairs: number of pairs.
        confidence: their mean confidence.
        accuracy: share of them that is right.
    """

    low: float
    high: float
    pairs: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Calibration:
    """How well the probabilities of a model are calibrated.

    Attributes:
        source: ``model`` if the model's own beta was judged, ``fitted`` if one was fitted on half of the prompts.
        beta: the factor that was judged; its mean over pairs if the model has one per task.
        pairs: number of judged pairs.
        ece: expected calibration error of equal-mass bins, with its bootstrap interval. It is never below 0, so its
            interval does not reach 0 even for perfect probabilities: compare with ``noise``.
        noise: the 95% quantile of that error if the probabilities were exactly right.
        ece_width: the same error of equal-width bins.
        brier: mean squared error of P(chosen wins).
        log_loss: mean negative log of P(chosen wins), in nats.
        temperature: by task, the factor on the log odds' divisor that fits the judged pairs best: above 1, the model
            is too sure. Tasks with too few pairs are left out; ``all`` holds all pairs.
        equal_mass: the diagram with equal numbers of pairs in each bin.
        equal_width: the diagram with bins of equal width; empty bins are left out.
    """

    source: str
    beta: float
    pairs: int
    ece: Interval
    noise: float
    ece_width: float
    brier: Interval
    log_loss: Interval
    temperature: dict[str, float]
    equal_mass: tuple[Bin, ...]
    equal_width: tuple[Bin, ...]


def calibration_of(
    margins: Sequence[float],
    groups: Sequence[str],
    tasks: Sequence[str],
    *,
    beta_of: Callable[[int], float] | None,
    config: AuditConfig,
) -> Calibration | None:
    """Judge the probabilities of a model; None if there are fewer than two prompts or no margin differs from 0.

    Args:
        margins: reward of the chosen answer minus that of the other, [P].
        groups: prompt key of each pair, [P].
        tasks: task of each pair, [P].
        beta_of: the model's own beta of each pair; None fits one on half of the prompts and judges on the other half.
        config: the settings.
    """
    margin_P, group_P, task_P = np.asarray(margins, dtype=np.float64), np.asarray(groups), np.asarray(tasks)
    prompts = np.unique(group_P)
    if len(prompts) < 2 or not margin_P.any():
        return None
    if beta_of is None:
        fitted = np.random.default_rng(config.seed).permutation(prompts)[: len(prompts) // 2]
        train_P = np.isin(group_P, fitted)
        if not margin_P[train_P].any() or not margin_P[~train_P].any():
            return None
        beta_P = np.full(len(margin_P), beta_of_margins(margin_P[train_P]))[~train_P]
        margin_P, group_P, task_P = margin_P[~train_P], group_P[~train_P], task_P[~train_P]
    else:
        beta_P = np.array([beta_of(row) for row in range(len(margin_P))])
    return _judged(beta_P * margin_P, group_P, task_P, beta=beta_P, fitted=beta_of is None, config=config)


def beta_of_margins(margin_P: Floats) -> float:
    """Return the factor that minimises the mean log loss of P(chosen wins).

    It is searched from a millionth to a million, in units of the inverse mean absolute margin.

    Args:
        margin_P: reward margins, chosen minus rejected; at least one is not 0.
    """
    size = float(np.abs(margin_P).mean())

    def loss(log_beta: float) -> float:
        return float(np.logaddexp(0.0, -math.exp(log_beta) * margin_P / size).mean())

    found = minimize_scalar(loss, bounds=(math.log(1e-6), math.log(1e6)), method="bounded")
    return math.exp(float(found.x)) / size


def _judged(
    odds_P: Floats,
    group_P: NDArray[np.generic],
    task_P: NDArray[np.generic],
    *,
    beta: Floats,
    fitted: bool,
    config: AuditConfig,
) -> Calibration:
    confidence_P, right_P = 1.0 / (1.0 + np.exp(-np.abs(odds_P))), win_credit(odds_P)
    order = np.argsort(confidence_P, kind="stable")
    mass_P = np.empty(len(odds_P), dtype=np.int64)
    mass_P[order] = np.arange(len(odds_P)) * config.bins // len(odds_P)
    width_P = np.minimum(((confidence_P - 0.5) * 2 * config.bins).astype(np.int64), config.bins - 1)
    lose_P, log_P = 1.0 / (1.0 + np.exp(np.clip(odds_P, -700, 700))), np.logaddexp(0.0, -odds_P)
    many = {name for name in np.unique(task_P).tolist() if int((task_P == name).sum()) >= config.task_pairs}
    rows_by_task = {"all": np.ones(len(odds_P), dtype=np.bool_)} | {name: task_P == name for name in sorted(many)}
    return Calibration(
        "fitted" if fitted else "model",
        float(beta.mean()),
        len(odds_P),
        _ece_interval(confidence_P, right_P, mass_P, group_P, config=config),
        _noise(confidence_P, mass_P, seed=config.seed),
        _ece(confidence_P, right_P, width_P, np.ones(len(odds_P))),
        bootstrap_mean(lose_P**2, group_P, samples=config.samples, seed=config.seed),
        bootstrap_mean(log_P, group_P, samples=config.samples, seed=config.seed),
        {name: 1.0 / beta_of_margins(odds_P[rows]) for name, rows in rows_by_task.items() if odds_P[rows].any()},
        _diagram(confidence_P, right_P, mass_P),
        _diagram(confidence_P, right_P, width_P, edges=np.linspace(0.5, 1.0, config.bins + 1)),
    )


def _ece(confidence_P: Floats, right_P: Floats, bin_P: NDArray[np.int64], weight_P: Floats) -> float:
    gaps = np.bincount(bin_P, weights=weight_P * (right_P - confidence_P))
    return float(np.abs(gaps).sum() / max(float(weight_P.sum()), 1e-12))


def _ece_interval(
    confidence_P: Floats,
    right_P: Floats,
    bin_P: NDArray[np.int64],
    group_P: NDArray[np.generic],
    *,
    config: AuditConfig,
) -> Interval:
    codes, counts = cluster_counts(group_P, samples=config.samples, seed=config.seed)
    draws = np.array([_ece(confidence_P, right_P, bin_P, row[codes].astype(np.float64)) for row in counts])
    value = _ece(confidence_P, right_P, bin_P, np.ones(len(right_P)))
    # A resample has noise of its own, so its error is larger on average: that excess is no part of the interval.
    low, high = np.quantile(draws - max(0.0, float(draws.mean()) - value), [0.025, 0.975])
    return Interval(value, max(0.0, min(value, float(low))), max(value, float(high)))


def _noise(confidence_P: Floats, bin_P: NDArray[np.int64], *, seed: int) -> float:
    rng, ones = np.random.default_rng(seed), np.ones(len(confidence_P))
    draws = [
        _ece(confidence_P, (rng.random(len(confidence_P)) < confidence_P).astype(np.float64), bin_P, ones)
        for _ in range(_NOISE_DRAWS)
    ]
    return float(np.quantile(draws, 0.95))


def _diagram(
    confidence_P: Floats, right_P: Floats, bin_P: NDArray[np.int64], *, edges: Floats | None = None
) -> tuple[Bin, ...]:
    found = []
    for index in np.unique(bin_P).tolist():
        rows = bin_P == index
        c_P = confidence_P[rows]
        low, high = (c_P.min(), c_P.max()) if edges is None else (edges[index], edges[index + 1])
        found.append(Bin(float(low), float(high), int(rows.sum()), float(c_P.mean()), float(right_P[rows].mean())))
    return tuple(found)
