"""Floor 2: an LLM behind an OpenAI-compatible API labels which of two replies is better in each capability."""

from typing import TYPE_CHECKING

from facetrm.core.lazy import lazy

__all__ = [
    "Judge",
    "LabelConfig",
    "Labelled",
    "NoisyJudge",
    "OpenAIJudge",
    "Pair",
    "Plan",
    "estimate_text",
    "label_pairs",
    "label_world",
    "make_plan",
    "read_pairs",
    "report_text",
    "stored_keys",
]

if TYPE_CHECKING:
    from facetrm.label.client import Judge, OpenAIJudge
    from facetrm.label.pairs import Pair, read_pairs
    from facetrm.label.plan import Plan, make_plan
    from facetrm.label.run import Labelled, label_pairs
    from facetrm.label.settings import LabelConfig
    from facetrm.label.show import estimate_text, report_text
    from facetrm.label.simulated import NoisyJudge, label_world
    from facetrm.label.store import stored_keys
else:
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "facetrm.label.client": ["Judge", "OpenAIJudge"],
            "facetrm.label.pairs": ["Pair", "read_pairs"],
            "facetrm.label.plan": ["Plan", "make_plan"],
            "facetrm.label.run": ["Labelled", "label_pairs"],
            "facetrm.label.settings": ["LabelConfig"],
            "facetrm.label.show": ["estimate_text", "report_text"],
            "facetrm.label.simulated": ["NoisyJudge", "label_world"],
            "facetrm.label.store": ["stored_keys"],
        },
    )
