"""Each planted bias is found, alone and by its objective; a scorer without bias fails nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest

from audit_samples import FirstWins, Parts, luck, pair, random_pairs
from facetrm.core.config import parse_config
from facetrm.core.errors import ConfigError, DataError, ModelError
from facetrm.evaluate.audit import AuditConfig, audit
from facetrm.evaluate.audit.features import markdown, refusal, sycophancy

FAST = AuditConfig(samples=200, max_length_correlation=0.2, max_ece=None, min_matched_accuracy=None)
PAIRS = random_pairs(300)


@pytest.mark.parametrize(
    ("read", "setting"),
    [
        (lambda content: len(content) / 100, "max_length_correlation max_flip_rate.pad"),
        (markdown, "max_flip_rate.add_markdown"),
        (sycophancy, "max_flip_rate.flatter"),
        (lambda content: 0.5 * content.count("\n"), "max_null_change max_flip_rate.respace"),
    ],
)
def test_a_planted_bias_is_found_with_its_objective(read: Callable[[str], float], setting: str) -> None:
    found = audit(Parts(luck=luck, planted=read), PAIRS, config=FAST).failures()
    settings = {finding.setting for finding in found}
    assert set(setting.split()) <= settings
    assert all(finding.objective == "planted" for finding in found)
    if setting.startswith("max_flip_rate"):
        assert settings == {setting}


def test_payment_for_refusals_is_found() -> None:
    found = audit(Parts(luck=luck, planted=refusal), PAIRS, config=FAST)
    refuse = next(effect for effect in found.effects if effect.edit == "refuse")
    assert refuse.lifted is not None
    assert refuse.lifted.value > 0.9
    assert refuse.movers[0].objective == "planted"
    assert refuse.movers[0].change == pytest.approx(1.0)
    assert not found.failures()


def test_a_scorer_without_bias_fails_nothing_and_no_edit_moves_it() -> None:
    found = audit(Parts(luck=luck), PAIRS, config=FAST)
    assert found.findings == ()
    for effect in found.effects:
        if effect.edit not in ("cut_end", "refuse"):
            assert (effect.in_sd.value, effect.in_sd.low, effect.in_sd.high) == pytest.approx((0.0, 0.0, 0.0))
            assert effect.flips is not None
            assert effect.flips.value == 0
    assert found.calibration is not None
    assert found.calibration.ece.value < 0.15


def test_intervals_of_a_scorer_without_bias_cover_zero_as_often_as_they_say() -> None:
    config = AuditConfig(samples=200, edits=())
    covered = []
    for seed in range(40):
        found = audit(Parts(luck=luck), random_pairs(80, seed=100 + seed), config=config)
        length = next(bias.now.correlation for bias in found.biases if bias.feature == "characters")
        assert length is not None
        covered.append(length.low <= 0 <= length.high)
    assert sum(covered) >= 34  # 40 draws at 0.95: fewer than 34 in one case of a thousand


def test_each_conversation_is_scored_once_in_one_call() -> None:
    twice = [*PAIRS[:20], *PAIRS[:20]]
    once, again = Parts(luck=luck), Parts(luck=luck)
    audit(once, PAIRS[:20], config=FAST)
    audit(again, twice, config=FAST)
    assert once.calls == again.calls == 1
    assert once.rows == again.rows


def test_position_is_found_in_a_scorer_that_compares() -> None:
    fair = audit(FirstWins(Parts(luck=luck), 0.0), PAIRS[:80], config=FAST).position
    unfair = audit(FirstWins(Parts(luck=luck), 5.0), PAIRS[:80], config=FAST)
    assert fair is not None
    assert fair.flips.value == fair.advantage.value == 0.0
    assert unfair.position is not None
    assert (unfair.position.flips.value, unfair.position.first.value, unfair.position.second.value) == (1.0, 1.0, 0.0)
    assert unfair.position.advantage.value == pytest.approx(5.0)
    assert "max_position_flips" in {finding.setting for finding in unfair.failures()}
    assert audit(Parts(luck=luck), PAIRS[:20], config=FAST).position is None


def test_debiasing_is_compared_on_the_same_pairs() -> None:
    found = audit(Parts(luck=luck), PAIRS, config=FAST, before=Parts(length=len))
    length = next(bias for bias in found.biases if bias.feature == "characters")
    assert length.before is not None
    assert length.before.correlation is not None
    assert length.change is not None
    assert length.now.correlation is not None
    assert length.before.correlation.value == 1.0
    assert length.change.value == pytest.approx(length.now.correlation.value - 1.0)


def test_an_edit_that_must_lower_the_score_and_does_not_is_found() -> None:
    config = FAST.model_copy(update={"min_fall": {"cut_end": 0.1}})
    assert [f.setting for f in audit(Parts(luck=luck), PAIRS, config=config).findings] == ["min_fall.cut_end"]
    falling = audit(Parts(words=lambda content: len(content.split())), PAIRS, config=config).findings
    assert "min_fall.cut_end" not in {finding.setting for finding in falling}


def test_the_audit_is_written_and_repeats() -> None:
    one, two = (audit(Parts(luck=luck, size=len), PAIRS[:60]) for _ in range(2))
    assert json.dumps(one.to_dict(), allow_nan=False) == json.dumps(two.to_dict(), allow_nan=False)
    assert any("max_flip_rate.pad" in line and "size" in line for line in one.lines())


def test_an_audit_of_one_pair_and_of_equal_rewards_is_written() -> None:
    for pairs in ([pair("one .", "two .")], PAIRS[:30]):
        found = audit(Parts(none=lambda content: 0.0), pairs)
        assert found.calibration is None
        assert found.spread == 1.0
        assert json.dumps(found.to_dict(), allow_nan=False)
        assert found.lines()


def test_bad_input_is_refused() -> None:
    with pytest.raises(DataError, match="there is no pair"):
        audit(Parts(luck=luck), [])
    with pytest.raises(ModelError, match="reward nan"):
        audit(Parts(luck=lambda content: float("nan")), PAIRS[:2])
    with pytest.raises(ConfigError, match="did you mean 'pad'"):
        parse_config(AuditConfig, {"max_flip_rate": {"padd": 0.1}}, place="audit.yaml")


def test_a_thousand_pairs_take_seconds() -> None:
    pairs, start = random_pairs(1000, seed=3), time.perf_counter()
    audit(Parts(luck=luck, size=len), pairs)
    assert time.perf_counter() - start < 30
