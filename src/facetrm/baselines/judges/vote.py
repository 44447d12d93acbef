"""Several judges as one: each pair of answers goes to the one that more judges prefer.

vote(i, j) = sign( sum_m sign(r_mi - r_mj) )          judges without a reward for i or j abstain
reward_i   = mean over j of (vote(i, j) + 1) / 2
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import final

import numpy as np

from facetrm.baselines.groups import bare_score, groups_of, score_groups
from facetrm.baselines.named import scorer_hash
from facetrm.core.errors import ConfigError
from facetrm.core.fingerprint import fingerprint
from facetrm.data.records import Conversation
from facetrm.model.output import Score, Scorer


@final
class Vote:
    """A majority vote of scorers of any kind, pair by pair. An answer without others gets 1/2.

    Args:
        members: Scorers by name, at least two; an odd number leaves fewer ties.

    Raises:
        ConfigError: There are fewer than two members, or one has no hash.
    """

    def __init__(self, members: Mapping[str, Scorer]) -> None:
        if len(members) < 2:
            raise ConfigError(f"{len(members)} members", place="vote", fix="give at least two scorers, by name")
        self.members = dict(members)
        self.name = "vote"
        self.hash = fingerprint(["vote", sorted(scorer_hash(member) for member in members.values())])

    def score(self, conversations: Sequence[Conversation]) -> list[Score]:
        """Return one score per conversation, in order. Consecutive conversations with one prompt are a group.

        Args:
            conversations: Conversations, each ending with an answer.
        """
        return [score for group in self.score_groups(groups_of(conversations)) for score in group]

    def score_groups(self, groups: Sequence[Sequence[Conversation]]) -> list[list[Score]]:
        """Return the scores of each group, in order; NaN rewards where all members abstain on a pair.

        Args:
            groups: Conversations by group. Those of a group share the prompt.
        """
        asked = [score_groups(member, groups) for member in self.members.values()]
        result = []
        for n, group in enumerate(groups):
            rewards_MN = np.array([[score.reward for score in scores[n]] for scores in asked]).reshape(len(asked), -1)
            shares = _shares_of_votes(rewards_MN)
            result.append(
                [bare_score(r, model=self.hash, length=len(c[-1].content)) for r, c in zip(shares, group, strict=True)]
            )
        return result


def _shares_of_votes(rewards_MN: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> list[float]:
    """Return the mean credit of each answer, [N]."""
    count = rewards_MN.shape[1]
    if count < 2:
        return [0.5] * count
    sign_MNN = np.sign(rewards_MN[:, :, None] - rewards_MN[:, None, :])
    silent_NN = np.isnan(sign_MNN).all(axis=0)
    credit_NN = (np.sign(np.nansum(sign_MNN, axis=0)) + 1.0) / 2.0
    credit_NN[silent_NN] = math.nan
    np.fill_diagonal(credit_NN, 0.0)
    return [float(share) for share in credit_NN.sum(axis=1) / (count - 1)]
