"""Accuracy and calibration of a router on held-out rows.

    confidence_n = max_t p_nt        calibration error = sum_b (rows_b / N) |accuracy_b - confidence_b|

over bins b of equal width. A threshold c splits the rows: ``coverage`` is the share with confidence >= c, which go to
the router's choice; the others go to the fallback.

Shapes: N rows, T tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from facetrm.core.errors import FitError
from facetrm.core.statistics import Floats, Interval, bootstrap_mean
from facetrm.fit.router.config import THRESHOLDS


@dataclass(frozen=True)
class TaskFigures:
    """How well a router finds one task.

    Attributes:
        rows: number of rows of the task.
        routed: number of rows routed to the task.
        precision: share of the routed rows that have the task, 0 to 1; None if no row was routed to it.
        recall: share of the rows of the task that were routed to it, 0 to 1; None if there are none.
    """

    rows: int
    routed: int
    precision: float | None
    recall: float | None


@dataclass(frozen=True)
class ReliabilityBin:
    """The rows whose confidence is in one bin.

    Attributes:
        low: lower end of the bin, exclusive.
        high: upper end of the bin, inclusive.
        rows: number of rows.
        confidence: mean confidence, 0 to 1; None without rows.
        accuracy: share of rows routed to their task, 0 to 1; None without rows.
    """

    low: float
    high: float
    rows: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True)
class Coverage:
    """Coverage and accuracy at one confidence threshold.

    Attributes:
        threshold: confidence threshold, 0 to 1.
        coverage: share of rows with at least this confidence, 0 to 1.
        accuracy: accuracy on these rows, 0 to 1; None without any.
        accuracy_below: accuracy on the other rows, 0 to 1; None without any.
    """

    threshold: float
    coverage: float
    accuracy: float | None
    accuracy_below: float | None


@dataclass(frozen=True)
class RouterReport:
    """Figures of a router on N rows with known tasks.

    Attributes:
        names: names of the T tasks, in the router's order.
        rows: number of rows.
        prompts: number of different prompts.
        accuracy: share of rows routed to their task, with a bootstrap interval over prompts.
        majority: accuracy of always choosing the most frequent task of these rows.
        tasks: precision and recall by task.
        confusion: number of rows by true task (rows) and routed task (columns), [T, T].
        loss: mean cross-entropy, in nats.
        calibration_error: expected absolute difference of confidence and accuracy, 0 to 1.
        reliability: confidence bins of the calibration error.
        coverage: coverage and accuracy at each threshold.
        correct_N: 1 for each row that was routed to its task, else 0; for paired comparisons.
    """

    names: tuple[str, ...]
    rows: int
    prompts: int
    accuracy: Interval
    majority: float
    tasks: dict[str, TaskFigures]
    confusion: list[list[int]]
    loss: float
    calibration_error: float
    reliability: list[ReliabilityBin]
    coverage: list[Coverage]
    correct_N: Floats

    def to_dict(self) -> dict[str, Any]:
        """Return the report as a JSON-ready dict, without ``correct_N``."""
        values = asdict(self)
        del values["correct_N"]
        values["names"] = list(self.names)
        return values


def report_routing(
    probability_NT: ArrayLike,
    truth_N: ArrayLike,
    *,
    groups: Sequence[str] | NDArray[Any],
    names: Sequence[str],
    bins: int = 10,
    thresholds: Sequence[float] = THRESHOLDS,
    samples: int = 1000,
    seed: int = 0,
) -> RouterReport:
    """Compare a router's probabilities with the true tasks.

    Args:
        probability_NT: probability of each task, [N, T]; of equal probabilities, the first task is chosen.
        truth_N: index of each row's true task, [N].
        groups: prompt key of each row, [N]; the bootstrap resamples prompts.
        names: names of the T tasks.
        bins: number of confidence bins of equal width, for the calibration error.
        thresholds: confidence levels at which coverage and accuracy are reported.
        samples: number of bootstrap samples.
        seed: random seed of the bootstrap.

    Returns:
        The report.

    Raises:
        FitError: no row, or inputs with different numbers of rows or tasks.
    """
    p_NT, truth = np.asarray(probability_NT, dtype=np.float64), np.asarray(truth_N, dtype=np.int64)
    n, count = len(truth), len(names)
    if not n or p_NT.shape != (n, count) or len(groups) != n:
        raise FitError(
            f"probabilities of shape {p_NT.shape}, {n} true tasks, {len(groups)} prompt groups, {count} names",
            place="router report",
            fix="give one of each per row, at least one row, and one column per task",
        )
    routed, confidence_N = p_NT.argmax(axis=1), p_NT.max(axis=1)
    correct_N = (routed == truth).astype(np.float64)
    confusion_TT = np.bincount(truth * count + routed, minlength=count * count).reshape(count, count)
    reliability = _reliability(confidence_N, correct_N, bins)
    return RouterReport(
        names=tuple(names),
        rows=n,
        prompts=len(np.unique(np.asarray(groups))),
        accuracy=bootstrap_mean(correct_N, groups, samples=samples, seed=seed, within=(0.0, 1.0)),
        majority=float(confusion_TT.sum(axis=1).max() / n),
        tasks={name: _figures(confusion_TT, t) for t, name in enumerate(names)},
        confusion=confusion_TT.tolist(),
        loss=float(-np.log(np.maximum(p_NT[np.arange(n), truth], 1e-300)).mean()),
        calibration_error=_error(reliability, n),
        reliability=reliability,
        coverage=[_coverage(confidence_N, correct_N, float(threshold)) for threshold in thresholds],
        correct_N=correct_N,
    )


def calibration_error(probability_NT: ArrayLike, truth_N: ArrayLike, *, bins: int = 10) -> float:
    """Return the expected absolute difference of confidence and accuracy over bins of equal width; 0 without rows.

    Args:
        probability_NT: probability of each task, [N, T].
        truth_N: index of each row's true task, [N].
        bins: number of bins.
    """
    p_NT, truth = np.asarray(probability_NT, dtype=np.float64), np.asarray(truth_N)
    correct_N = (p_NT.argmax(axis=1) == truth).astype(np.float64)
    return _error(_reliability(p_NT.max(axis=1), correct_N, bins), len(truth))


def _reliability(confidence_N: Floats, correct_N: Floats, bins: int) -> list[ReliabilityBin]:
    bin_N = np.clip(np.ceil(confidence_N * bins).astype(np.int64) - 1, 0, bins - 1)
    found = []
    for b in range(bins):
        rows = bin_N == b
        confidence, accuracy = _mean(confidence_N[rows]), _mean(correct_N[rows])
        found.append(ReliabilityBin(b / bins, (b + 1) / bins, int(rows.sum()), confidence, accuracy))
    return found


def _error(reliability: Sequence[ReliabilityBin], n: int) -> float:
    gaps = [b.rows * abs(b.accuracy - b.confidence) for b in reliability if b.accuracy is not None and b.confidence]
    return float(sum(gaps) / max(n, 1))


def _figures(confusion_TT: NDArray[np.int64], t: int) -> TaskFigures:
    right, rows, routed = int(confusion_TT[t, t]), int(confusion_TT[t].sum()), int(confusion_TT[:, t].sum())
    return TaskFigures(rows, routed, right / routed if routed else None, right / rows if rows else None)


def _coverage(confidence_N: Floats, correct_N: Floats, threshold: float) -> Coverage:
    kept = confidence_N >= threshold
    return Coverage(threshold, float(kept.mean()), _mean(correct_N[kept]), _mean(correct_N[~kept]))


def _mean(values: Floats) -> float | None:
    return float(values.mean()) if len(values) else None
