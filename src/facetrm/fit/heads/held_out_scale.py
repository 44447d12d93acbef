"""Factors that make the posterior's intervals fit held-out ratings, and the correlation of the ratings' errors.

    unit_nk   = s_k sqrt(1 + h_n / (1 - w_n h_n))       the deviation of rating n from a head that has not seen it
    scale_k   = 90% quantile of |e_nk| / unit_nk, divided by 1.645
    spread_k  = sqrt(mean of (e_nk / unit_nk)^2)
    r_kl      = sum e_nk e_nl / sqrt(sum e_nk^2 sum e_nl^2)     e_nk = y_nk - held-out prediction, of rows with both

``h_n`` is the leverage of row n in the fit on all rows, so that ``h_n / (1 - w_n h_n)`` is its leverage in a fit
without it. ``1.645 * scale_k * deviation`` then holds 90% of held-out ratings, whatever the shape of their noise.

Shapes: N rows, K objectives.

Reference: split conformal prediction with normalised residuals (Lei and others, JASA 113, 2018). We differ: residuals
are out of fold, so the guarantee for finite samples is approximate.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import torch
from torch import Tensor

from facetrm.core.statistics import Floats
from facetrm.fit.heads.gram import FeatureSource, response_chunks
from facetrm.model.uncertainty.posterior import HeadPosterior

COVERAGE: Final = 0.9
NORMAL: Final = 1.6448536269514722  # a normal variable is within so many standard deviations with this probability
_LEAST: Final = 30  # rows that rate both objectives, for a correlation


def scale_to_residuals(
    posterior: HeadPosterior, source: FeatureSource, residual_NK: Floats, *, weight_N: Floats
) -> HeadPosterior:
    """Return the posterior with factors and correlations from held-out predictions. It costs one pass over features.

    Args:
        posterior: posterior of K heads that read one layer, in closed form.
        source: features of the N rows of the fit, as the heads read them.
        residual_NK: label minus held-out prediction; NaN for rows without label or prediction.
        weight_N: weight of each row in the fit.
    """
    ratio_NK = np.full(residual_NK.shape, np.nan)
    weights_N = torch.from_numpy(weight_N)
    for start, x_ND in response_chunks(source, rows=len(residual_NK)):
        rows = slice(start, start + len(x_ND))
        for group in posterior.groups:
            columns = list(group.columns)
            seen_N = group.leverage(x_ND.double())  # near 1 where a head has more features than ratings
            unseen_N = seen_N / (1.0 - weights_N[rows] * seen_N).clamp(min=1e-6)
            unit_NJ = ((1.0 + unseen_N)[:, None] * group.noise_J).sqrt().clamp(min=1e-12).numpy()
            ratio_NK[rows, columns] = np.abs(residual_NK[rows, columns]) / unit_NJ
    factors = torch.tensor([_factors(ratio_N) for ratio_N in ratio_NK.T])
    return posterior.scaled(
        scale_K=factors[:, 0], spread_K=factors[:, 1], correlation_KK=residual_correlation(residual_NK)
    )


def residual_correlation(residual_NK: Floats) -> Tensor:
    """Return the correlation of the held-out errors of K objectives, [K, K].

    It is 0 for two objectives that fewer than 30 rows rate together. The matrix has no negative eigenvalue.

    Args:
        residual_NK: label minus held-out prediction; NaN for rows without label or prediction.
    """
    known_NK = np.isfinite(residual_NK)
    error_NK, rated_NK = np.where(known_NK, residual_NK, 0.0), known_NK.astype(np.float64)
    squares_KK = (error_NK**2).T @ rated_NK  # of k, over the rows that rate k and l
    norm_KK = np.sqrt(squares_KK * squares_KK.T)
    enough_KK = (rated_NK.T @ rated_NK >= _LEAST) & (norm_KK > 0)
    found_KK = np.where(enough_KK, error_NK.T @ error_NK / np.where(norm_KK > 0, norm_KK, 1.0), 0.0)
    np.fill_diagonal(found_KK, 1.0)
    values, vectors = np.linalg.eigh(found_KK)
    if values[0] < 0:  # rows differ from pair to pair
        found_KK = (vectors * values.clip(min=0.0)) @ vectors.T
        length_K = np.sqrt(np.diag(found_KK))
        found_KK = found_KK / np.outer(length_K, length_K)
    return torch.from_numpy(found_KK).float()


def _factors(ratio_N: Floats) -> tuple[float, float]:
    """Return the factors scale and spread of one objective; 1 if no row is held out."""
    found_N = np.sort(ratio_N[np.isfinite(ratio_N)])
    if not len(found_N):
        return 1.0, 1.0
    rank = min(math.ceil(COVERAGE * (len(found_N) + 1)), len(found_N))
    return float(found_N[rank - 1]) / NORMAL, float(np.sqrt(np.mean(found_N**2)))
