"""Explanations of one answer and of a pair: the sums are exact, the shares are percent, the scales are the source's."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from explain_samples import NAMES, OBJECTIVES, pair
from facetrm.core.errors import ModelError
from facetrm.core.shown import show_digits, show_fixed, show_number
from facetrm.explain.local import explain_score, explain_scores_pair


@given(seed=st.integers(0, 500))
@settings(max_examples=30, deadline=None)
def test_one_answer_adds_up_and_its_shares_are_percent(seed: int) -> None:
    score, _, _ = pair(seed)
    found = explain_score(score, objectives=OBJECTIVES)
    assert found.base + sum(line.contribution for line in found.lines) == pytest.approx(score.reward, abs=1e-5)
    assert sum(line.share for line in found.lines) == pytest.approx(100.0)
    sizes = [abs(line.contribution) for line in found.lines]
    assert sizes == sorted(sizes, reverse=True)
    assert found.lines[0].share == pytest.approx(100 * sizes[0] / sum(sizes))


@given(seed=st.integers(0, 500))
@settings(max_examples=30, deadline=None)
def test_differences_of_one_prompt_sum_to_the_margin_and_the_base_cancels(seed: int) -> None:
    a, b, _ = pair(seed)
    found = explain_scores_pair(a, b)
    assert found.same_prompt
    assert found.base_difference == 0.0
    assert sum(line.difference for line in found.lines) == pytest.approx(found.margin, abs=1e-5)
    assert found.margin == pytest.approx(a.reward - b.reward)
    assert sum(line.share for line in found.lines) == pytest.approx(100.0)


@given(seed=st.integers(0, 500))
@settings(max_examples=30, deadline=None)
def test_two_prompts_keep_the_base_as_its_own_line(seed: int) -> None:
    a, b, _ = pair(seed, same_prompt=False)
    found = explain_scores_pair(a, b)
    assert not found.same_prompt
    assert found.base_difference == pytest.approx(a.base - b.base)
    assert found.base_difference != 0.0
    total = found.base_difference + sum(line.difference for line in found.lines)
    assert total == pytest.approx(found.margin, abs=1e-5)
    assert any("prompts differ" in fact for fact in found.facts)


def test_shares_read_as_the_issue_says() -> None:
    score, _, _ = pair()
    contributions = {"helpfulness": 0.4, "length": -0.6}
    keys = dict.fromkeys(contributions, 0.5)
    plain = replace(
        score,
        reward=-0.1,
        base=0.1,
        contributions=contributions,
        scores=keys,
        ratings=keys,
        weights=keys,
        coefficients=keys,
    )
    assert explain_score(plain).summary() == "length 60%, helpfulness 40%"


def test_a_score_without_any_contribution_has_no_shares() -> None:
    score, _, _ = pair()
    silent = replace(score, reward=score.base, contributions=dict.fromkeys(score.contributions, 0.0))
    assert {line.share for line in explain_score(silent).lines} == {0.0}


def test_ratings_stand_on_the_sources_scales() -> None:
    score, _, _ = pair()
    found = explain_score(score, objectives=OBJECTIVES)
    errors = found.line("judge-errors")
    assert errors.scale is not None
    assert (errors.scale.low, errors.scale.high, errors.scale.direction) == (1, 10, "lower")
    assert errors.scale.per_unit == pytest.approx(-10.0)
    assert errors.reading == f"{errors.rating:.2f} of 1..10 (lower is better)"
    assert found.line("beavertails-is_safe").reading.endswith("of 0..1")
    assert explain_score(score).line("judge-errors").scale is None


def test_probability_and_facts_name_the_sides() -> None:
    a, b, _ = pair(3)
    found = explain_scores_pair(a, b, beta=20.0)
    assert found.probability == pytest.approx(1 / (1 + math.exp(-20.0 * found.margin)))
    mirrored = explain_scores_pair(b, a, beta=20.0)
    assert mirrored.probability == pytest.approx(1 - found.probability)
    assert {found.winner, mirrored.winner} == {"A", "B"}
    assert found.facts[0].startswith(f"{found.winner} is ahead by")
    for line in found.lines:
        sentence = next(fact for fact in found.facts if fact.startswith(f"For {line.favours}:"))
        assert line.objective in sentence


def test_one_expert_that_decides_is_named() -> None:
    a, b, _ = pair(3)
    name = NAMES[0]
    moved = a.contributions[name] + 5.0
    a = replace(a, reward=a.reward + 5.0, contributions={**a.contributions, name: moved})
    assert explain_scores_pair(a, b).decided_by == name
    assert any(f"{name} alone" in fact for fact in explain_scores_pair(a, b).facts)


@pytest.mark.parametrize(("off", "side"), [(6e-17, "neither"), (2e-9, "neither"), (1e-6, "B")])
def test_a_difference_that_is_only_rounding_favours_neither_side(off: float, side: str) -> None:
    a, b, _ = pair(3)
    name = NAMES[0]
    same = a.contributions[name] + off
    b = replace(b, reward=b.reward + same - b.contributions[name], contributions={**b.contributions, name: same})
    found = explain_scores_pair(a, b)
    (line,) = [line for line in found.lines if line.objective == name]
    assert line.favours == side
    assert any(name in fact for fact in found.facts) is (side == "B")


def test_json_round_trip() -> None:
    a, b, _ = pair(1)
    value = json.loads(json.dumps(explain_scores_pair(a, b, objectives=OBJECTIVES).to_dict(), allow_nan=False))
    assert value["margin"] == pytest.approx(a.reward - b.reward)
    assert value["lines"][0]["favours"] in {"A", "B"}
    assert json.loads(json.dumps(explain_score(a).to_dict()))["reward"] == a.reward


def test_wrong_questions_are_refused() -> None:
    a, b, _ = pair()
    with pytest.raises(ModelError, match="different models"):
        explain_scores_pair(a, replace(b, model="x" * 64))
    with pytest.raises(ModelError, match="different templates"):
        explain_scores_pair(a, replace(b, template="x" * 64))
    with pytest.raises(ModelError, match="not base plus contributions"):
        explain_score(replace(a, reward=a.reward + 1.0))
    with pytest.raises(ModelError, match="reward is nan"):
        explain_score(replace(a, reward=math.nan))
    one, other, _ = pair(same_prompt=False)
    with pytest.raises(ModelError, match="differ"):
        explain_scores_pair(one, other, same_prompt=True)


@pytest.mark.parametrize(("value", "text"), [(0.1234, "0.12"), (34.56, "34.6"), (1234.5, "1,234"), (-3.0, "-3.00")])
def test_numbers_have_about_three_digits(value: float, text: str) -> None:
    assert show_number(value) == text


def test_no_zero_has_a_minus_sign() -> None:
    for value in (-0.0, -1e-9, 1e-9):
        assert (show_fixed(value), show_fixed(value, signed=True)) == ("0.0000", "+0.0000")
        assert show_number(value) == "0.00"
    assert show_digits(-0.0) == "+0"
    assert (show_fixed(-0.00006), show_fixed(0.5, 1, signed=True)) == ("-0.0001", "+0.5")
