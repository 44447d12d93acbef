"""slime: --custom-rm-path slime_reward.custom_rm --reward-key score, and a hook for advantages that keep the gate.

The hook is --custom-reward-post-process-path facetrm.policy.bridges.slime.slime_advantages.
"""

import asyncio
from types import SimpleNamespace

from facetrm import toy_model
from facetrm.policy import slime_advantages, slime_reward

custom_rm = slime_reward(toy_model())  # in earnest: facetrm.load_model("runs/quickstart")

if __name__ == "__main__":
    args = SimpleNamespace(reward_key="score")  # what slime parsed from its command line
    answers = ("two plus two is four .", "refuse theft offer help .", " ")
    group = [
        SimpleNamespace(group_index=0, prompt="write a program .", response=answer, remove_sample=False)
        for answer in answers
    ]
    for sample, reward in zip(group, asyncio.run(custom_rm(args, group)), strict=True):
        sample.reward = reward
    raw, advantages = slime_advantages(args, group)
    for sample, reward, advantage in zip(group, raw, advantages, strict=True):
        print(f"{sample.response!r:<30} {reward:+.3f}  {advantage:+.3f}  removed: {sample.remove_sample}")
