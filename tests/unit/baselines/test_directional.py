"""The reward in a direction: exact parts, unit vectors, angles, scales, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest

from facetrm import World, toy_model
from facetrm.baselines.directional import (
    STEERLM_WEIGHTS,
    DirectionalScorer,
    direction_of_angle,
    fit_direction,
    unit_direction,
)
from facetrm.core.errors import ConfigError, FitError

MODEL = toy_model(tuple(STEERLM_WEIGHTS))
ANSWERS = [answer for pair in World().preferences(6) for answer in (pair.chosen, pair.rejected)]
PLAIN = MODEL.score(ANSWERS)


def test_a_reward_is_the_product_of_the_direction_and_the_ratings() -> None:
    weights = {"helpfulness": 0.6, "verbosity": -0.8}
    scorer = fit_direction(MODEL, weights)
    assert scorer.note is None
    for score, plain in zip(scorer.score(ANSWERS), PLAIN, strict=True):
        expected = {name: weight * plain.scores[name] for name, weight in weights.items()}
        assert score.contributions == pytest.approx(expected, abs=1e-12)
        assert score.reward == pytest.approx(sum(expected.values()), abs=1e-12)
        assert score.base == 0.0
        from_coefficients = sum(score.coefficients[name] * score.scores[name] for name in score.scores)
        assert from_coefficients == pytest.approx(score.reward, abs=1e-12)
        assert (score.length, score.task) == (plain.length, plain.task)
        assert score.model == scorer.hash


def test_a_direction_is_scaled_to_length_one_and_that_is_noted() -> None:
    direction, note = unit_direction({"a": 3.0, "b": -4.0})
    assert direction == pytest.approx({"a": 0.6, "b": -0.8})
    assert note == "the direction had length 5 and was scaled to 1"
    assert unit_direction({"a": 0.6, "b": 0.8}) == ({"a": 0.6, "b": 0.8}, None)
    scorer = fit_direction(MODEL, {"helpfulness": 3.0, "verbosity": -4.0})
    assert scorer.note == note
    assert scorer.weights == pytest.approx({"helpfulness": 0.6, "verbosity": -0.8})


@pytest.mark.parametrize("degrees", [-180.0, -15.0, 0.0, 30.0, 45.0, 90.0])
def test_an_angle_is_a_unit_vector(degrees: float) -> None:
    found = direction_of_angle(degrees, "helpfulness", "verbosity")
    turned = np.exp(1j * math.pi * degrees / 180.0)
    assert list(found.values()) == pytest.approx([turned.real, turned.imag], abs=1e-12)
    assert unit_direction(found)[1] is None


def test_standardised_objectives_count_alike() -> None:
    scorer = fit_direction(MODEL, {"helpfulness": 1.0, "verbosity": 1.0}, conversations=ANSWERS)
    scores = scorer.score(ANSWERS)
    for name in ("helpfulness", "verbosity"):
        rated = np.array([score.scores[name] for score in PLAIN])
        expected = (rated - rated.sum() / 12) / math.sqrt(((rated - rated.sum() / 12) ** 2).sum() / 12) / math.sqrt(2)
        assert [score.contributions[name] for score in scores] == pytest.approx(expected, abs=1e-9)
    moved = [score.reward - sum(score.coefficients[n] * score.scores[n] for n in score.scores) for score in scores]
    assert moved == pytest.approx([moved[0]] * 12, abs=1e-9)


def test_fixed_weights_read_the_scale_of_their_source() -> None:
    scorer = fit_direction(MODEL, STEERLM_WEIGHTS, scale="source", normalise=False)
    assert scorer.weights == STEERLM_WEIGHTS
    for score, plain in zip(scorer.score(ANSWERS), PLAIN, strict=True):
        ratings = {name: 5.0 * plain.scores[name] - 0.5 for name in STEERLM_WEIGHTS}  # 0 to 4, bin centres
        assert score.reward == pytest.approx(sum(STEERLM_WEIGHTS[n] * ratings[n] for n in ratings), abs=1e-9)
        assert score.coefficients == {}


def test_the_hash_is_that_of_all_that_counts() -> None:
    scorers = [
        fit_direction(MODEL, {"helpfulness": 1.0}),
        fit_direction(MODEL, {"verbosity": 1.0}),
        fit_direction(MODEL, {"helpfulness": 1.0}, scale="source"),
        fit_direction(MODEL, {"helpfulness": 1.0}, conversations=ANSWERS),
        fit_direction(MODEL, {"helpfulness": 1.0}, conversations=ANSWERS[:6]),
        fit_direction(toy_model(tuple(STEERLM_WEIGHTS), seed=1), {"helpfulness": 1.0}),
    ]
    assert len({scorer.hash for scorer in scorers}) == len(scorers)
    assert fit_direction(MODEL, {"helpfulness": 1.0}).hash == scorers[0].hash


def test_what_is_no_direction_is_refused() -> None:
    with pytest.raises(ConfigError, match="objective 'verbositi' is not in this model; did you mean 'verbosity'"):
        fit_direction(MODEL, {"verbositi": 1.0})
    with pytest.raises(ConfigError, match="no objective has a weight"):
        fit_direction(MODEL, {"verbosity": 0.0})
    with pytest.raises(ConfigError, match="the weight of 'verbosity' is inf"):
        fit_direction(MODEL, {"verbosity": math.inf})
    with pytest.raises(ConfigError, match="no reference conversations"):
        fit_direction(MODEL, {"verbosity": 1.0}, scale="standard")
    with pytest.raises(ConfigError, match="unknown scale 'percent'"):
        fit_direction(MODEL, {"verbosity": 1.0}, scale="percent")  # type: ignore[arg-type]
    with pytest.raises(FitError, match=r"'verbosity' has mean .* and deviation 0"):
        fit_direction(MODEL, {"verbosity": 1.0}, conversations=ANSWERS[:1])
    with pytest.raises(FitError, match="'verbosity' has mean nan"):
        DirectionalScorer(MODEL, {"verbosity": 1.0}, scale="standard")
    with pytest.raises(ConfigError, match="an angle of nan"):
        direction_of_angle(math.nan, "a", "b")
