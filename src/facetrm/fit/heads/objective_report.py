"""Reports of how well each objective is predicted on held-out rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from facetrm.core.statistics import bootstrap_spearman, pearson, spearman
from facetrm.model.validity import Validity


@dataclass(frozen=True)
class ObjectiveReport:
    """How well one objective is predicted on held-out rows.

    Attributes:
        name: name of the objective.
        n: number of labelled rows.
        prompts: number of different prompts of the labelled rows.
        held_out: number of held-out rows that the following figures are computed on.
        alpha: chosen ridge penalty; None if no head was fitted (in an evaluation, or if the mean is predicted).
        mse: mean squared error of the predictions on the [0, 1] scale, unweighted.
        mse_mean: mean squared error of predicting the training mean for every row, on the same scale.
        pearson: Pearson correlation of predictions and labels; NaN if either is constant.
        spearman: Spearman correlation of predictions and labels; NaN if either is constant.
        interval: interval of ``spearman`` from a bootstrap over prompts; NaN without bootstrap samples.
        note: why no head was fitted; else empty.
    """

    name: str
    n: int
    prompts: int
    held_out: int
    alpha: float | None
    mse: float
    mse_mean: float
    pearson: float
    spearman: float
    interval: tuple[float, float]
    note: str = ""

    @property
    def validity(self) -> Validity:
        """How well the objective is predicted on the held-out rows, as a model records it."""
        return Validity.of("spearman", self.spearman, self.interval, self.held_out)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dict: NaN becomes None."""
        values: dict[str, Any] = asdict(self) | {"measurable": self.validity.measurable}
        values["interval"] = [_plain(x) for x in self.interval]
        return {key: _plain(value) if isinstance(value, float) else value for key, value in values.items()}


def _plain(value: float) -> float | None:
    return value if np.isfinite(value) else None


def report_objective(
    name: str,
    predictions_N: ArrayLike,
    *,
    labels_N: ArrayLike,
    baseline_N: ArrayLike,
    groups_N: ArrayLike,
    alpha: float | None = None,
    bootstrap: int = 200,
    seed: int = 0,
    note: str = "",
) -> ObjectiveReport:
    """Compare the predictions of one objective with its labels.

    Args:
        name: name of the objective.
        predictions_N: predictions on the [0, 1] scale, [N]; NaN for rows that were not held out.
        labels_N: labels on the [0, 1] scale, [N]; NaN if not rated.
        baseline_N: predictions of the baseline, which is the training mean, [N].
        groups_N: prompt key of each row, [N]; the bootstrap resamples prompts.
        alpha: chosen ridge penalty; None if no head was fitted.
        bootstrap: number of bootstrap samples for the interval; 0 for no interval.
        seed: random seed of the bootstrap.
        note: why no head was fitted; else empty.
    """
    labels, predictions = np.asarray(labels_N, dtype=np.float64), np.asarray(predictions_N, dtype=np.float64)
    groups, rated = np.asarray(groups_N), np.isfinite(labels)
    rows = rated & np.isfinite(predictions)
    y, p = labels[rows], predictions[rows]
    interval = (float("nan"), float("nan"))
    if bootstrap and len(y):
        found = bootstrap_spearman(p, y, groups[rows], samples=bootstrap, seed=seed)
        interval = (found.low, found.high)
    return ObjectiveReport(
        name=name,
        n=int(rated.sum()),
        prompts=len(np.unique(groups[rated])),
        held_out=len(y),
        alpha=alpha,
        mse=float(np.mean((p - y) ** 2)) if len(y) else float("nan"),
        mse_mean=float(np.mean((np.asarray(baseline_N, dtype=np.float64)[rows] - y) ** 2)) if len(y) else float("nan"),
        pearson=pearson(p, y),
        spearman=spearman(p, y),
        interval=interval,
        note=note,
    )


def with_interval(
    report: ObjectiveReport,
    predictions_N: ArrayLike,
    labels_N: ArrayLike,
    groups_N: ArrayLike,
    *,
    bootstrap: int,
    seed: int,
) -> ObjectiveReport:
    """Return a report with the interval of its Spearman correlation.

    Args:
        report: the report of an objective.
        predictions_N: the predictions that it is about, [N]; NaN for rows that were not held out.
        labels_N: labels on the [0, 1] scale, [N]; NaN if not rated.
        groups_N: prompt key of each row, [N]; the bootstrap resamples prompts.
        bootstrap: number of bootstrap samples; 0 leaves the report as it is.
        seed: random seed of the bootstrap.
    """
    predictions, labels = np.asarray(predictions_N, dtype=np.float64), np.asarray(labels_N, dtype=np.float64)
    rows = np.isfinite(labels) & np.isfinite(predictions)
    if not bootstrap or not rows.any():
        return report
    groups = np.asarray(groups_N)[rows]
    found = bootstrap_spearman(predictions[rows], labels[rows], groups, samples=bootstrap, seed=seed)
    return replace(report, interval=(found.low, found.high))


def mean_spearman(reports: Sequence[ObjectiveReport]) -> float:
    """Return the mean Spearman correlation of the objectives, leaving out NaN; NaN if there is none."""
    values = [report.spearman for report in reports if np.isfinite(report.spearman)]
    return float(np.mean(values)) if values else float("nan")
