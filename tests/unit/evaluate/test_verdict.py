"""The verdict on a run: chance, backwards, not better than a rival, usable; and how many pairs would tell more."""

from __future__ import annotations

import json

import numpy as np
import pytest

from facetrm.core.statistics import pair_accuracy, paired_difference
from facetrm.evaluate.verdict import Verdict, judge_verdict, unproven, weight_warnings
from facetrm.model.validity import FEW_ROWS, Validity

N = 400
PROMPTS = [f"prompt {n}" for n in range(N)]


def right(share: float, *, first: int = 0, pairs: int = N) -> np.ndarray:
    """Return margins of which ``share`` are right: those of the pairs from ``first`` on."""
    margin_N = np.full(pairs, -1.0)
    margin_N[(first + np.arange(round(share * pairs))) % pairs] = 1.0
    return margin_N


def verdict(model: np.ndarray, plain: dict[str, np.ndarray] | None = None, **others: np.ndarray) -> Verdict:
    plain, prompts = plain or {}, PROMPTS[: len(model)]
    return judge_verdict(
        pair_accuracy(model, prompts, samples=400),
        {name: paired_difference(model, m, prompts, samples=400) for name, m in {**plain, **others}.items()},
        pairs=len(model),
        plain=plain,
        titles={"longer": "the longer answer"},
    )


def test_a_model_that_is_right_on_half_of_the_pairs_is_chance_and_hears_how_many_pairs_it_needs():
    found = verdict(right(0.52, pairs=100))
    assert found.status == "chance"
    assert found.statement.startswith("not distinguishable from chance: right on 52.0%")
    half = (found.accuracy.high - found.accuracy.low) / 2
    assert found.enough == pytest.approx(100 * (half / 0.05) ** 2, abs=1)
    assert 330 < found.enough < 460  # 1.96^2 * 0.25 / 0.05^2 = 384
    assert f"About {found.enough} held-out pairs would narrow the interval to 5 points." in found.advice
    assert verdict(right(0.52)).enough is None or verdict(right(0.52)).enough <= N * 1.2


def test_a_model_below_chance_is_backwards():
    found = verdict(right(0.2), {"longer": right(0.1)})
    assert found.status == "backwards"
    assert "which answer of a pair is the preferred one" in found.advice[0]


def test_a_model_no_better_than_the_longer_answer_is_not_better_though_it_beats_chance():
    found = verdict(right(0.70), {"longer": right(0.69, first=40)})
    assert (found.status, found.rival) == ("not better", "longer")
    assert found.statement.startswith("not better than the longer answer (+1.0 points, ")
    assert found.lead is not None
    assert found.lead.low < 0 < found.lead.high


def test_a_rival_that_learns_must_be_clearly_ahead_to_be_named():
    plain = {"longer": right(0.55)}
    level = verdict(right(0.80), plain, linear_bt=right(0.81, first=8))
    assert level.status == "usable"
    assert "Level with linear_bt (-1.0 points, " in level.statement
    ahead = verdict(right(0.70), plain, linear_bt=right(0.85))
    assert (ahead.status, ahead.rival) == ("not better", "linear_bt")
    clear = verdict(right(0.90), plain, linear_bt=right(0.70))
    assert clear.status == "usable"
    assert clear.statement.endswith("clearly ahead of all 2 rivals.")
    assert verdict(right(0.90)).statement.endswith("It was compared with no other system.")


def test_the_furthest_of_several_rivals_is_named():
    found = verdict(right(0.70), {"longer": right(0.5)}, linear_bt=right(0.80), uniform=right(0.90))
    assert found.rival == "uniform"


def test_a_verdict_is_json_and_lines():
    found = verdict(right(0.6, pairs=40))
    json.dumps(found.to_dict(), allow_nan=False)
    assert found.lines()[0] == f"Verdict: {found.statement}"
    assert len(found.lines()) == 1 + len(found.warnings) + len(found.advice)


def test_objectives_without_measurable_validity():
    ends = {"a": (0.1, 0.4), "b": (-0.1, 0.2), "c": (float("nan"), float("nan")), "d": (0.0, 0.3)}
    found = {name: Validity.of("spearman", 0.2, interval, 200) for name, interval in ends.items()}
    assert unproven(found) == ["b", "c", "d"]
    few = {"a": Validity.of("spearman", 0.9, (0.8, 1.0), FEW_ROWS - 1), "b": Validity.of_accuracy(0.6, 30)}
    assert unproven(few) == ["a", "b"]
    assert unproven({"a": Validity.of_accuracy(0.6, 300)}) == []
    assert weight_warnings({"a": 0.9, "b": 0.005, "c": 0.0, "d": 0.095}, []) == []
    assert weight_warnings({"a": 0.995, "b": 0.005}, ["b"]) == []
    (most,) = weight_warnings({"a": 0.4, "b": 0.6}, ["b"])
    assert most == "b holds 60% of the weight, but its ratings are not predicted on held-out prompts."
    (some,) = weight_warnings({"a": 0.6, "b": 0.1, "c": 0.2, "d": 0.1}, ["b", "c", "d"])
    assert some.startswith("40% of the weight is on objectives whose ratings are not predicted")
    assert some.endswith(": c, b, d.")
