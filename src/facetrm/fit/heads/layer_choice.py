"""Stage 1 on several layers: each objective takes the layer that predicts its held-out labels best.

    e_kL    mean squared error of the head on layer L for objective k, on held-out folds of training prompts
    best    the layer with the smallest e_kL;  s_k  its standard error, over prompts
    chosen  the highest layer with e_kL <= e_k,best + s_k        (one-standard-error rule toward the last layer)

The inner layers of a decoder have no norm behind them, so their scales differ. A layer is divided by the ratio of its
scale to that of the highest layer, so that the ridge penalties mean the same for all; the heads that are returned read
the vectors as they are. A scale is the median over dimensions of the standard deviation, which a few huge dimensions
do not change.

Shapes: N rows, D hidden size, K objectives.

Reference: the rule is that of Breiman, Friedman, Olshen and Stone, Classification and Regression Trees (1984).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from facetrm.backbone.encoder import LAST, Layer, in_order
from facetrm.core.errors import FitError
from facetrm.core.progress import log
from facetrm.core.statistics import Floats
from facetrm.data.objectives import Objective
from facetrm.fit.heads.gram import FeatureSource, at_layer, response_chunks
from facetrm.fit.heads.held_out_scale import residual_correlation
from facetrm.fit.heads.objective_report import with_interval
from facetrm.fit.heads.ridge import LinearFit, RidgeConfig, fit_linear_experts
from facetrm.model.experts import LengthScale, LinearExperts
from facetrm.model.uncertainty.posterior import HeadPosterior, PosteriorGroup
from facetrm.model.uncertainty.quantile_heads import QuantileHeads


@dataclass(frozen=True)
class LayerRow:
    """How well each layer predicts the held-out labels of one objective.

    Attributes:
        name: name of the objective.
        chosen: the layer that its head reads.
        errors: mean squared error by layer, on held-out rows of the training prompts, on the [0, 1] scale.
        spearman: Spearman correlation by layer, on the same rows.
        standard_error: standard error, over prompts, of the smallest error; NaN if no head was fitted.
    """

    name: str
    chosen: Layer
    errors: Mapping[Layer, float]
    spearman: Mapping[Layer, float]
    standard_error: float

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dict; the layers are text."""
        by_layer = {"mse": self.errors, "spearman": self.spearman}
        found = {name: {str(layer): _plain(x) for layer, x in values.items()} for name, values in by_layer.items()}
        return {"chosen": self.chosen, "standard_error": _plain(self.standard_error), **found}


@dataclass(frozen=True)
class LayeredFit:
    """Heads that each read the layer chosen for their objective.

    Attributes:
        fit: the fitted heads and their reports.
        table: one row per objective; empty if there was only one layer.
        quantiles: quantile heads on the same layers; None if there are none.
    """

    fit: LinearFit
    table: tuple[LayerRow, ...] = ()
    quantiles: QuantileHeads | None = None


def fit_layered_experts(
    features: FeatureSource,
    labels_NK: ArrayLike,
    *,
    layers: Sequence[Layer],
    objectives: Sequence[Objective],
    groups: ArrayLike,
    config: RidgeConfig,
    weights: ArrayLike | None = None,
    length: LengthScale | None = None,
    uncertainty: bool = False,
) -> LayeredFit:
    """Fit one linear head per objective, on the layer that predicts its held-out labels best.

    Args:
        features: features of the N rows, in order, whole or in chunks; they hold all ``layers``.
        labels_NK: labels on the [0, 1] scale, [N, K], NaN if not rated.
        layers: the layers to choose from.
        objectives: the K objectives.
        groups: prompt key of each row, [N]; all rows of a prompt are in one fold.
        config: settings of each fit.
        weights: weight of each row, [N], 0 or more; None for equal weights.
        length: scale of an additional ``length`` expert; None for no such expert.
        uncertainty: whether to keep the posterior of the heads, one D x D matrix per layer, set of rows and alpha.

    Returns:
        The heads, their reports, and the table of all layers.

    Raises:
        FitError: as :func:`~facetrm.fit.heads.ridge.fit_linear_experts` does, or there is no layer.
        BackboneError: the features do not hold one of the layers.
    """
    known = in_order(layers)
    if not known:
        raise FitError("no layer to choose from", place="layers", fix="give at least one layer")
    fit = partial(
        fit_linear_experts,
        objectives=objectives,
        groups=groups,
        weights=weights,
        length=length,
        uncertainty=uncertainty,
    )
    if known == (LAST,):
        return LayeredFit(fit(features, labels_NK, config=config))
    quick = config if len(known) == 1 else config.model_copy(update={"bootstrap": 0})
    labels, group_N = np.asarray(labels_NK, dtype=np.float64), np.asarray(groups)
    factors = _factors(features, known, rows=len(labels))
    fits: dict[Layer, LinearFit] = {}
    for layer in known:
        fits[layer] = fit(at_layer(features, layer, factor=factors[layer]), labels, config=quick)
    weight_N = np.ones(len(labels)) if weights is None else np.asarray(weights, dtype=np.float64)
    table = tuple(_row(k, o.name, fits, labels, group_N, weight_N) for k, o in enumerate(objectives))
    made = _assembled(fits, factors, [row.chosen for row in table], labels, objectives=objectives, length=length)
    if len(known) == 1:
        return LayeredFit(made)
    for row in table:
        log("layer", objective=row.name, **row.to_dict())
    reports = tuple(
        with_interval(
            report, made.held_out_NK[:, k], labels[:, k], group_N, bootstrap=config.bootstrap, seed=config.seed
        )
        for k, report in enumerate(made.reports)
    )
    return LayeredFit(replace(made, reports=reports), table)


