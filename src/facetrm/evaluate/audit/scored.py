"""Comparisons of two answers, each scored once, and what moved between two scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from facetrm.baselines.groups import GroupScorer, score_groups
from facetrm.core.errors import ModelError
from facetrm.data.records import Conversation
from facetrm.model.output import Score, Scorer

Duel = tuple[Conversation, Conversation]
BASE: Final = "base"
"""Name of what the score of the reference answer adds to a change."""


@dataclass(frozen=True)
class Compared:
    """The scores of two answers to one prompt.

    Attributes:
        first: score of the first answer.
        second: score of the second answer.
        ahead: margin of the first answer when it is presented first; None if the order cannot matter.
        behind: the same margin when it is presented second; None if the order cannot matter.
    """

    first: Score
    second: Score
    ahead: float | None = None
    behind: float | None = None

    @property
    def margin(self) -> float:
        """Reward of the first answer minus that of the second."""
        return self.first.reward - self.second.reward


@dataclass(frozen=True)
class Mover:
    """What an objective adds to a mean change of the reward.

    Attributes:
        objective: name of the objective; ``base`` for the score of the reference answer.
        change: mean change of its contribution.
        share: absolute change as a share of those of all objectives, 0 to 1.
    """

    objective: str
    change: float
    share: float


def compare(scorer: Scorer, duels: Sequence[Duel]) -> list[Compared]:
    """Return the scores of each comparison, in order. Equal conversations are scored once, in one call.

    A scorer that compares the answers of a group sees each pair in both orders; their scores are averaged.

    Args:
        scorer: the model.
        duels: two answers to the same prompt each.

    Raises:
        ModelError: a reward is not finite, or the scorer returned another number of scores.
    """
    if isinstance(scorer, GroupScorer):
        both = list(dict.fromkeys([order for a, b in duels for order in ((a, b), (b, a))]))
        groups = dict(zip(both, score_groups(scorer, both), strict=True))
        return [_averaged(groups[a, b], groups[b, a], row) for row, (a, b) in enumerate(duels)]
    texts = list(dict.fromkeys(text for duel in duels for text in duel))
    scores = scorer.score(texts)
    if len(scores) != len(texts):
        raise ModelError(
            f"{len(scores)} scores for {len(texts)} conversations", place="audit", fix="return one score for each"
        )
    for row, score in enumerate(scores):
        _check(score, row)
    by_text = dict(zip(texts, scores, strict=True))
    return [Compared(by_text[a], by_text[b]) for a, b in duels]


def movers(changes: Sequence[Mapping[str, float]], *, most: int = 3) -> tuple[Mover, ...]:
    """Return the objectives with the largest mean change, largest first; those without any change are left out.

    Args:
        changes: change of each contribution by objective, one mapping per row.
        most: greatest number of objectives.
    """
    means: dict[str, float] = {}
    for row in changes:
        for name, value in row.items():
            means[name] = means.get(name, 0.0) + value / len(changes)
    total = sum(abs(value) for value in means.values())
    order = sorted((name for name in means if abs(means[name]) > 0), key=lambda name: (-abs(means[name]), name))
    return tuple(Mover(name, means[name], abs(means[name]) / total) for name in order[:most])


def contribution_change(after: Score, before: Score, *, sign: float = 1.0) -> dict[str, float]:
    """Return what each objective, and the base, adds to the difference of two rewards.

    Args:
        after: the score that counts positively.
        before: the score that is subtracted.
        sign: a factor on the result.
    """
    names = dict.fromkeys([*after.contributions, *before.contributions])
    found = {n: sign * (after.contributions.get(n, 0.0) - before.contributions.get(n, 0.0)) for n in names}
    return {**found, BASE: sign * (after.base - before.base)}


def reward_spread(compared: Sequence[Compared]) -> float:
    """Return the standard deviation of the rewards of all answers; 1 if they are all equal.

    Args:
        compared: the scored pairs.
    """
    size = float(np.std([score.reward for pair in compared for score in (pair.first, pair.second)]))
    return size if size > 0 else 1.0


def _averaged(forward: Sequence[Score], backward: Sequence[Score], row: int) -> Compared:
    (a1, b1), (b2, a2) = forward, backward
    for score in (a1, b1, b2, a2):
        _check(score, row)
    return Compared(_mean(a1, a2), _mean(b1, b2), a1.reward - b1.reward, a2.reward - b2.reward)


def _mean(one: Score, two: Score) -> Score:
    names = dict.fromkeys([*one.contributions, *two.contributions])
    parts = {n: (one.contributions.get(n, 0.0) + two.contributions.get(n, 0.0)) / 2 for n in names}
    return replace(one, reward=(one.reward + two.reward) / 2, base=(one.base + two.base) / 2, contributions=parts)


def _check(score: Score, row: int) -> None:
    if not math.isfinite(score.reward):
        raise ModelError(
            f"reward {score.reward}", place=f"audit, conversation {row}", fix="score it alone, or leave it out"
        )
