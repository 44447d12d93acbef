"""Floor 4: the baselines that a gated model is compared with, fitted on the same features."""

from typing import TYPE_CHECKING

from facetrm.core.lazy import lazy

__all__ = [
    "best_objective",
    "longer_mixture",
    "unconditional_mixture",
    "uniform_mixture",
]

if TYPE_CHECKING:
    from facetrm.baselines.length import longer_mixture
    from facetrm.baselines.weighting import best_objective, unconditional_mixture, uniform_mixture
else:
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "facetrm.baselines.length": ["longer_mixture"],
            "facetrm.baselines.weighting": ["best_objective", "unconditional_mixture", "uniform_mixture"],
        },
    )
