"""Margins as probabilities of being right: one factor, fitted on half of the prompts and judged on the other half.

p(right) = sigmoid(beta * margin)
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit

from facetrm.report.evaluated.measured import BenchmarkPart, CalibrationPart

_LEAST: Final = 50
"""Smallest number of pairs in each half."""
_BINS: Final = 8


def calibrated(part: BenchmarkPart, model: str) -> CalibrationPart | None:
    """Return the calibration of a model's margins; None with few pairs, or if margins do not tell right from wrong.

    Args:
        part: Models on one benchmark.
        model: Name of the model.
    """
    halves: tuple[list[float], list[float]] = ([], [])
    for key, one in part.answered.get(model, {}).items():
        if one.answers == 2 and one.margin is not None:
            prompt = part.texts[key].prompt if key in part.texts else one.id
            halves[hashlib.sha256(prompt.encode()).digest()[0] % 2].append(one.margin)
    fitted, judged = (np.asarray(half) for half in halves)
    if min(len(fitted), len(judged)) < _LEAST:
        return None
    unit = float(np.mean(np.abs(fitted)))
    if unit == 0:
        return None

    def loss(log_beta: float) -> float:
        return float(np.mean(np.logaddexp(0.0, -np.exp(log_beta) * fitted / unit)))

    best = minimize_scalar(loss, bounds=(-8.0, 8.0), method="bounded")
    beta = float(np.exp(best.x)) / unit
    if not -7.9 < best.x < 7.9:
        return None
    confidence = expit(beta * np.abs(judged))
    right = np.where(judged == 0, 0.5, judged > 0)
    bins = []
    for chosen in np.array_split(np.argsort(confidence, kind="stable"), _BINS):
        if len(chosen):
            bins.append((float(confidence[chosen].mean()), float(right[chosen].mean()), len(chosen)))
    return CalibrationPart(tuple(bins), _error(bins), beta, len(judged))


def _error(bins: Sequence[tuple[float, float, int]]) -> float:
    pairs = sum(count for _, _, count in bins)
    return sum(count * abs(confidence - accuracy) for confidence, accuracy, count in bins) / pairs
