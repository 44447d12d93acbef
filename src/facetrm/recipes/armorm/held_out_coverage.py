"""How well the deviations and the quantiles of ratings fit held-out ratings.

Shapes: N rated rows, K objectives, Q quantiles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from facetrm.backbone.encoder import Features
from facetrm.core.statistics import Floats
from facetrm.data.objectives import Objective
from facetrm.fit.heads.held_out_scale import COVERAGE, NORMAL
from facetrm.fit.heads.layer_choice import LayeredFit
from facetrm.fit.heads.quantile import pinball


@dataclass(frozen=True)
class HeldOutCoverage:
    """How well one objective's deviations and quantiles fit held-out ratings. None is what was not fitted.

    Attributes:
        name: Name of the objective.
        rated: Number of held-out ratings.
        coverage_90: Share of them within 1.645 deviations of the head's rating.
        deviation: Mean deviation, on the [0, 1] scale.
        quantile_coverage_90: Share of them between the quantiles 0.05 and 0.95.
        pinball: Mean pinball loss of the quantiles, over ratings and levels.
        pinball_constant: The same loss of the quantiles of the training ratings, which no answer changes.
    """

    name: str
    rated: int
    coverage_90: float | None = None
    deviation: float | None = None
    quantile_coverage_90: float | None = None
    pinball: float | None = None
    pinball_constant: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dict without what was not fitted."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def held_out_coverage(
    heads: LayeredFit,
    chunks: Callable[[], Iterator[Features]],
    labels_NK: Floats,
    *,
    objectives: Sequence[Objective],
    training_NK: Floats,
) -> tuple[HeldOutCoverage, ...]:
    """Return one row per objective; nothing if neither a posterior nor quantile heads were fitted, or nothing is rated.

    Args:
        heads: Fitted heads.
        chunks: Function that yields the features of N held-out rated rows, block by block.
        labels_NK: Their unit labels; NaN if not rated.
        objectives: The K objectives.
        training_NK: Unit labels of the training rows, for the constant quantiles.
    """
    if not len(labels_NK) or (heads.fit.posterior is None and heads.quantiles is None):
        return ()
    found: list[dict[str, Floats]] = []
    start = 0
    for features in chunks():
        found.append(_read(heads, features, labels_NK[start : start + len(features)], training_NK))
        start += len(features)
    whole = {name: np.concatenate([part[name] for part in found]) for name in found[0]}
    rows = []
    for k, objective in enumerate(objectives):
        rated_N = np.isfinite(labels_NK[:, k])
        means = {name: _mean(values_NK[rated_N, k]) for name, values_NK in whole.items()}
        rows.append(HeldOutCoverage(objective.name, int(rated_N.sum()), **means))
    return tuple(rows)


def _read(heads: LayeredFit, features: Features, y_NK: Floats, training_NK: Floats) -> dict[str, Floats]:
    """Return the figures of each rating of a block, [N, K], by name; NaN where there is none."""
    found: dict[str, Floats] = {}
    size = y_NK.shape[1]
    with torch.no_grad():
        if heads.fit.posterior is not None:
            deviation_NK = heads.fit.posterior.deviation(features).double().numpy()
            error_NK = np.abs(y_NK - heads.fit.experts(features)[:, :size].double().numpy())
            inside_NK = np.where(np.isfinite(deviation_NK), error_NK <= NORMAL * deviation_NK, np.nan)
            found |= {"coverage_90": inside_NK, "deviation": deviation_NK}
        if heads.quantiles is not None:
            levels_Q = heads.quantiles.levels_Q.double().numpy()
            at_NKQ = heads.quantiles.quantiles(features).double().numpy()
            constant_KQ = np.nanquantile(training_NK, levels_Q, axis=0).T
            found["pinball"] = pinball(y_NK[..., None] - at_NKQ, levels_Q).mean(axis=-1)
            found["pinball_constant"] = pinball(y_NK[..., None] - constant_KQ, levels_Q).mean(axis=-1)
            if levels_Q[0] <= (1 - COVERAGE) / 2 + 1e-6:
                low_NK, high_NK = heads.quantiles.interval(features, coverage=COVERAGE)
                found["quantile_coverage_90"] = ((low_NK.numpy() <= y_NK) & (y_NK <= high_NK.numpy())).astype(float)
    return found


def _mean(values_N: Floats) -> float | None:
    return float(values_N.mean()) if len(values_N) and np.isfinite(values_N).all() else None
