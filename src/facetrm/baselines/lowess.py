"""LOWESS: a smooth curve through a scatter of points, by locally weighted straight lines.

    h(t)     = distance from t to its k-th nearest point, k = floor(fraction * N), ties included
    w_n(t)   = (1 - (|x_n - t| / h(t))^3)^3 where |x_n - t| < h(t), else 0           tricube
    curve(t) = a + b t of the weighted least-squares line, weights w_n(t) * v_n

    v_n = 1 at first; in each further iteration v_n = (1 - (e_n / (6 median |e|))^2)^2 where |e_n| is below
    6 median |e|, else 0, with the residuals e_n = y_n - curve(x_n)                  bisquare

The line is fitted at each distinct x if there are at most ``points`` of them, else at up to that many of them, half
evenly spaced by rank and half by position; in between the curve is linear. If the k nearest points of t all lie at t,
the curve is their mean. Where all of them are outliers (all v_n are 0), v is left out.

Shapes: N points, G grid points.

Reference: Cleveland, Robust Locally Weighted Regression and Smoothing Scatterplots, JASA 74 (1979),
https://doi.org/10.1080/01621459.1979.10481038. We differ in the treatment of ties: all points at the same distance
count, so the curve does not depend on the order of the points.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from facetrm.core.errors import FitError
from facetrm.core.statistics import Floats

_FEWEST = 3


def lowess(
    x: ArrayLike, y: ArrayLike, *, fraction: float = 0.5, robust: int = 3, points: int = 400
) -> tuple[Floats, Floats]:
    """Return the grid and the curve, each [G]; between grid points the curve is linear.

    Args:
        x: Position of each point, [N].
        y: Value of each point, [N].
        fraction: Share of the points that a line is fitted to, above 0 and up to 1.
        robust: Number of further iterations, which reduce the weight of outliers; 0 for none.
        points: Largest number of grid points, at least 4.

    Raises:
        FitError: There are fewer than three points, one is not finite, or an argument is out of range.
    """
    x_N, y_N = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if x_N.ndim != 1 or x_N.shape != y_N.shape or len(x_N) < _FEWEST:
        problem = f"points of shapes {x_N.shape} and {y_N.shape}"
        raise FitError(problem, place="lowess", fix=f"give {_FEWEST} points or more, as two vectors of one length")
    if not (np.isfinite(x_N).all() and np.isfinite(y_N).all()):
        raise FitError("a point is not finite", place="lowess", fix="leave it out")
    if not 0.0 < fraction <= 1.0 or robust < 0 or points < 4:
        problem = f"fraction {fraction}, robust {robust}, points {points}"
        raise FitError(problem, place="lowess", fix="use 0 < fraction <= 1, robust >= 0 and points >= 4")
    order = np.argsort(x_N, kind="stable")
    x_N, y_N = x_N[order], y_N[order]
    nearest = min(len(x_N), max(2, int(fraction * len(x_N) + 1e-10)))
    grid_G = _grid(x_N, points)
    kernels = [_kernel(x_N, float(t), nearest) for t in grid_G]
    trust_N = np.ones(len(x_N))
    for left in range(robust, -1, -1):
        curve_G = np.array([_line_at(y_N, trust_N, *kernel) for kernel in kernels])
        if left:
            new_N = _bisquare(y_N - np.interp(x_N, grid_G, curve_G))
            if new_N is None:
                break
            trust_N = new_N
    return grid_G, curve_G


def _grid(x_N: Floats, points: int) -> Floats:
    """Return the distinct positions, or up to so many of them, spaced by rank and by position, both ends included."""
    distinct = np.unique(x_N)
    if len(distinct) <= points:
        return distinct
    by_rank = x_N[np.linspace(0, len(x_N) - 1, points - points // 2).round().astype(int)]
    even = np.linspace(x_N[0], x_N[-1], points // 2)
    by_position = distinct[np.minimum(np.searchsorted(distinct, even), len(distinct) - 1)]
    return np.unique(np.concatenate([by_rank, by_position]))


def _kernel(x_N: Floats, at: float, nearest: int) -> tuple[slice, Floats, Floats]:
    """Return the rows that a line at a position is fitted to, their offsets from it, and their tricube weights."""
    distance_N = np.abs(x_N - at)
    width = float(np.partition(distance_N, nearest - 1)[nearest - 1])
    if width == 0.0:
        rows = slice(int(np.searchsorted(x_N, at, "left")), int(np.searchsorted(x_N, at, "right")))
        return rows, np.zeros(rows.stop - rows.start), np.ones(rows.stop - rows.start)
    rows = slice(int(np.searchsorted(x_N, at - width, "left")), int(np.searchsorted(x_N, at + width, "right")))
    return rows, x_N[rows] - at, np.maximum(1.0 - (distance_N[rows] / width) ** 3, 0.0) ** 3


def _line_at(y_N: Floats, trust_N: Floats, rows: slice, offset: Floats, tricube: Floats) -> float:
    """Return the value at offset 0 of the weighted least-squares line; a mean where the points have one position."""
    weight = tricube * trust_N[rows]
    total = float(weight.sum())
    if total <= 0.0:  # all neighbours are outliers: without the iterations there is at least a line
        weight, total = tricube, float(tricube.sum())
    weight, values = weight / total, y_N[rows]
    mean_offset, mean_value = float(weight @ offset), float(weight @ values)
    centred = offset - mean_offset
    spread = float(weight @ centred**2)
    if spread <= 1e-12 * float((weight > 0) @ offset**2 + 1.0):
        return mean_value
    return mean_value - mean_offset * float((weight * centred) @ values) / spread


def _bisquare(residual_N: Floats) -> Floats | None:
    """Return the weight of each point by its residual; None if at least half of the residuals are 0."""
    size_N = np.abs(residual_N)
    middle = float(np.median(size_N))
    if middle <= 1e-12 * float(size_N.max()):
        return None
    return np.maximum(1.0 - (size_N / (6.0 * middle)) ** 2, 0.0) ** 2
