"""NeMo-RL: components that sum to the reward, with the same names for every answer."""

from __future__ import annotations

import math

import pytest

from facetrm.core.errors import ConfigError
from facetrm.policy.bridges.nemo_rl import nemo_verifier
from facetrm.policy.bridges.scored import sampled_answer
from policy_samples import ANSWERS, FAILING, OBJECTIVES, PROMPTS, Moody
from reward_models import model, routed


def accepted(fields) -> bool:
    """NeMo-RL's check: the components sum to the reward within a relative 1e-5."""
    return math.isclose(sum(fields["reward_components"].values()), fields["reward"], rel_tol=1e-5)


@pytest.mark.parametrize("scorer", [model(), routed()], ids=["one task", "routed"])
def test_components_sum_to_the_reward(scorer) -> None:
    verify = nemo_verifier(scorer)
    names = set()
    for prompt in PROMPTS:
        for answer in ANSWERS:
            fields = verify(prompt, answer)
            assert accepted(fields)
            assert fields["reward"] == pytest.approx(scorer.score([sampled_answer(prompt, answer)])[0].reward, abs=1e-5)
            assert (fields["failed"], fields["reason"]) == (0.0, "")
            names.add(tuple(fields["reward_components"]))
    (found,) = names
    assert list(found) == sorted(found)
    assert {"base", *OBJECTIVES} <= set(found)


@pytest.mark.parametrize("failing", FAILING)
def test_a_failed_answer_has_the_same_components(failing: str) -> None:
    verify = nemo_verifier(Moody(), objectives=OBJECTIVES, missing=-2.0)
    fields = verify(PROMPTS[0], failing)
    assert accepted(fields)
    assert (fields["reward"], fields["failed"]) == (-2.0, 1.0)
    assert fields["reason"]
    assert fields["reward_components"].keys() == verify(PROMPTS[0], "fine")["reward_components"].keys()


def test_a_name_that_is_taken_is_refused() -> None:
    with pytest.raises(ConfigError, match="an objective is named 'base'"):
        nemo_verifier(Moody(), objectives=["base"])
