"""How well a router names tasks, and whether its confidence can be believed: figures on rows it was not trained on.

    confidence_n = max_t p_nt        calibration error = sum_b (rows_b / N) |accuracy_b - confidence_b|

over bins b of equal width. A threshold c splits the rows: ``coverage`` is the share with confidence >= c, which top-1
routing decides; the others are left to a fall-back.

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
    """One task: ``rows`` that have it, rows ``routed`` to it; ``precision`` and ``recall`` are None where none."""

    rows: int
    routed: int
    precision: float | None
    recall: float | None


@dataclass(frozen=True)
class ReliabilityBin:
    """Rows whose confidence is in (``low``, ``high``]; mean ``confidence`` and ``accuracy`` are None without rows."""

    low: float
    high: float
    rows: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True)
class Coverage:
    """At this ``threshold`` of confidence: the share of rows at or above it (``coverage``), and how right they are.

    ``accuracy_below`` is that of the other rows; None where there are none.
    """

    threshold: float
    coverage: float
    accuracy: float | None
    accuracy_below: float | None


@dataclass(frozen=True)
class RouterReport:
    """What the router does on N rows with known tasks.

    Attributes:
        names: T tasks, in the router's order.
        rows: number of rows.
        prompts: number of different prompts.
        accuracy: share of rows routed to their task, with a bootstrap interval over prompts.
        majority: the accuracy of always naming the most frequent task of these rows.
        tasks: precision and recall by task.
        confusion: rows are true tasks, columns are routed ones (counts).
        loss: mean cross-entropy.
        calibration_error: expected gap of confidence and accuracy.
        reliability: the bins that it is made of.
        coverage: by threshold.
        correct_N: 1 where a row is right, for comparisons on the same rows.
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
        """Return the JSON-ready report, without the rows."""
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
        probability_NT: each row sums to 1; the first of equal tasks is the routed one.
        truth_N: the number of each row's task.
        groups: the prompt of each row, the unit of the bootstrap.
        names: T tasks.
        bins: number of bins of equal width, for the calibration error.
        thresholds: at which coverage is reported.
        samples: number of resamples of the bootstrap.
        seed: random seed of the bootstrap.

    Raises:
        FitError: no row, or sides that do not fit together.
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
    """Return the expected gap of confidence and accuracy over bins of equal width (0 without rows).

    Args:
        probability_NT: each row sums to 1.
        truth_N: the number of each row's task.
        bins: how many.
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
