"""A reward model that scores conversations from stored features, so that several models share one reading."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from facetrm.backbone.encoder import LAST
from facetrm.backbone.store import FeatureStore
from facetrm.data.records import Conversation
from facetrm.model.output import Score
from facetrm.model.reward_model import RewardModel


class StoredScorer:
    """Scores what a feature folder holds; ``ratings`` names one expert whose rating is the reward instead."""

    def __init__(self, model: RewardModel, folder: Path, *, rating: str | None = None) -> None:
        self.model, self.rating = model, rating
        self.hash, self.mixtures = f"{model.hash}/{rating or 'reward'}", model.mixtures
        self.store = FeatureStore(folder)

    def score(self, conversations: Sequence[Conversation]) -> list[Score]:
        """Return one score per conversation, in order."""
        if not conversations:
            return []
        features = self.store.features(conversations)
        if self.model.layers:
            features = features.only(self.model.layers or (LAST,))
        scores = self.model.score_features(features)
        if self.rating is None:
            return scores
        name = self.rating
        return [
            Score(**{**vars(s), "reward": s.scores[name], "base": 0.0, "contributions": {name: s.scores[name]}})
            for s in scores
        ]
