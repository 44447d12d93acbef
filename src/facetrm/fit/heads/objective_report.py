"""How well each objective is predicted on rows that its head has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from facetrm.core.statistics import bootstrap_spearman, pearson, spearman


@dataclass(frozen=True)
class ObjectiveReport:
    """One objective on held-out rows.

    Attributes:
        name: name of the objective.
        n: rows labelled.
        prompts: how many different prompts they have.
        held_out: rows the figures below are measured on.
        alpha: the penalty chosen; None where no head was fitted here (an evaluation, or a fall-back to the mean).
        mse: mean squared error of the predictions.
        mse_mean: mean squared error of predicting the training mean for every row (both in [0, 1] units, unweighted).
        pearson: Pearson correlation of prediction and label; NaN when either is constant.
        spearman: Spearman correlation of prediction and label; NaN when either is constant.
        interval: interval of ``spearman``, by bootstrap over prompts; NaN without resamples.
        note: why the objective has no head of its own; empty otherwise.
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

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dict: NaN becomes None."""
        values = asdict(self)
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
    """Compare predictions with labels; rows whose label is NaN are not counted, rows without a prediction not scored.

    Args:
        name: name of the objective.
        predictions_N: unit predictions, NaN where a row was not held out.
        labels_N: unit labels, NaN where not rated.
        baseline_N: what predicting the mean gives for each row.
        groups_N: prompt key of each row: the bootstrap's unit.
        alpha: the penalty chosen, if any.
        bootstrap: resamples for the interval; 0 for none.
        seed: random seed of the resampling.
        note: see :class:`ObjectiveReport`.
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


def mean_spearman(reports: Sequence[ObjectiveReport]) -> float:
    """Return the mean Spearman over the objectives that have one; NaN if none has."""
    values = [report.spearman for report in reports if np.isfinite(report.spearman)]
    return float(np.mean(values)) if values else float("nan")
