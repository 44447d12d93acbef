"""slime: one dict per sample, failed samples out of the loss, and the hook that keeps the gate."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from facetrm.core.errors import ConfigError
from facetrm.policy.bridges.scored import RewardSource, sampled_answer
from facetrm.policy.bridges.slime import slime_advantages, slime_reward
from policy_samples import ANSWERS, FAILING, OBJECTIVES, PROMPTS, Moody
from reward_models import model

ARGS = SimpleNamespace(reward_key="score", group_rm=True)


@dataclass
class Sample:
    """The fields of slime's sample that matter here."""

    group_index: int
    prompt: Any
    response: str
    reward: Any = None
    remove_sample: bool = False


def samples(answers=ANSWERS) -> list[Sample]:
    return [Sample(g, prompt, answer) for g, prompt in enumerate(PROMPTS) for answer in answers]


def test_one_sample_gives_a_dict_and_a_group_gives_a_list() -> None:
    scorer = model()
    custom_rm = slime_reward(scorer)
    group = samples()
    found = asyncio.run(custom_rm(ARGS, group))
    assert scorer.encoder.calls == 1
    assert [row[ARGS.reward_key] for row in found] == RewardSource(scorer).score(
        [sampled_answer(one.prompt, one.response) for one in group]
    ).rewards
    assert asyncio.run(custom_rm(ARGS, group[0])) == found[0]
    assert not any(one.remove_sample for one in group)


@pytest.mark.parametrize("failing", FAILING)
def test_a_failed_sample_is_removed_and_stays_alone(failing: str) -> None:
    group = samples((*ANSWERS, failing))
    custom_rm = slime_reward(Moody(), objectives=OBJECTIVES, missing=-1.0)
    for one, reward in zip(group, asyncio.run(custom_rm(ARGS, group)), strict=True):
        one.reward = reward
    assert [one.remove_sample for one in group] == [False] * 4 + [True] + [False] * 4 + [True]
    assert {tuple(one.reward) for one in group} == {tuple(group[0].reward)}
    assert all(math.isfinite(value) for one in group for value in one.reward.values())
    raw, advantages = slime_advantages(ARGS, group)
    whole = RewardSource(model()).score([sampled_answer(p, a) for p in PROMPTS for a in ANSWERS])
    kept = [n for n in range(10) if n % 5 != 4]
    assert [raw[n] for n in kept] == whole.rewards
    np.testing.assert_allclose([advantages[n] for n in kept], whole.advantages([0] * 4 + [1] * 4), atol=1e-6)
    assert [raw[4], advantages[4], advantages[9]] == [-1.0, 0.0, 0.0]
    nested = [group[:5], group[5:]]
    assert slime_advantages(ARGS, nested) == (raw, advantages)
    assert slime_advantages(SimpleNamespace(reward_key=None), group)[0] == raw


def test_other_rewards_are_refused() -> None:
    for reward in (None, 1.0, {"score": 1.0}):
        with pytest.raises(ConfigError, match=r"the reward is .*; use slime_reward"):
            slime_advantages(ARGS, [Sample(0, "a", "b", reward)])
    assert slime_advantages(ARGS, []) == ([], [])
