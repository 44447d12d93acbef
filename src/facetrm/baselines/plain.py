"""Scorers that read no meaning."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import final

from facetrm.baselines.groups import bare_score
from facetrm.data.records import Conversation, conversation_key
from facetrm.model.output import Score


@final
class LengthScorer:
    """Length."""

    def __init__(self, *, sign: int = 1) -> None:
        self.sign = sign

    def score(self, conversations: Sequence[Conversation]) -> list[Score]:
        """Return scores."""
        return [bare_score(float(self.sign * len(c[-1].content)), model="length") for c in conversations]


@final
class RandomScorer:
    """Random."""

    def __init__(self, *, seed: int = 0) -> None:
        self.seed = seed

    def score(self, conversations: Sequence[Conversation]) -> list[Score]:
        """Return scores."""
        return [
            bare_score(
                int(hashlib.sha256(f"{self.seed}{conversation_key(c)}".encode()).hexdigest()[:12], 16) / 16**12,
                model="random",
            )
            for c in conversations
        ]
