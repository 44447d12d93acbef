"""The table of a run report that shows which layer of the backbone suits which objective."""

from __future__ import annotations

from collections.abc import Mapping

from facetrm.core.config import Section


class LayerTableRow(Section):
    """How well the layers of the backbone predict one objective, on held-out folds of the training ratings.

    Attributes:
        objective: Name of the objective.
        chosen: Layer that its expert reads.
        spearman: Spearman correlation by layer; None if it is not defined.
        mse: Mean squared error by layer, with ratings scaled to [0, 1]; None if no head was fitted.
        standard_error: Standard error of the smallest error, over prompts; None if no head was fitted.
    """

    objective: str
    chosen: str
    spearman: Mapping[str, float | None]
    mse: Mapping[str, float | None]
    standard_error: float | None = None
