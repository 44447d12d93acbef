"""What a reward model gives: a :class:`RewardOutput` of tensors per mixture, a readable :class:`Score` per row.

Shapes: N conversations, K experts of one mixture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from torch import Tensor

from facetrm.data.records import Conversation


@dataclass(frozen=True)
class RewardOutput:
    """``reward_N = base_N + contributions_NK.sum(-1)``, all float32.

    ``scores_NK`` are the experts' unit ratings, ``weights_NK`` the gate's distribution, ``coefficients_NK`` what one
    unit of each score adds to the reward.
    """

    reward_N: Tensor
    base_N: Tensor
    contributions_NK: Tensor
    scores_NK: Tensor
    weights_NK: Tensor
    coefficients_NK: Tensor


@dataclass(frozen=True)
class Score:
    """One scored conversation, self-describing.

    Attributes:
        reward: ``base + sum(contributions.values())``, to float32 precision.
        base: what a reference answer to this prompt would get.
        contributions: reward owed to each expert.
        scores: each expert's rating in [0, 1] terms (linear, not clipped), pointing up.
        ratings: the same on the source's own scale.
        weights: the gate's distribution over the experts.
        coefficients: reward per unit of score.
        task: the router's choice, or ``all``.
        tokens, length: tokens of the conversation and of the response.
        truncated: whether something was cut before reading.
        model, template: hashes of the model and of the chat template.
        mode: ``exact``: it cannot depend on what else was scored; ``fast``: it may in its last digits.
    """

    reward: float
    base: float
    contributions: dict[str, float]
    scores: dict[str, float]
    ratings: dict[str, float]
    weights: dict[str, float]
    coefficients: dict[str, float]
    task: str
    tokens: int
    length: int
    truncated: bool
    model: str
    template: str
    mode: str

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return asdict(self)


class Scorer(Protocol):
    """Anything that scores conversations, in order; empty in, empty out."""

    def score(self, conversations: Sequence[Conversation]) -> list[Score]: ...
