"""Scorers that read no meaning: units and signs, randomness that no order changes, and values that are known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kstest

from facetrm.baselines.groups import GroupScorer
from facetrm.baselines.plain import LengthScorer, OracleScorer, RandomScorer
from facetrm.core.errors import ConfigError, DataError
from facetrm.data.records import conversation_key
from fakes import chat

ANSWERS = [chat("a question", text) for text in ("x", "two words", "naïve 你好 😀")]


def rewards(scorer: object, conversations: list) -> list[float]:
    return [score.reward for score in scorer.score(conversations)]


def test_length_is_in_its_unit_and_has_its_sign() -> None:
    assert rewards(LengthScorer(), ANSWERS) == [1.0, 9.0, 10.0]
    assert rewards(LengthScorer(sign=-1), ANSWERS) == [-1.0, -9.0, -10.0]
    assert rewards(LengthScorer(unit="words"), ANSWERS) == [1.0, 2.0, 3.0]
    assert [score.length for score in LengthScorer(sign=-1).score(ANSWERS)] == [1, 9, 10]
    assert LengthScorer(sign=-1).name == "shortest"
    hashes = [LengthScorer(), LengthScorer(sign=-1), LengthScorer(unit="words"), RandomScorer(), RandomScorer(seed=1)]
    assert len({scorer.hash for scorer in hashes}) == 5
    assert not isinstance(LengthScorer(), GroupScorer)


@pytest.mark.parametrize("wrong", [{"sign": 0}, {"sign": 2}, {"unit": "tokens"}])
def test_what_is_no_length_is_refused(wrong: dict) -> None:
    with pytest.raises(ConfigError, match="LengthScorer"):
        LengthScorer(**wrong)


def test_random_rewards_are_uniform_and_no_order_changes_them() -> None:
    many = [chat(f"question {n}", f"answer {n}") for n in range(2000)]
    found = rewards(RandomScorer(seed=3), many)
    assert kstest(found, "uniform").pvalue > 0.01
    assert rewards(RandomScorer(seed=3), many[::-1]) == found[::-1]
    assert rewards(RandomScorer(seed=3), [many[7]]) == [found[7]]
    other = rewards(RandomScorer(seed=4), many)
    assert abs(np.corrcoef(found, other)[0, 1]) < 0.1
    assert RandomScorer().score([]) == []


def test_an_oracle_knows_what_it_was_told_and_nothing_else() -> None:
    values = {conversation_key(c): float(n) for n, c in enumerate(ANSWERS)}
    oracle = OracleScorer(values)
    assert rewards(oracle, ANSWERS[::-1]) == [2.0, 1.0, 0.0]
    assert oracle.hash == OracleScorer(dict(reversed(values.items()))).hash
    assert oracle.hash != OracleScorer({**values, conversation_key(ANSWERS[0]): 5.0}).hash
    with pytest.raises(DataError, match=r"oracle: no value for conversation 1 .*a question"):
        oracle.score([ANSWERS[0], chat("a question", "X")])
    with pytest.raises(DataError, match="is nan"):
        OracleScorer({"k": float("nan")})
