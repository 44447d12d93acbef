"""Floor 3: the reward model and its parts, from features to rewards, without any Hugging Face class."""

from typing import TYPE_CHECKING

from facetrm.core.lazy import lazy

__all__ = [
    "AdapterExperts",
    "ConcatMLP",
    "Gate",
    "GateShape",
    "GatedSum",
    "LengthScale",
    "LinearExperts",
    "Mixture",
    "RewardModel",
    "RewardOutput",
    "Score",
    "Scorer",
    "Uncertainty",
    "Validity",
    "validity_of",
]

if TYPE_CHECKING:
    from facetrm.model.adapter_experts import AdapterExperts
    from facetrm.model.aggregate import GatedSum
    from facetrm.model.concat import ConcatMLP
    from facetrm.model.experts import LengthScale, LinearExperts
    from facetrm.model.gate import Gate, GateShape
    from facetrm.model.mixture import Mixture
    from facetrm.model.output import RewardOutput, Score, Scorer, Uncertainty
    from facetrm.model.reward_model import RewardModel
    from facetrm.model.validity import Validity, validity_of
else:
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "facetrm.model.adapter_experts": ["AdapterExperts"],
            "facetrm.model.aggregate": ["GatedSum"],
            "facetrm.model.concat": ["ConcatMLP"],
            "facetrm.model.experts": ["LengthScale", "LinearExperts"],
            "facetrm.model.gate": ["Gate", "GateShape"],
            "facetrm.model.mixture": ["Mixture"],
            "facetrm.model.output": ["RewardOutput", "Score", "Scorer", "Uncertainty"],
            "facetrm.model.reward_model": ["RewardModel"],
            "facetrm.model.validity": ["Validity", "validity_of"],
        },
    )
