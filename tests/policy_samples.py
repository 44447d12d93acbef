"""Scorers for the tests of rewards for trainers: one that fails on marked answers, prompts, and answers to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from facetrm.core.errors import BackboneError, ModelError
from facetrm.data.records import Conversation
from facetrm.model.output import Score
from facetrm.model.reward_model import RewardModel
from reward_models import model

OBJECTIVES = ("test-helpful", "test-honest", "test-wordy", "length")
PROMPTS = ["question about sums", "question about poems"]
ANSWERS = ["well then", "it is four", "no", "a long answer with many words"]


class Moody:
    """A gated model that fails on answers which say so, in each of the ways in which a scorer can fail.

    ``batches`` holds the number of conversations of each call.
    """

    def __init__(self, scorer: RewardModel | None = None) -> None:
        self.model = model() if scorer is None else scorer
        self.batches: list[int] = []

    def score(self, conversations: Sequence[Conversation]) -> list[Score]:
        self.batches.append(len(conversations))
        for n, messages in enumerate(conversations):
            if messages[-1].content == "unreadable":
                error = BackboneError("it does not fit")
                error.row = n
                raise error
            if messages[-1].content == "broken":
                raise ModelError("something is broken")
        scores = self.model.score(conversations)
        return [
            replace(score, reward=float("nan")) if messages[-1].content == "not a number" else score
            for score, messages in zip(scores, conversations, strict=True)
        ]


FAILING = ("unreadable", "broken", "not a number", " ")
