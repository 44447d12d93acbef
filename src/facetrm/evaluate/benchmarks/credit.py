"""Credit for the scores of a question's answers. The rules for ties are those of the benchmarks.

Shapes: N questions, A answers of the largest question; absent answers are NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from facetrm.core.statistics import Floats

HALF: Final = 0.5
"""Credit of a tie that counts as half a win."""
LOSS: Final = 0.0
"""Credit of a tie that counts as a loss."""
_ROWS: Final = 4096


def padded(scores: Sequence[Sequence[float]]) -> Floats:
    """Return ragged scores as a matrix [N, A], with NaN where a question has fewer answers.

    Args:
        scores: Scores of each question's answers.
    """
    width = max((len(row) for row in scores), default=0)
    matrix = np.full((len(scores), width), np.nan)
    for n, row in enumerate(scores):
        matrix[n, : len(row)] = row
    return matrix


def pair_credit(scores_NA: Floats, right_N: NDArray[np.int64], *, tie: float = HALF) -> Floats:
    """Return the share of (right, wrong) pairs in which the right answer has the higher score, [N].

    Args:
        scores_NA: Scores, the right answers first.
        right_N: Number of right answers.
        tie: Credit of an exact tie.

    Returns:
        The shares; NaN for a question without such a pair.
    """
    credit = np.full(len(scores_NA), np.nan)
    for start in range(0, len(scores_NA), _ROWS):
        scores, right = scores_NA[start : start + _ROWS], right_N[start : start + _ROWS]
        is_right, is_wrong = _sides(scores, right)
        compared = is_right[:, :, None] & is_wrong[:, None, :]
        more, same = scores[:, :, None] > scores[:, None, :], scores[:, :, None] == scores[:, None, :]
        won = np.where(more, 1.0, np.where(same, tie, 0.0))
        total = compared.sum(axis=(1, 2))
        sums = np.where(compared, won, 0.0).sum(axis=(1, 2))
        credit[start : start + _ROWS] = np.divide(sums, total, out=np.full(len(scores), np.nan), where=total > 0)
    return credit


def best_credit(scores_NA: Floats, right_N: NDArray[np.int64]) -> Floats:
    """Return the share of right answers among those with the highest score, [N].

    With one right answer that is RewardBench 2's rule: 1/m if it is among m tied best answers, else 0.

    Args:
        scores_NA: Scores, the right answers first.
        right_N: Number of right answers.
    """
    best = scores_NA == np.nanmax(scores_NA, axis=1, keepdims=True) if scores_NA.size else scores_NA > 0
    is_right = np.arange(scores_NA.shape[1]) < right_N[:, None]
    credit: Floats = (best & is_right).sum(axis=1) / np.maximum(best.sum(axis=1), 1)
    return credit


def tied_pairs(scores_NA: Floats, right_N: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the number of (right, wrong) pairs with exactly equal scores, and of all pairs, [N] each.

    Args:
        scores_NA: Scores, the right answers first.
        right_N: Number of right answers.
    """
    ties, pairs = np.zeros(len(scores_NA), dtype=np.int64), np.zeros(len(scores_NA), dtype=np.int64)
    for start in range(0, len(scores_NA), _ROWS):
        scores = scores_NA[start : start + _ROWS]
        is_right, is_wrong = _sides(scores, right_N[start : start + _ROWS])
        compared = is_right[:, :, None] & is_wrong[:, None, :]
        same = (scores[:, :, None] == scores[:, None, :]) & compared
        ties[start : start + _ROWS], pairs[start : start + _ROWS] = same.sum(axis=(1, 2)), compared.sum(axis=(1, 2))
    return ties, pairs


def _sides(scores_NA: Floats, right_N: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which answers are right and which are wrong, [N, A] each; absent answers are neither."""
    there = ~np.isnan(scores_NA)
    first = np.arange(scores_NA.shape[1]) < right_N[:, None]
    return there & first, there & ~first
