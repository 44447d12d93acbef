"""What would flip a pair: the smallest change of one rating or one weight that makes the margin zero.

    one score    delta_k = -margin / coefficient_k         (answer A; the opposite sign for answer B)
    one weight   margin(f) = margin + (f - 1) effect_k     -> f_k = 1 - margin / effect_k, dropped at f = 0

Both are exact for a gated sum if one value changes at a time and everything else is held fixed. ``effect_k`` is the
part of the margin that comes from objective k's weight *and* from the penalties that act through k. In a model without
debiasing it equals the difference of the contributions. A network on the experts' vectors has no weights and does not
use the ratings, so flips are not defined there.

Shapes: K experts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from facetrm.core.errors import ModelError
from facetrm.core.shown import show_digits, show_fixed
from facetrm.explain.lines import ExpertLine
from facetrm.explain.local import LocalExplanation, PairExplanation
from facetrm.model.aggregate import GatedSum


@dataclass(frozen=True)
class Move:
    """The change of one score of one answer that makes the pair a tie.

    Attributes:
        answer: the answer whose score changes, ``A`` or ``B``.
        delta_score: change of the score, in units of the [0, 1] scale.
        delta_rating: the same change on the scale of the source; None if the scale is unknown.
        rating: current rating.
        target: rating after the change; None if the scale is unknown.
        reachable: whether ``target`` lies on the scale; None if the scale is unknown.
    """

    answer: str
    delta_score: float
    delta_rating: float | None
    rating: float
    target: float | None
    reachable: bool | None


@dataclass(frozen=True)
class ScoreFlip:
    """The score changes of one objective that tie the pair.

    Attributes:
        objective: name of the expert.
        moves: one change per answer; answers for which the coefficient of the expert is 0 have none.
    """

    objective: str
    moves: tuple[Move, ...]

    @property
    def best(self) -> Move | None:
        """The smallest move on the scale; failing that, the smallest of unknown scale; failing that, the smallest."""
        return min(self.moves, key=_move_order, default=None)


@dataclass(frozen=True)
class WeightFlip:
    """The change of one objective's weight that ties the pair.

    Attributes:
        objective: name of the expert.
        effect: part of the margin that scales with the weight and the penalties of the expert.
        factor: factor on the weight that ties the pair (0 drops the expert); None if no factor >= 0 does.
        drop_flips: whether a weight of 0 reverses the order.
        double_flips: whether twice the weight reverses the order.
    """

    objective: str
    effect: float
    factor: float | None
    drop_flips: bool
    double_flips: bool


@dataclass(frozen=True)
class MarginTerm:
    """One term of the margin. With factors f on the weights it becomes ``value * f[weight]``, times ``f[score]`` if
    that is another objective: an edit of an objective scales its weight and the penalties that act through it.

    Attributes:
        weight: objective whose weight is in the term.
        score: objective whose score is in the term.
        value: weight times coefficient times score, of answer A minus of answer B.
    """

    weight: str
    score: str
    value: float


@dataclass(frozen=True)
class Flip:
    """All single changes that tie a pair, the smallest reachable one first.

    Attributes:
        margin: reward of A minus reward of B.
        scores: score changes, one entry per objective.
        weights: weight changes, one entry per objective.
        terms: the terms of the margin that are not 0, for several weight changes at once.
    """

    margin: float
    scores: tuple[ScoreFlip, ...]
    weights: tuple[WeightFlip, ...]
    terms: tuple[MarginTerm, ...] = ()

    def reweighed(self, factors: Mapping[str, float]) -> float:
        """Return the margin with factors on the weights, as ``edit(model, scale=factors)`` would give it.

        Args:
            factors: factor on the weight of an objective, by name; 1 for the others.
        """
        total = 0.0
        for term in self.terms:
            own, other = factors.get(term.weight, 1.0), factors.get(term.score, 1.0)
            total += term.value * own * (1.0 if term.weight == term.score else other)
        return total

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return asdict(self)

    @property
    def facts(self) -> tuple[str, ...]:
        """Sentences about the smallest rating change and the smallest weight change that tie the pair."""
        if self.margin == 0:
            return ("The pair is already tied.",)
        best = self.scores[0].best if self.scores else None
        facts = []
        if best is not None and best.reachable and best.target is not None:
            facts.append(
                f"Smallest rating change that ties the pair: {self.scores[0].objective} of {best.answer} "
                f"from {show_fixed(best.rating, 2)} to {show_fixed(best.target, 2)}."
            )
        elif best is not None and best.reachable is None:
            facts.append(
                f"Smallest change that ties the pair: {self.scores[0].objective} of {best.answer} by "
                f"{show_digits(best.delta_score)} (its scale is unknown)."
            )
        elif best is not None:
            facts.append("No change of a single rating within its scale ties the pair.")
        turning = [flip for flip in self.weights if flip.factor is not None]
        if turning:
            facts.append(
                f"Smallest weight change that ties the pair: {turning[0].objective} times {turning[0].factor:.2f}."
            )
        else:
            facts.append("No change of a single weight ties the pair.")
        dropped = [flip.objective for flip in self.weights if flip.drop_flips]
        doubled = [flip.objective for flip in self.weights if flip.double_flips]
        for verb, names in (("Dropping", dropped), ("Doubling", doubled)):
            if names:
                facts.append(f"{verb} any one of these reverses the order: {', '.join(names)}.")
        return tuple(facts)


def flip_pair(pair: PairExplanation, *, aggregator: GatedSum | None = None) -> Flip:
    """Find what would flip ``pair``, one change at a time.

    Args:
        pair: the explained pair, from :func:`facetrm.explain.local.explain_scores_pair`.
        aggregator: the gated sum of the mixture that scored the pair. It supplies the penalties that act through a
            weight. With None, the effect of a weight is the difference of coefficient times score, which is exact only
            without debiasing.

    Returns:
        Score changes and weight changes, each sorted by size with reachable changes first.

    Raises:
        ModelError: an aggregator with a different number of experts, or a reward that is not a weighted sum.

    Example:
        >>> from facetrm import World, explain_scores_pair, flip_pair, toy_model
        >>> pair = next(World().preferences(1))
        >>> explained = explain_scores_pair(*toy_model().score([pair.chosen, pair.rejected]))
        >>> len(flip_pair(explained).scores) > 0
        True
    """
    if not (pair.a.weighted and pair.b.weighted):
        raise ModelError(
            "not defined for this aggregator: the reward is not a weighted sum of ratings",
            place="flip_pair",
            fix="use ablate, or drop an expert with edit and score the pair again",
        )
    scores = [ScoreFlip(line.objective, _moves(line.a, line.b, pair.margin)) for line in pair.lines]
    terms = _own_terms(pair) if aggregator is None else margin_terms(pair, aggregator)
    effects = {line.objective: 0.0 for line in pair.lines}
    for term in terms:
        for name in {term.weight, term.score}:
            effects[name] += term.value
    weights = [_weight_flip(name, effect, pair.margin) for name, effect in effects.items()]
    return Flip(
        margin=pair.margin,
        scores=tuple(sorted(scores, key=_flip_order)),
        weights=tuple(sorted(weights, key=_weight_order)),
        terms=terms,
    )


def margin_terms(pair: PairExplanation, aggregator: GatedSum) -> tuple[MarginTerm, ...]:
    """Return the terms of the margin that are not 0.

        term_kj = [w_k C_kj s_j](A) - [w_k C_kj s_j](B),    C = scale * debias.T
        effect_k = sum_j term_kj + sum_(i != k) term_ik

    Args:
        pair: two answers scored by one mixture.
        aggregator: the gated sum of that mixture.

    Raises:
        ModelError: an aggregator with a different number of experts.
    """
    size = aggregator.size
    total_KK = torch.zeros(size, size, dtype=torch.float64)
    matrix_KK = aggregator.coefficients_KK.double()
    for sign, answer in ((1.0, pair.a), (-1.0, pair.b)):
        lines = _expert_order(answer, aggregator)
        weights_K = torch.tensor([line.weight or 0.0 for line in lines], dtype=torch.float64)
        scores_K = torch.tensor([line.score for line in lines], dtype=torch.float64)
        total_KK += sign * weights_K[:, None] * matrix_KK * scores_K
    names = [line.objective for line in lines]
    places = [(k, j) for k, j in total_KK.nonzero().tolist()]
    return tuple(MarginTerm(names[k], names[j], float(total_KK[k, j])) for k, j in places)


def _expert_order(answer: LocalExplanation, aggregator: GatedSum) -> list[ExpertLine]:
    lines = sorted(answer.lines, key=lambda line: line.position)
    size = int(aggregator.coefficients_KK.shape[0])
    if len(lines) != size:
        raise ModelError(
            f"the answer has {len(lines)} experts, but the aggregator has {size}",
            place="flip_pair",
            fix="pass the aggregator of the mixture that scored the pair",
        )
    return lines


def _own_terms(pair: PairExplanation) -> tuple[MarginTerm, ...]:
    values = {line.objective: _product(line.a) - _product(line.b) for line in pair.lines}
    return tuple(MarginTerm(name, name, value) for name, value in values.items() if value)


def _product(line: ExpertLine | None) -> float:
    return 0.0 if line is None else (line.coefficient or 0.0) * line.score


def _moves(a: ExpertLine | None, b: ExpertLine | None, margin: float) -> tuple[Move, ...]:
    moves = []
    for answer, line, sign in (("A", a, -1.0), ("B", b, 1.0)):
        if line is None or not line.coefficient:
            continue
        delta = sign * margin / line.coefficient
        if not math.isfinite(delta):
            continue
        step = None if line.scale is None else delta * line.scale.per_unit
        target = None if step is None else line.rating + step
        reachable = None if line.scale is None or target is None else line.scale.holds(target)
        moves.append(Move(answer, delta, step, line.rating, target, reachable))
    return tuple(moves)


def _weight_flip(name: str, effect: float, margin: float) -> WeightFlip:
    factor = None if effect == 0 else 1.0 - margin / effect
    return WeightFlip(
        objective=name,
        effect=effect,
        factor=factor if factor is not None and math.isfinite(factor) and factor >= 0 else None,
        drop_flips=(margin - effect) * margin < 0,
        double_flips=(margin + effect) * margin < 0,
    )


def _move_order(move: Move) -> tuple[int, float]:
    reach = {True: 0, None: 1, False: 2}[move.reachable]
    return reach, abs(move.delta_score)


def _flip_order(flip: ScoreFlip) -> tuple[int, float, str]:
    return (3, 0.0, flip.objective) if flip.best is None else (*_move_order(flip.best), flip.objective)


def _weight_order(flip: WeightFlip) -> tuple[float, str]:
    return (math.inf if flip.factor is None else abs(flip.factor - 1.0), flip.objective)
