"""Weights that do not depend on the prompt: the best fixed distribution over objectives, a convex problem.

    minimise over v >= 0:   mean_n w_n softplus(-d_n . v) + ridge / 2 * sum_k (v_k * sd_k)^2
    weights = v / sum(v)        beta = sum(v)

With ``toward: equal`` the penalty is ridge / 2 * sum_k (v_k * sd_k - mean_k(v_k * sd_k))^2. With little data, the
weights then become equal, in units of the spread of each objective, instead of zero.

d_n is the difference of the debiased scores, chosen minus rejected. The gate starts from these weights and is
regularised towards them. They are also the baseline that shows what reading the prompt adds.

Shapes: N pairs, K objectives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit

from facetrm.core.errors import FitError
from facetrm.core.statistics import Floats
from facetrm.core.threads import few_blas_threads


@dataclass(frozen=True)
class FixedWeights:
    """Weights that do not depend on the prompt.

    Attributes:
        weights_K: weight of each objective, 0 or more; they sum to 1.
        beta: factor that turns the margins ``d @ weights_K`` into log odds.
    """

    weights_K: Floats
    beta: float


def fit_unconditional(
    difference_NK: Floats,
    *,
    gated: Sequence[bool],
    weights: Floats | None = None,
    ridge: float = 1e-3,
    toward: Literal["zero", "equal"] = "zero",
) -> FixedWeights:
    """Fit fixed non-negative weights to preferences.

    Args:
        difference_NK: debiased scores of the chosen answers minus those of the rejected ones, [N, K].
        gated: whether each objective may have a weight above 0, [K].
        weights: weight of each pair, [N]; None for equal weights.
        ridge: strength of the ridge penalty on standardised coefficients; it also makes the solution unique.
        toward: whether the penalty shrinks the coefficients towards ``zero`` or towards ``equal`` values.

    Returns:
        Weights and beta. The weights are uniform if no objective favours the chosen answers.

    Raises:
        FitError: no pair, no objective that may have a weight, or a difference that is not finite.
    """
    d_NK, flags = np.asarray(difference_NK, dtype=np.float64), np.asarray(gated, dtype=bool)
    if not len(d_NK):
        raise FitError("no preference pair to fit weights on", place="gate", fix="give at least one pair")
    if not flags.any():
        raise FitError("no objective may enter the gate", place="gate", fix="declare the direction of at least one")
    if not np.isfinite(d_NK).all():
        raise FitError("a score is not finite", place="gate", fix="encode the pairs again")
    w_N = np.full(len(d_NK), 1.0 / len(d_NK)) if weights is None else weights / weights.sum()
    spread_K = np.sqrt(w_N @ d_NK**2)
    open_K = flags & (spread_K > 1e-12)
    uniform_K = flags / flags.sum()
    if not open_K.any():
        return FixedWeights(uniform_K, 1.0)
    z_NO = d_NK[:, open_K] / spread_K[open_K]

    def objective(u_O: Floats) -> tuple[float, Floats]:
        margin_N = z_NO @ u_O
        slope_N = -w_N * expit(-margin_N)
        pulled_O = u_O - (u_O.mean() if toward == "equal" else 0.0)
        loss = w_N @ np.logaddexp(0.0, -margin_N) + 0.5 * ridge * (pulled_O @ pulled_O)
        return float(loss), z_NO.T @ slope_N + ridge * pulled_O

    start_O = np.full(z_NO.shape[1], 1.0 / z_NO.shape[1])
    bounds = [(0.0, None)] * len(start_O)
    with few_blas_threads(z_NO.size):
        found = minimize(objective, start_O, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 1000})
    v_K = np.zeros(len(flags))
    v_K[open_K] = found.x / spread_K[open_K]
    total = float(v_K.sum())
    if total <= 1e-9:
        return FixedWeights(uniform_K, fit_beta(d_NK @ uniform_K, weights=w_N))
    return FixedWeights(v_K / total, total)


def fit_beta(margin_N: Floats, *, weights: Floats | None = None, log_odds: bool = False) -> float:
    """Return the factor that turns reward margins into log odds: the positive minimiser of the Bradley-Terry loss.

    The search covers 1e-3 to 1e3, divided by the root mean square of the margins. The result is therefore finite even
    if all pairs are ordered correctly.

    Args:
        margin_N: reward margin of each pair, chosen minus rejected, [N].
        weights: weight of each pair, [N]; None for equal weights.
        log_odds: whether the margins are already log odds. If so, log(beta)^2 / 2 is added to the summed loss, which
            keeps beta near 1 if there are few pairs or all are ordered correctly.

    Returns:
        The factor beta; 1 if there is no pair or all margins are 0.
    """
    margin_N = np.asarray(margin_N, dtype=np.float64)
    w_N = np.full(len(margin_N), 1.0 / max(len(margin_N), 1)) if weights is None else weights / weights.sum()
    spread = float(np.sqrt(w_N @ margin_N**2)) if len(margin_N) else 0.0
    if spread <= 1e-12:
        return 1.0
    found = minimize_scalar(
        lambda t: (
            float(w_N @ np.logaddexp(0.0, -np.exp(t) * margin_N / spread))
            + log_odds * (t - np.log(spread)) ** 2 / (2.0 * len(margin_N))
        ),
        bounds=(np.log(1e-3), np.log(1e3)),
        method="bounded",
    )
    return float(np.exp(found.x) / spread)
