"""Floor 5: evaluate reward models: baselines, accuracy on held-out pairs, length audits, comparison with truth."""

from typing import TYPE_CHECKING

from facetrm.core.lazy import lazy

__all__ = [
    "Pairs",
    "difference",
    "fit_baselines",
    "margins",
    "typical_pair",
    "within_prompt_rank_correlation",
]

if TYPE_CHECKING:
    from facetrm.evaluate.compare import Pairs, difference, fit_baselines, margins, typical_pair
    from facetrm.evaluate.length_audit import within_prompt_rank_correlation
else:
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "facetrm.evaluate.compare": ["Pairs", "difference", "fit_baselines", "margins", "typical_pair"],
            "facetrm.evaluate.length_audit": ["within_prompt_rank_correlation"],
        },
    )