def _assembled(
    fits: Mapping[Layer, LinearFit],
    factors: Mapping[Layer, float],
    chosen: Sequence[Layer],
    labels_NK: Floats,
    *,
    objectives: Sequence[Objective],
    length: LengthScale | None,
) -> LinearFit:
    """Return one fit whose head k is that of the layer ``chosen[k]``, for vectors that are not scaled."""
    own = [fits[layer] for layer in chosen]
    experts = LinearExperts(
        objectives,
        torch.stack([fit.experts.weight_KD[k] * factors[chosen[k]] for k, fit in enumerate(own)]),
        torch.stack([fit.experts.bias_K[k] for k, fit in enumerate(own)]),
        length=length,
        layers=chosen,
    )
    held_out = np.stack([fit.held_out_NK[:, k] for k, fit in enumerate(own)], axis=1)
    reports = tuple(fit.reports[k] for k, fit in enumerate(own))
    posterior = _posterior(fits, factors, chosen, labels_NK - held_out)
    return LinearFit(experts, reports, own[0].means_K, held_out, posterior)


def _posterior(
    fits: Mapping[Layer, LinearFit], factors: Mapping[Layer, float], chosen: Sequence[Layer], residual_NK: Floats
) -> HeadPosterior | None:
    """Return the posterior of the heads that were chosen, for vectors that are not scaled; None if there is none."""
    found: list[PosteriorGroup] = []
    scale_K, spread_K = torch.ones(len(chosen)), torch.ones(len(chosen))
    for layer, fit in fits.items():
        if fit.posterior is None:
            return None
        mine = [k for k, other in enumerate(chosen) if other == layer]
        scale_K[mine], spread_K[mine] = fit.posterior.scale_K[mine], fit.posterior.spread_K[mine]
        parts = (group.of(mine, layer=layer, factor=factors[layer]) for group in fit.posterior.groups)
        found += [part for part in parts if part is not None]
    return HeadPosterior(
        found,
        experts=len(chosen),
        scale_K=scale_K,
        spread_K=spread_K,
        correlation_KK=residual_correlation(residual_NK),
    )


def _row(
    k: int,
    name: str,
    fits: Mapping[Layer, LinearFit],
    labels_NK: Floats,
    group_N: np.ndarray[Any, Any],
    weight_N: Floats,
) -> LayerRow:
    """Compare the layers on one objective."""
    layers = list(fits)
    loss = {layer: (fit.held_out_NK[:, k] - labels_NK[:, k]) ** 2 for layer, fit in fits.items()}
    rows = np.isfinite(loss[layers[0]])
    spearman = {layer: fit.reports[k].spearman for layer, fit in fits.items()}
    if not rows.any() or not weight_N[rows].sum() > 0:
        nothing = dict.fromkeys(layers, float("nan"))
        return LayerRow(name, layers[-1], nothing, spearman, float("nan"))
    errors = {layer: float(np.average(values[rows], weights=weight_N[rows])) for layer, values in loss.items()}
    best = min(reversed(layers), key=lambda layer: errors[layer])
    spread = _standard_error(loss[best][rows], group_N[rows], weight_N[rows])
    near = [layer for layer in layers if errors[layer] <= errors[best] + spread]
    return LayerRow(name, near[-1], errors, spearman, spread)


def _standard_error(values_N: Floats, group_N: np.ndarray[Any, Any], weight_N: Floats) -> float:
    """Return the standard error of the weighted mean of ``values_N``, whose rows of one prompt belong together."""
    _, codes = np.unique(group_N, return_inverse=True)
    mean = float(np.average(values_N, weights=weight_N))
    sums_G = np.bincount(codes, weights=weight_N * (values_N - mean))
    groups = len(sums_G)
    return float(np.sqrt(groups / max(groups - 1, 1) * (sums_G**2).sum()) / weight_N.sum())


def _factors(source: FeatureSource, layers: Sequence[Layer], *, rows: int) -> dict[Layer, float]:
    """Return the factor that brings each layer to the scale of the highest; 1 for a layer that is constant."""
    scale = {layer: 1.0 if len(layers) == 1 else _scale(source, layer, rows) for layer in layers}
    top = scale[layers[-1]]
    return {layer: top / value if value > 0 and top > 0 else 1.0 for layer, value in scale.items()}


def _scale(source: FeatureSource, layer: Layer, rows: int) -> float:
    """Return the median over dimensions of the standard deviation of a layer."""
    origin_D: Tensor | None = None
    total_D = square_D = torch.zeros(1, dtype=torch.float64)
    for _, x in response_chunks(at_layer(source, layer), rows=rows):
        origin_D = x[0].double() if origin_D is None else origin_D  # so that large means cost no precision
        centred = x.double() - origin_D
        total_D, square_D = total_D + centred.sum(dim=0), square_D + (centred**2).sum(dim=0)
    variance_D = (square_D / rows - (total_D / rows) ** 2).clamp(min=0.0)
    return float(variance_D.sqrt().median())


def _plain(value: float) -> float | None:
    return value if np.isfinite(value) else None
