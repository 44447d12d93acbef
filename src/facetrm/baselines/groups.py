"""Scores without experts, and scorers whose scores have a meaning only among the answers to one prompt.

A pairwise model or a judge compares the answers of one prompt. Its scores are those of a group: all answers to one
prompt that were scored together.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby, islice
from typing import Final, Protocol, runtime_checkable

from facetrm.data.records import Conversation, conversation_key
from facetrm.model.output import Score, Scorer

REWARD: Final = "reward"
"""Name of the only contribution to a score without experts."""


@runtime_checkable
class GroupScorer(Scorer, Protocol):
    """A scorer that compares the answers to one prompt with each other."""

    def score_groups(self, groups: Sequence[Sequence[Conversation]]) -> list[list[Score]]:
        """Return the scores of each group, in order.

        Args:
            groups: Conversations by group. Those of a group share the prompt.
        """


def score_groups(scorer: Scorer, groups: Sequence[Sequence[Conversation]]) -> list[list[Score]]:
    """Return the scores of each group, in order, from any scorer.

    Args:
        scorer: A scorer of single conversations, or one that compares the answers of a group.
        groups: Conversations by group. Those of a group share the prompt.
    """
    if isinstance(scorer, GroupScorer):
        return scorer.score_groups(groups)
    scores = iter(scorer.score([answer for group in groups for answer in group]))
    return [list(islice(scores, len(group))) for group in groups]


def groups_of(conversations: Sequence[Conversation]) -> list[list[Conversation]]:
    """Return consecutive conversations with the same prompt as groups, in order.

    Args:
        conversations: Conversations, each ending with an answer.
    """
    return [list(found) for _, found in groupby(conversations, key=lambda messages: conversation_key(messages[:-1]))]


def bare_score(
    reward: float, *, model: str, tokens: int = 0, length: int = 0, truncated: bool = False, mode: str = "exact"
) -> Score:
    """Return the score of a system without experts: one contribution, the reward itself.

    Args:
        reward: The reward.
        model: Hash or name of the system.
        tokens: Number of tokens of the conversation; 0 if the system reads no tokens.
        length: Length of the response in the system's unit.
        truncated: Whether the conversation was truncated.
        mode: ``exact`` if the reward cannot depend on other conversations; ``fast`` if its last digits can.
    """
    return Score(
        reward=reward,
        base=0.0,
        contributions={REWARD: reward},
        scores={},
        ratings={},
        weights={},
        coefficients={},
        task="all",
        routed="all",
        confidence=1.0,
        tokens=tokens,
        length=length,
        truncated=truncated,
        model=model,
        template="",
        mode=mode,
    )
