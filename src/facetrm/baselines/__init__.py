"""Floor 4: the baselines that a gated model is compared with: fitted on the same features, or trained."""

from typing import TYPE_CHECKING

from facetrm.core.lazy import lazy

__all__ = [
    "ImplicitRewardScorer",
    "PairwiseScorer",
    "best_objective",
    "load_rival",
    "longer_mixture",
    "unconditional_mixture",
    "uniform_mixture",
]

if TYPE_CHECKING:
    from facetrm.baselines.implicit import ImplicitRewardScorer
    from facetrm.baselines.length import longer_mixture
    from facetrm.baselines.pairwise import PairwiseScorer
    from facetrm.baselines.rivals import load_rival
    from facetrm.baselines.weighting import best_objective, unconditional_mixture, uniform_mixture
else:
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "facetrm.baselines.implicit": ["ImplicitRewardScorer"],
            "facetrm.baselines.length": ["longer_mixture"],
            "facetrm.baselines.pairwise": ["PairwiseScorer"],
            "facetrm.baselines.rivals": ["load_rival"],
            "facetrm.baselines.weighting": ["best_objective", "unconditional_mixture", "uniform_mixture"],
        },
    )
