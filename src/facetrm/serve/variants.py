"""The edits that requests ask for: each one a variant of the served model, on the same backbone."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any, Final, final

import torch

from facetrm.data.records import Conversation
from facetrm.explain.edited import unedited
from facetrm.explain.edits import edit
from facetrm.model.output import Score
from facetrm.model.reward_model import RewardModel

_KEPT: Final = 64  # variants; they share the backbone, so each holds only a few small tensors


@final
@dataclass(frozen=True)
class AskedEdit:
    """What a request changes about the weights of the objectives.

    Attributes:
        weights: factors of the weights, by name, in the order of the names.
        mask: names of the objectives that are dropped, in order.
    """

    weights: tuple[tuple[str, float], ...] = ()
    mask: tuple[str, ...] = ()

    @staticmethod
    def of(weights: Mapping[str, float], mask: Sequence[str]) -> AskedEdit:
        """Return the edit of a request; a factor of 1 changes nothing and is left out.

        Args:
            weights: factors of the weights, by name.
            mask: names of the objectives to drop.
        """
        changed = sorted((name, float(factor)) for name, factor in weights.items() if factor != 1.0)
        return AskedEdit(tuple(changed), tuple(sorted(set(mask))))

    def __bool__(self) -> bool:
        return bool(self.weights or self.mask)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return {"objective_weights": dict(self.weights), "mask": list(self.mask)}


@final
class Variants:
    """The served model and its most recently used variants.

    Args:
        model: the served model.
    """

    def __init__(self, model: RewardModel) -> None:
        self.model = model
        self._names = {name for mixture in model.mixtures.values() for name in mixture.names}
        self._made: OrderedDict[AskedEdit, RewardModel] = OrderedDict()
        self._plain: RewardModel | None = None
        self._lock = Lock()

    def of(self, asked: AskedEdit, *, neutral: Sequence[str] = ()) -> RewardModel:
        """Return the model with an edit; without one, the served model itself.

        Args:
            asked: the edit.
            neutral: further names that the request mentions without changing anything, which must exist as well.

        Raises:
            ModelError: an objective is unknown, or the edit is not possible in this model.
        """
        for name in neutral:
            if name not in self._names:
                edit(self.model, scale={name: 1.0})  # raises the error that names the nearest objective
        if not asked:
            return self.model
        with self._lock:
            if asked in self._made:
                self._made.move_to_end(asked)
                return self._made[asked]
            made = edit(self.model, drop=asked.mask, scale=dict(asked.weights))
            self._made[asked] = made
            while len(self._made) > _KEPT:
                self._made.popitem(last=False)
            return made

    def unedited(self, variant: RewardModel) -> RewardModel:
        """Return a variant without any edit, also without those of the served model; all variants have the same.

        Args:
            variant: the served model or one of its variants.
        """
        plain = unedited(variant)
        if plain is variant:
            return variant
        with self._lock:
            self._plain = self._plain or plain
            return self._plain


def score_together(rows: Sequence[tuple[Conversation, RewardModel]]) -> list[Score]:
    """Score conversations by variants of one model, which read them together where they can.

    Args:
        rows: conversations, each with the variant that scores it. The variants share one encoder.

    Returns:
        One score per row, in order. In exact mode each has the bits that it would have alone.
    """
    by_model: dict[int, list[int]] = {}
    for n, (_, model) in enumerate(rows):
        by_model.setdefault(id(model), []).append(n)
    conversations, first = [conversation for conversation, _ in rows], rows[0][1]
    scores: dict[int, Score] = {}
    one_by_one = len(by_model) == 1 or (first.adapters and len(first.tasks) > 1)  # then features belong to a task
    features = None if one_by_one else first.features(conversations)
    for numbers in by_model.values():
        model = rows[numbers[0]][1]
        if features is None:
            found = model.score([conversations[n] for n in numbers])
        else:
            found = model.score_features(features.select(torch.tensor(numbers)))
        scores |= zip(numbers, found, strict=True)
    return [scores[n] for n in range(len(rows))]


def score_by_each(items: Sequence[tuple[Conversation, Sequence[RewardModel]]]) -> list[list[Score]]:
    """Score each conversation by some variants, which read all conversations together where they can.

    Args:
        items: conversations, each with the variants that score it.

    Returns:
        The scores of each conversation, one per variant.
    """
    scores = iter(score_together([(talk, model) for talk, models in items for model in models]))
    return [[next(scores) for _ in models] for _, models in items]
