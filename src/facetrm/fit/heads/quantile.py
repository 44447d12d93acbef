"""Quantile heads: the distribution of an objective's ratings, with the noise of its raters, as linear quantiles.

    q_kj(x) = w_kj^T x + b_kj   minimises   mean_n s_n pinball(y_nk - q_kj(x_n), tau_j) + penalty / 2 * |sd * w_kj|^2
    pinball(u, tau) = max(tau * u, (tau - 1) * u)          tau = linspace(0, 1, Q + 2)[1:-1]

The loss is convex but has a corner. It is minimised for a falling width h of the smooth bound
``tau * u + h * log(1 + exp(-u / h))``, which is above it by at most ``h * log 2``.

Shapes: N rows, D hidden size, K objectives, Q quantiles.

Reference: QRM (arXiv 2409.10164). We differ: the fit is deterministic, and quantiles that cross are sorted.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from pydantic import Field
from scipy.optimize import minimize
from scipy.special import expit
from torch import Tensor

from facetrm.backbone.encoder import Layer, in_order
from facetrm.core.config import Section
from facetrm.core.errors import FitError
from facetrm.core.statistics import Floats
from facetrm.core.threads import few_blas_threads
from facetrm.data.objectives import Objective
from facetrm.fit.heads.gram import FeatureSource, at_layer, response_chunks
from facetrm.model.uncertainty.quantile_heads import QuantileHeads

_WIDTHS = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3)  # of the smooth bound, in standard deviations of the labels


class QuantileConfig(Section):
    """Settings of the quantile heads.

    Attributes:
        levels: number of quantiles Q; their levels are evenly spaced inside 0 to 1.
        penalty: strength of the L2 penalty on weights for features with unit standard deviation.
        steps: largest number of L-BFGS steps for each width of the smooth bound.

    Example:
        >>> from facetrm.fit.heads.quantile import QuantileConfig
        >>> QuantileConfig(levels=9).levels
        9
    """

    levels: int = Field(default=19, ge=2)
    penalty: float = Field(default=1e-4, ge=0.0)
    steps: int = Field(default=500, ge=1)


def fit_quantile_heads(
    response_ND: Tensor,
    labels_NK: ArrayLike,
    *,
    objectives: Sequence[Objective],
    config: QuantileConfig | None = None,
    weights: ArrayLike | None = None,
) -> QuantileHeads:
    """Fit the quantile heads of every objective on stored features.

    Args:
        response_ND: response vectors of the N rows, in memory.
        labels_NK: labels on the [0, 1] scale, [N, K], NaN if not rated.
        objectives: the K objectives.
        config: settings; None for the defaults.
        weights: weight of each row, [N], 0 or more; None for equal weights.

    Raises:
        FitError: shapes that do not match, a value that is not finite, or an objective with fewer than two rated rows.
    """
    config = QuantileConfig() if config is None else config
    x_ND, labels = response_ND.detach().double().numpy(), np.asarray(labels_NK, dtype=np.float64)
    weight_N = np.ones(len(x_ND)) if weights is None else np.asarray(weights, dtype=np.float64)
    if x_ND.ndim != 2 or labels.shape != (len(x_ND), len(objectives)) or weight_N.shape != (len(x_ND),):
        problem = f"features {list(x_ND.shape)}, labels {list(labels.shape)}, weights {list(weight_N.shape)}"
        raise FitError(problem, place="quantile heads", fix=f"give N rows of each and {len(objectives)} labels per row")
    if not np.isfinite(x_ND).all() or not np.isfinite(weight_N).all() or (weight_N < 0).any():
        fix = "give finite features, and weights of 0 or more"
        raise FitError("a feature or a weight is not valid", place="quantile heads", fix=fix)
    levels_Q = np.linspace(0.0, 1.0, config.levels + 2)[1:-1]
    weight, bias = [], []
    for k, objective in enumerate(objectives):
        rows = np.isfinite(labels[:, k]) & (weight_N > 0)
        if rows.sum() < 2:
            place = f"objective '{objective.name}'"
            raise FitError(f"{int(rows.sum())} rated rows", place=place, fix="add ratings or drop the objective")
        share_N = weight_N[rows] / weight_N[rows].sum()
        w_QD, b_Q = _fit_one(x_ND[rows], labels[rows, k], share_N, levels_Q, config)
        weight.append(torch.from_numpy(w_QD).float())
        bias.append(torch.from_numpy(b_Q).float())
    return QuantileHeads(torch.stack(weight), torch.stack(bias), torch.from_numpy(levels_Q).float())


def fit_layered_quantiles(
    features: FeatureSource,
    labels_NK: ArrayLike,
    *,
    reads: Sequence[Layer],
    objectives: Sequence[Objective],
    config: QuantileConfig | None = None,
    weights: ArrayLike | None = None,
) -> QuantileHeads:
    """Fit the quantile heads of every objective on the layer that its ridge head reads.

    Args:
        features: features of the N rows, whole or in chunks; the vectors of one layer at a time are held in memory.
        labels_NK: labels on the [0, 1] scale, [N, K], NaN if not rated.
        reads: the layer of each of the K objectives.
        objectives: the K objectives.
        config: settings; None for the defaults.
        weights: weight of each row, [N], 0 or more; None for equal weights.

    Raises:
        FitError: as :func:`fit_quantile_heads` does.
    """
    labels = np.asarray(labels_NK, dtype=np.float64)
    parts: dict[int, tuple[Tensor, Tensor]] = {}
    levels_Q = torch.empty(0)
    for layer in in_order(reads):
        mine = [k for k, other in enumerate(reads) if other == layer]
        vectors = [x_ND for _, x_ND in response_chunks(at_layer(features, layer), rows=len(labels))]
        heads = fit_quantile_heads(
            torch.cat(vectors),
            labels[:, mine],
            objectives=[objectives[k] for k in mine],
            config=config,
            weights=weights,
        )
        parts |= dict(zip(mine, zip(heads.weight_KQD, heads.bias_KQ, strict=True), strict=True))
        levels_Q = heads.levels_Q
    weight, bias = zip(*(parts[k] for k in range(len(reads))), strict=True)
    return QuantileHeads(torch.stack(weight), torch.stack(bias), levels_Q, tuple(reads))


def pinball(error: Floats, level: Floats | float) -> Floats:
    """Return the pinball loss ``max(level * error, (level - 1) * error)``, elementwise.

    Args:
        error: label minus quantile.
        level: level of the quantile, 0 to 1; it broadcasts with ``error``.
    """
    return np.maximum(level * error, (np.asarray(level) - 1.0) * error)


def _fit_one(
    x_ND: Floats, y_N: Floats, share_N: Floats, levels_Q: Floats, config: QuantileConfig
) -> tuple[Floats, Floats]:
    """Return weights [Q, D] and intercepts [Q] of one objective."""
    mean_D, deviation_D = share_N @ x_ND, np.sqrt(share_N @ (x_ND - share_N @ x_ND) ** 2)
    deviation_D[deviation_D <= 1e-12] = np.inf
    centre = float(share_N @ y_N)
    scale = max(float(np.sqrt(share_N @ (y_N - centre) ** 2)), 1e-12)
    z_ND, target_N = (x_ND - mean_D) / deviation_D, (y_N - centre) / scale
    count, size = len(levels_Q), x_ND.shape[1]
    start = np.zeros((size + 1, count))
    start[-1] = np.quantile(target_N, levels_Q)

    def objective(flat: Floats, width: float) -> tuple[float, Floats]:
        w_DQ = flat.reshape(size + 1, count)
        error_NQ = target_N[:, None] - z_ND @ w_DQ[:-1] - w_DQ[-1]
        loss = share_N @ (levels_Q * error_NQ + width * np.logaddexp(0.0, -error_NQ / width))
        slope_NQ = share_N[:, None] * (expit(-error_NQ / width) - levels_Q)
        slope = np.vstack([z_ND.T @ slope_NQ + config.penalty * w_DQ[:-1], slope_NQ.sum(axis=0)])
        return float(loss.sum() + 0.5 * config.penalty * (w_DQ[:-1] ** 2).sum()), slope.ravel()

    flat = start.ravel()
    with few_blas_threads(z_ND.size):
        for width in _WIDTHS:
            options = {"maxiter": config.steps, "maxcor": 20}
            flat = minimize(objective, flat, args=(width,), jac=True, method="L-BFGS-B", options=options).x
    w_DQ = flat.reshape(size + 1, count)
    weight_QD = scale * (w_DQ[:-1] / deviation_D[:, None]).T
    return weight_QD, centre + scale * w_DQ[-1] - weight_QD @ mean_D
