"""Explain the score of a conversation or of a pair of conversations, whichever mixture scores it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from facetrm.data.objectives import Objective
from facetrm.data.records import Conversation
from facetrm.explain.edited import edited_objectives, unedited
from facetrm.explain.flip import Flip, flip_pair
from facetrm.explain.local import LocalExplanation, PairExplanation, Preferred, explain_score, explain_scores_pair
from facetrm.model.aggregate import GatedSum
from facetrm.model.output import Score
from facetrm.model.reward_model import RewardModel
from facetrm.model.validity import validity_of


def explain_local(model: RewardModel, answer: Conversation) -> LocalExplanation:
    """Score one answer and explain how much each expert adds to its reward.

    Args:
        model: the model that scores the answer.
        answer: the conversation that ends with the answer.

    Returns:
        The explanation. For an edited model it includes the answer as explained without the edits.

    Raises:
        BackboneError: the conversation cannot be encoded.

    Example:
        >>> from facetrm import World, explain_local, toy_model
        >>> explained = explain_local(toy_model(), next(World().preferences(1)).chosen)
        >>> sorted(line.objective for line in explained.lines)
        ['helpful', 'honest', 'verbose']
    """
    [score] = model.score([answer])
    explained = explain_score(score, objectives=_scaled(model, [score]), validity=validity_of(model.provenance))
    return _with_edits(model, [answer], [score], [explained])[0]


def explain_pair(
    model: RewardModel, a: Conversation, b: Conversation, *, preferred: Preferred = None
) -> PairExplanation:
    """Score two answers and explain why one is ahead, with P(A > B) if one mixture scored both.

    Args:
        model: the model that scores both answers.
        a: the conversation that ends with answer A.
        b: the conversation that ends with answer B.
        preferred: the answer that the label of the data prefers, ``A`` or ``B``; None without a label.

    Returns:
        The explanation; :func:`flip_explained` finds what would reverse the order.

    Raises:
        BackboneError: a conversation cannot be encoded.

    Example:
        >>> from facetrm import World, explain_pair, toy_model
        >>> pair = next(World().preferences(1))
        >>> explained = explain_pair(toy_model(), pair.chosen, pair.rejected)
        >>> abs(explained.margin - sum(line.difference for line in explained.lines)) < 1e-4
        True
    """
    scores = model.score([a, b])
    mixtures = [model.mixture(score.task) for score in scores]
    one = mixtures[0] if mixtures[0] is mixtures[1] else None
    texts = None if one is None or scores[0].coefficients else a[:-1] == b[:-1]
    pair = explain_scores_pair(
        scores[0],
        scores[1],
        objectives=_scaled(model, scores),
        same_prompt=texts,
        beta=None if one is None else one.beta,
        preferred=preferred,
        validity=validity_of(model.provenance),
    )
    side_a, side_b = _with_edits(model, [a, b], scores, [pair.a, pair.b])
    return replace(pair, a=side_a, b=side_b)


def flip_explained(model: RewardModel, pair: PairExplanation) -> Flip | None:
    """Return the single changes that would flip a pair.

    Args:
        model: the model that scored the pair.
        pair: the explained pair, from :func:`explain_pair`.

    Returns:
        The changes; None if they are not defined: for a network on the experts' vectors, for answers scored by two
        mixtures, or for a model whose reward is a single scalar.

    Example:
        >>> from facetrm import World, explain_pair, flip_explained, toy_model
        >>> model, pair = toy_model(), next(World().preferences(1))
        >>> flip = flip_explained(model, explain_pair(model, pair.chosen, pair.rejected))
        >>> flip is not None and len(flip.scores) > 0
        True
    """
    if pair.a.task != pair.b.task:
        return None
    mixture = model.mixture(pair.a.task)
    if not isinstance(mixture.aggregator, GatedSum) or _is_scalar(model):
        return None
    return flip_pair(pair, aggregator=mixture.aggregator)


def _scaled(model: RewardModel, scores: Sequence[Score]) -> list[Objective]:
    """Return the objectives that have a scale; the reward of a scalar model has none."""
    if _is_scalar(model):
        return []
    return list({o.name: o for score in scores for o in model.mixture(score.task).objectives}.values())


def _is_scalar(model: RewardModel) -> bool:
    """Whether the reward is the output of one linear head, as in a sequence classifier."""
    return str(model.provenance.get("layout", "")).startswith("sequence classification")


def _with_edits(
    model: RewardModel, answers: Sequence[Conversation], after: Sequence[Score], explained: Sequence[LocalExplanation]
) -> list[LocalExplanation]:
    """Return the explanations with the edited objectives, for which the answers are scored again without the edits."""
    plain = unedited(model)
    if plain is model:
        return list(explained)
    before = plain.score(answers)
    scaled, validity = _scaled(model, before), validity_of(model.provenance)
    return [
        replace(
            one,
            edits=edited_objectives(model, old, new),
            before=explain_score(old, objectives=scaled, validity=validity),
        )
        for one, old, new in zip(explained, before, after, strict=True)
    ]
