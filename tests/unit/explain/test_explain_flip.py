"""What would flip a pair really flips it, when the change is made."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from explain_samples import NAMES, OBJECTIVES, aggregator, pair
from facetrm.core.errors import ModelError
from facetrm.explain.flip import flip_pair, margin_terms
from facetrm.explain.local import explain_scores_pair
from facetrm.model.aggregate import GatedSum, WeightEdit
from facetrm.model.gate import Gate, GateShape
from facetrm.model.output import Score


def rewards(
    total: GatedSum, a: Score, b: Score, *, change: dict[tuple[str, str], float] | None = None
) -> tuple[float, float]:
    """Rewards of both answers, scored again by the gated sum after score changes named (answer, objective)."""
    found = []
    for letter, score in (("A", a), ("B", b)):
        values = [score.scores[n] + (change or {}).get((letter, n), 0.0) for n in NAMES]
        weights = torch.tensor([[score.weights[n] for n in NAMES]], dtype=torch.float64)
        matrix = total.coefficients_KK.double()
        found.append(float((weights @ matrix @ torch.tensor(values, dtype=torch.float64)).item()))
    return found[0], found[1]


@given(seed=st.integers(0, 300), same=st.booleans())
@settings(max_examples=25, deadline=None)
def test_a_score_change_alone_ties_the_pair_and_a_little_more_flips_it(seed: int, same: bool) -> None:
    a, b, total = pair(seed, same_prompt=same)
    found = explain_scores_pair(a, b, objectives=OBJECTIVES)
    for flip in flip_pair(found).scores:
        assert len(flip.moves) == 2
        for move in flip.moves:
            for stretch, turned in ((0.99, False), (1.01, True)):
                one, other = rewards(total, a, b, change={(move.answer, flip.objective): stretch * move.delta_score})
                assert ((one - other) * found.margin < 0) is turned


@given(seed=st.integers(0, 300))
@settings(max_examples=25, deadline=None)
def test_targets_are_on_the_sources_scale_and_reach_is_judged_there(seed: int) -> None:
    a, b, _ = pair(seed)
    found = explain_scores_pair(a, b, objectives=OBJECTIVES)
    scores = {"A": a.scores, "B": b.scores}
    by_name = {objective.name: objective for objective in OBJECTIVES}
    reach = []
    for flip in flip_pair(found).scores:
        objective = by_name[flip.objective]
        for move in flip.moves:
            assert move.target == pytest.approx(
                objective.from_unit(scores[move.answer][flip.objective] + move.delta_score), abs=1e-4
            )
            assert move.reachable is (objective.low - 1e-4 <= move.target <= objective.high + 1e-4)
        reach.append((not flip.best.reachable, abs(flip.best.delta_score)))
    assert reach == sorted(reach)


@given(seed=st.integers(0, 300))
@settings(max_examples=25, deadline=None)
def test_weight_flips_agree_with_the_models_own_edits(seed: int) -> None:
    """Scaling by the factor ties the pair, dropping and doubling flip it exactly when the model says so."""
    a, b, total = pair(seed)
    found = explain_scores_pair(a, b)
    logits = torch.tensor([[a.weights[n] for n in NAMES]]).log()
    scores = torch.tensor([[score.scores[n] for n in NAMES] for score in (a, b)])

    def margin(edit: WeightEdit) -> float:
        edited = total.with_edit(edit)
        reward = edited.combine(edited.weights_of(logits).expand(2, -1), scores).reward_N
        return float((reward[0] - reward[1]).item())

    flip = flip_pair(found, aggregator=total)
    assert flip.reweighed({}) == pytest.approx(found.margin, abs=1e-5)
    factors = dict(zip(NAMES, (0.5, 2.0, 3.0, 1.5, 0.25), strict=True))
    edit = WeightEdit(scale=tuple((k, factors[name]) for k, name in enumerate(NAMES)))
    assert flip.reweighed(factors) == pytest.approx(margin(edit), abs=1e-5)
    flips = flip.weights
    assert {flip.objective for flip in flips} == set(NAMES)
    for flip in flips:
        k = NAMES.index(flip.objective)
        for answer, edit in (
            (flip.drop_flips, WeightEdit(drop=(k,))),
            (flip.double_flips, WeightEdit(scale=((k, 2.0),))),
        ):
            after = margin(edit)
            if abs(after) > 1e-5:
                assert (after * found.margin < 0) is answer
        if flip.factor is not None and flip.factor < 1e3:
            assert margin(WeightEdit(scale=((k, flip.factor),))) == pytest.approx(0.0, abs=1e-4)
    sizes = [abs(flip.factor - 1) for flip in flips if flip.factor is not None]
    assert sizes == sorted(sizes)


def test_without_debiasing_a_weights_effect_is_the_contribution_difference_of_scores() -> None:
    a, b, total = pair(4, debias=False)
    found = explain_scores_pair(a, b)
    effects = {term.weight: term.value for term in margin_terms(found, total)}
    for line in found.lines:
        assert effects[line.objective] == pytest.approx(line.difference, abs=1e-6)
    assert {f.objective: f.effect for f in flip_pair(found).weights} == pytest.approx(effects, abs=1e-6)


def test_a_silent_expert_offers_no_move() -> None:
    a, b, _ = pair(2)
    a.coefficients["helpsteer-helpfulness"] = b.coefficients["helpsteer-helpfulness"] = 0.0
    last = flip_pair(explain_scores_pair(a, b)).scores[-1]
    assert (last.objective, last.moves, last.best) == ("helpsteer-helpfulness", (), None)


def test_unknown_scales_are_said_to_be_unknown() -> None:
    a, b, _ = pair(2)
    moves = [move for flip in flip_pair(explain_scores_pair(a, b)).scores for move in flip.moves]
    assert {(move.reachable, move.target) for move in moves} == {(None, None)}


def test_facts_and_json() -> None:
    a, b, total = pair(3)
    flip = flip_pair(explain_scores_pair(a, b, objectives=OBJECTIVES), aggregator=total)
    assert any("helpsteer-verbosity times" in fact for fact in flip.facts)
    assert json.loads(json.dumps(flip.to_dict()))["margin"] == flip.margin
    tied = flip_pair(explain_scores_pair(a, a))
    assert tied.facts == ("The pair is already tied.",)


def test_an_aggregator_of_another_mixture_is_refused() -> None:
    a, b, _ = pair()
    other = GatedSum(Gate(GateShape(6, 3, hidden=4)))
    with pytest.raises(ModelError, match="the answer has 5 experts, but the aggregator has 3"):
        flip_pair(explain_scores_pair(a, b), aggregator=other)
    assert {term.weight for term in margin_terms(explain_scores_pair(a, b), aggregator())} <= set(NAMES)
