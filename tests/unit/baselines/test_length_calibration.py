"""Rewards without what length explains: exact sums, ends of the curve, files, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facetrm import World, toy_model
from facetrm.baselines.groups import bare_score
from facetrm.baselines.length_calibration import LengthCalibrated, LengthCurve, fit_length_calibration
from facetrm.baselines.lowess import lowess
from facetrm.baselines.plain import LengthScorer, OracleScorer, RandomScorer
from facetrm.core.errors import ConfigError, FitError, ModelError
from facetrm.core.statistics import spearman
from facetrm.data.records import Conversation, conversation_key
from fakes import chat

DRAW = np.random.default_rng(2)
QUALITY = DRAW.normal(size=200)
LENGTHS = DRAW.integers(5, 400, 200)
ANSWERS = [chat(f"question {n}", "x" * length) for n, length in enumerate(LENGTHS.tolist())]
BIASED = OracleScorer(
    {conversation_key(c): q + 4 * np.log(n) for c, q, n in zip(ANSWERS, QUALITY, LENGTHS.tolist(), strict=True)}
)


def rewards(scorer: Any, conversations: Sequence[Conversation] = ANSWERS) -> list[float]:
    return [score.reward for score in scorer.score(conversations)]


def test_what_length_explains_is_removed_and_quality_stays() -> None:
    assert spearman(rewards(BIASED), LENGTHS) > 0.8
    found = rewards(fit_length_calibration(BIASED, ANSWERS))
    assert abs(spearman(found, LENGTHS)) < 0.1
    assert spearman(found, QUALITY) > 0.9
    assert spearman(rewards(BIASED), QUALITY) < 0.5


@pytest.mark.parametrize("strength", [0.0, 0.4, 1.0, 1.5])
def test_the_reward_is_the_old_one_minus_the_curve(strength: float) -> None:
    calibrated = fit_length_calibration(BIASED, ANSWERS, strength=strength, fraction=0.3, robust=1)
    curve = np.interp(LENGTHS, *lowess(LENGTHS, rewards(BIASED), fraction=0.3, robust=1))
    assert rewards(calibrated) == pytest.approx(np.array(rewards(BIASED)) - strength * curve, abs=1e-9)
    score = calibrated.score(ANSWERS[:1])[0]
    assert score.contributions == pytest.approx(
        {"reward": rewards(BIASED)[0], "length-calibration": -strength * curve[0]}, abs=1e-9
    )
    assert score.model == calibrated.hash
    assert calibrated.score([]) == []


def test_the_parts_of_a_model_are_kept() -> None:
    model = toy_model()
    answers = [answer for pair in World().preferences(5) for answer in (pair.chosen, pair.rejected)]
    calibrated = fit_length_calibration(model, answers)
    for score, plain in zip(calibrated.score(answers), model.score(answers), strict=True):
        assert {name: score.contributions[name] for name in plain.contributions} == plain.contributions
        assert score.reward == pytest.approx(score.base + sum(score.contributions.values()), abs=1e-4)
        assert (score.scores, score.weights, score.length) == (plain.scores, plain.weights, plain.length)
    twice = fit_length_calibration(calibrated, answers, fraction=1.0)
    score = twice.score(answers[:1])[0]
    assert score.reward == pytest.approx(score.base + sum(score.contributions.values()), abs=1e-4)


def test_the_curve_is_constant_beyond_its_ends() -> None:
    calibrated = fit_length_calibration(LengthScorer(), ANSWERS)
    curve = calibrated.curve
    assert curve.lengths[0] == LENGTHS.min()
    assert curve.lengths[-1] == LENGTHS.max()
    assert curve.at([0, 10**9]).tolist() == [curve.rewards[0], curve.rewards[-1]]
    longer = chat("q", "x" * 1000)
    assert rewards(calibrated, [longer]) == pytest.approx([1000 - curve.rewards[-1]])
    assert rewards(calibrated) == pytest.approx([0.0] * 200, abs=1e-6)


def test_a_curve_is_stored_exactly(tmp_path: Path) -> None:
    calibrated = fit_length_calibration(BIASED, ANSWERS, unit="words")
    calibrated.curve.save(tmp_path / "curve.json")
    loaded = LengthCalibrated(BIASED, LengthCurve.load(tmp_path / "curve.json"))
    assert loaded.curve == calibrated.curve
    assert loaded.hash == calibrated.hash
    assert loaded.score(ANSWERS) == calibrated.score(ANSWERS)
    assert LengthCalibrated(BIASED, calibrated.curve, strength=0.5).hash != calibrated.hash


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"format": 2}, "format 2"),
        ({"unit": "tokens"}, "unit 'tokens'"),
        ({"lengths": [1, 1]}, "do not increase"),
        ({"lengths": []}, "0 lengths"),
        ({"rewards": [1.0]}, "2 lengths and 1 rewards"),
        ({"rewards": ["a", "b"]}, "'rewards' is no list of finite numbers"),
        ({"more": 1}, "not a length curve"),
    ],
)
def test_a_spoilt_file_is_named(change: dict[str, Any], told: str, tmp_path: Path) -> None:
    value = {"format": 1, "lengths": [1, 2], "rewards": [0.5, 1.0], "unit": "characters", "scorer": "x", **change}
    path = tmp_path / "curve.json"
    path.write_text(json.dumps(value), encoding="utf-8")
    with pytest.raises(ModelError, match=told) as caught:
        LengthCurve.load(path)
    assert str(path) in str(caught.value)
    with pytest.raises(ModelError, match=r"no file 'gone\.json'"):
        LengthCurve.load(tmp_path / "gone.json")


def test_what_cannot_be_calibrated_is_refused() -> None:
    curve = fit_length_calibration(RandomScorer(), ANSWERS).curve
    with pytest.raises(ConfigError, match="the curve belongs to scorer"):
        LengthCalibrated(RandomScorer(seed=1), curve)
    with pytest.raises(ConfigError, match="the strength is -1"):
        LengthCalibrated(RandomScorer(), curve, strength=-1)
    with pytest.raises(FitError, match="lowess: points of shapes"):
        fit_length_calibration(RandomScorer(), ANSWERS[:2])

    class Silent:
        hash = "silent"

        def score(self, conversations: Sequence[Conversation]) -> list[Any]:
            return [bare_score(float("nan"), model="silent") for _ in conversations]

    with pytest.raises(FitError, match="the reward of reference conversation 0 is nan"):
        fit_length_calibration(Silent(), ANSWERS)
