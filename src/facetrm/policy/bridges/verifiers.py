"""verifiers and prime-rl: the ``score`` of a judge.

    class RewardJudge(vf.Judge):
        score_answer = staticmethod(judge_score(load_model(...)))

        async def score(self, task, trace):
            return await self.score_answer(task, trace)

Like the library's own judges it reads the task's prompt and the last reply, and raises if there is no verdict: the
library then fails the rollout, while None would count as 0.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from facetrm.core.errors import ModelError
from facetrm.model.output import Scorer
from facetrm.policy.bridges.scored import RewardSource, sampled_answer


def judge_score(
    scorer: Scorer, *, objectives: Sequence[str] | None = None, parts: bool = False
) -> Callable[[Any, Any], Awaitable[float | dict[str, float]]]:
    """Return an async function (task, trace) that returns the reward of a rollout.

    Args:
        scorer: the reward model.
        objectives: the objectives; None takes those of the model.
        parts: whether to return the base and each objective's contribution by name, which sum to the reward.

    Raises:
        ConfigError: the scorer does not say what its objectives are, has no such objective, or, with ``parts``, one is
            named ``base``.
    """
    source = RewardSource(scorer, objectives=objectives, taken=["base"] if parts else [])

    async def score_trace(task: Any, trace: Any) -> float | dict[str, float]:
        """Return the reward of one rollout.

        Raises:
            ModelError: the answer cannot be scored.
        """
        scored = await asyncio.to_thread(source.score, [sampled_answer(task.prompt_text, trace.last_reply)])
        score = scored.scores[0]
        if score is None:
            raise ModelError(f"no reward: {scored.reasons[0]}", place="judge")
        if not parts:
            return score.reward
        return {"base": score.base} | {name: score.contributions.get(name, 0.0) for name in scored.objectives}

    return score_trace
