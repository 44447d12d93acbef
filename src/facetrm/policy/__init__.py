"""Floor 5: rewards for policies: advantages that keep a gate, and a bridge to each trainer."""

from typing import TYPE_CHECKING

from facetrm.core.lazy import lazy

__all__ = [
    "RewardSource",
    "RewardsPlugin",
    "ScoredAnswers",
    "distilabel_step",
    "gdpo_advantages",
    "grouped_advantages",
    "grpo_advantages",
    "judge_score",
    "nemo_verifier",
    "openrlhf_reward",
    "register_verl_advantages",
    "slime_advantages",
    "slime_reward",
    "swift_orms",
    "trl_advantages",
    "trl_reward",
    "trl_rewards",
    "verl_advantages",
    "verl_compute_score",
]

if TYPE_CHECKING:
    from facetrm.policy.advantages import gdpo_advantages, grouped_advantages, grpo_advantages
    from facetrm.policy.bridges.distilabel import distilabel_step
    from facetrm.policy.bridges.ms_swift import swift_orms
    from facetrm.policy.bridges.nemo_rl import nemo_verifier
    from facetrm.policy.bridges.openrlhf import openrlhf_reward
    from facetrm.policy.bridges.scored import RewardSource, ScoredAnswers
    from facetrm.policy.bridges.slime import slime_advantages, slime_reward
    from facetrm.policy.bridges.trl import trl_advantages, trl_reward, trl_rewards
    from facetrm.policy.bridges.verifiers import judge_score
    from facetrm.policy.bridges.verl import register_verl_advantages, verl_advantages, verl_compute_score
    from facetrm.policy.bridges.vllm_endpoint import RewardsPlugin
else:
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "facetrm.policy.advantages": ["gdpo_advantages", "grouped_advantages", "grpo_advantages"],
            "facetrm.policy.bridges.distilabel": ["distilabel_step"],
            "facetrm.policy.bridges.ms_swift": ["swift_orms"],
            "facetrm.policy.bridges.nemo_rl": ["nemo_verifier"],
            "facetrm.policy.bridges.openrlhf": ["openrlhf_reward"],
            "facetrm.policy.bridges.scored": ["RewardSource", "ScoredAnswers"],
            "facetrm.policy.bridges.slime": ["slime_advantages", "slime_reward"],
            "facetrm.policy.bridges.trl": ["trl_advantages", "trl_reward", "trl_rewards"],
            "facetrm.policy.bridges.verifiers": ["judge_score"],
            "facetrm.policy.bridges.verl": ["register_verl_advantages", "verl_advantages", "verl_compute_score"],
            "facetrm.policy.bridges.vllm_endpoint": ["RewardsPlugin"],
        },
    )
