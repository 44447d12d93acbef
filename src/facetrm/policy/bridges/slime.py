"""slime: a reward function for ``--custom-rm-path`` and a hook for advantages that keep the gate.

    --custom-rm-path MODULE.custom_rm --reward-key score          custom_rm = slime_reward(load_model(...))
    --custom-reward-post-process-path facetrm.policy.bridges.slime.slime_advantages

With ``--group-rm`` the function receives all samples of a group and reads them in one pass.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np

from facetrm.core.errors import ConfigError, short
from facetrm.model.output import Scorer
from facetrm.policy.advantages import FLOOR, grouped_advantages
from facetrm.policy.bridges.scored import RATING, WEIGHT, RewardSource, sampled_answer


def slime_reward(
    scorer: Scorer, *, objectives: Sequence[str] | None = None, missing: float = 0.0
) -> Callable[..., Awaitable[Any]]:
    """Return an async function (args, sample or samples) that returns one reward dict per sample.

    The keys are those of :meth:`~facetrm.policy.bridges.scored.ScoredAnswers.columns`, for every sample the same. A
    sample that cannot be scored has ``failed`` 1, and slime's ``remove_sample`` is set, so its tokens enter no loss.

    Args:
        scorer: the reward model.
        objectives: the objectives; None takes those of the model.
        missing: the ``score`` of a sample that cannot be scored.

    Raises:
        ConfigError: the scorer does not say what its objectives are, or has no such objective.
    """
    source = RewardSource(scorer, objectives=objectives)

    async def custom_rm(args: Any, sample: Any, **others: Any) -> Any:
        """Return the reward dict of one sample, or of each sample of a list."""
        samples = list(sample) if isinstance(sample, list | tuple) else [sample]
        answers = [sampled_answer(one.prompt, one.response) for one in samples]
        scored = await asyncio.to_thread(source.score, answers)
        for one, score in zip(samples, scored.scores, strict=True):
            if score is None:
                one.remove_sample = True
        found = [scored.columns(n, missing=missing) for n in range(len(samples))]
        return found if isinstance(sample, list | tuple) else found[0]

    return custom_rm


def slime_advantages(args: Any, samples: Sequence[Any], *, floor: float = FLOOR) -> tuple[list[float], list[float]]:
    """Return the raw rewards and the advantages that keep the gate, in the form of slime's post-process hook.

    Args:
        args: slime's arguments; ``reward_key`` names the raw reward.
        samples: samples with the rewards of :func:`slime_reward`, or lists of them; ``group_index`` is the group.
        floor: least deviation that a column of ratings is divided by.

    Raises:
        ConfigError: A sample has another reward.
    """
    flat = [one for part in samples for one in (part if isinstance(part, list | tuple) else [part])]
    for one in flat:
        if not isinstance(one.reward, dict) or "failed" not in one.reward:
            raise ConfigError(f"the reward is {short(one.reward)}", place="slime", fix="use slime_reward")
    if not flat:
        return [], []
    names = [key.removeprefix(RATING) for key in flat[0].reward if key.startswith(RATING)]
    ratings, weights = (np.array([[one.reward[part + n] for n in names] for one in flat]) for part in (RATING, WEIGHT))
    ratings[[one.reward["failed"] != 0.0 for one in flat]] = np.nan
    found = grouped_advantages(ratings, weights, [one.group_index for one in flat], floor=floor)
    raw = [float(one.reward[getattr(args, "reward_key", None) or "score"]) for one in flat]
    return raw, found.tolist()
