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
    plain = unedited(model)
    [before] = [None] if plain is model else plain.score([answer])
    return explain_local_score(model, model.score([answer])[0], before=before)


def explain_local_score(model: RewardModel, score: Score, *, before: Score | None = None) -> LocalExplanation:
    """Explain an answer that is scored already, as :func:`explain_local` does.

    Args:
        model: the model that scored the answer.
        score: the answer's score.
        before: its score by the model without the edits; None if the model has none.
    """
    explained = explain_score(score, objectives=_scaled(model, [score]), validity=validity_of(model.provenance))
    return _with_edit(model, score, explained, before)


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
    plain = unedited(model)
    before = None if plain is model else plain.score([a, b])
    return explain_pair_scores(model, a, b, scores=model.score([a, b]), before=before, preferred=preferred)


def explain_pair_scores(
    model: RewardModel,
    a: Conversation,
    b: Conversation,
    *,
    scores: Sequence[Score],
    before: Sequence[Score] | None = None,
    preferred: Preferred = None,
) -> PairExplanation:
    """Explain two answers that are scored already, as :func:`explain_pair` does.

    Args:
        model: the model that scored both answers.
        a: the conversation that ends with answer A.
        b: the conversation that ends with answer B.
        scores: the scores of A and B.
        before: their scores by the model without the edits; None if the model has none.
        preferred: the answer that the label of the data prefers, ``A`` or ``B``; None without a label.
    """
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
    old_a, old_b = before or (None, None)
    return replace(pair, a=_with_edit(model, scores[0], pair.a, old_a), b=_with_edit(model, scores[1], pair.b, old_b))


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


def _with_edit(model: RewardModel, after: Score, explained: LocalExplanation, before: Score | None) -> LocalExplanation:
    """Return an explanation with the edited objectives, if there are any."""
    if before is None:
        return explained
    scaled, validity = _scaled(model, [before]), validity_of(model.provenance)
    return replace(
        explained,
        edits=edited_objectives(model, before, after),
        before=explain_score(before, objectives=scaled, validity=validity),
    )
