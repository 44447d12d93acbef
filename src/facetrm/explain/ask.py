"""Conversations in, explanations out: what a model says about one answer or one pair, whichever mixture scores it."""

from __future__ import annotations

from facetrm.data.records import Conversation
from facetrm.explain.flip import Flip, flip_pair
from facetrm.explain.local import LocalExplanation, PairExplanation, explain_local, explain_pair
from facetrm.model.aggregate import GatedSum
from facetrm.model.reward_model import RewardModel


def ask_answer(model: RewardModel, answer: Conversation) -> LocalExplanation:
    """Return the explanation of one answer, on the scales of the mixture that scored it.

    Args:
        model: scores it. answer: the conversation, which ends with it.
    """
    [score] = model.score([answer])
    return explain_local(score, objectives=model.mixture(score.task).objectives)


def ask_pair(model: RewardModel, a: Conversation, b: Conversation) -> tuple[PairExplanation, Flip | None]:
    """Return why one answer is above the other, and what would flip them.

    The second is None where that is not defined: under a network on the experts' vectors, or for two tasks.

    Args:
        model: scores both. a: the conversation that ends with answer A. b: with answer B.
    """
    scores = model.score([a, b])
    mixtures = [model.mixture(score.task) for score in scores]
    objectives = {objective.name: objective for mixture in mixtures for objective in mixture.objectives}
    one = mixtures[0] if mixtures[0] is mixtures[1] else None
    texts = None if one is None or scores[0].coefficients else a[:-1] == b[:-1]
    pair = explain_pair(
        scores[0],
        scores[1],
        objectives=list(objectives.values()),
        same_prompt=texts,
        beta=None if one is None else one.beta,
    )
    if one is None or not isinstance(one.aggregator, GatedSum):
        return pair, None
    return pair, flip_pair(pair, aggregator=one.aggregator)
