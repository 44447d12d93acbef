"""verl: a ``compute_score`` that returns a dict, and an advantage estimator that keeps the gate.

    reward.custom_reward_function.path=FILE     a file with ``compute_score = verl_compute_score(load_model(...))``
    reward.reward_manager.name=gdpo
    algorithm.adv_estimator=gdpo                with verl's own GDPO also: algorithm.gdpo_reward_keys=[contribution/...]
    VERL_USE_EXTERNAL_MODULES=MODULE            a module that calls ``register_verl_advantages()``

verl hands the reward columns to one estimator only, the one named ``gdpo``; so ours takes that name by default.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from facetrm.core.errors import ConfigError, DataError, short
from facetrm.core.lazy import load_name
from facetrm.model.output import Scorer
from facetrm.policy.advantages import FLOOR, grouped_advantages
from facetrm.policy.bridges.scored import RATING, WEIGHT, Answer, RewardSource, sampled_answer

_ALGORITHMS: Final = "verl.trainer.ppo.core_algos"


def verl_compute_score(
    scorer: Scorer, *, objectives: Sequence[str] | None = None, prompt_key: str = "prompt", missing: float = 0.0
) -> Callable[..., dict[str, float]]:
    """Return verl's reward function ``compute_score``.

    verl does not hand it the prompt: put it (text or messages) into the ``extra_info`` of each row. It returns the keys
    of :meth:`~facetrm.policy.bridges.scored.ScoredAnswers.columns`, for every row the same. verl knows no absent
    reward. An answer without one has ``failed`` 1; our estimator gives it advantage 0.

    Args:
        scorer: the reward model.
        objectives: the objectives; None takes those of the model.
        prompt_key: the key of the prompt in ``extra_info``.
        missing: the ``score`` of an answer that cannot be scored.

    Raises:
        ConfigError: the scorer does not say what its objectives are, or has no such objective.
    """
    source = RewardSource(scorer, objectives=objectives)

    def compute_score(
        data_source: str,
        solution_str: str,
        ground_truth: Any,
        extra_info: Mapping[str, Any] | None = None,
        **others: Any,
    ) -> dict[str, float]:
        """Return the reward of one answer and its parts."""
        return source.score([_row(extra_info or {}, prompt_key, solution_str)]).columns(0, missing=missing)

    return compute_score


def _row(extra_info: Mapping[str, Any], prompt_key: str, response: str) -> Answer:
    if prompt_key not in extra_info:
        return DataError(
            f"extra_info has no '{prompt_key}' (it has {short(sorted(map(str, extra_info)))})",
            place="compute_score",
            fix="write the prompt into the extra_info of each row, or give prompt_key",
        )
    return sampled_answer(_plain(extra_info[prompt_key]), response)


def _plain(prompt: Any) -> Any:
    """Return a prompt without the array around it: a message list that was read from a Parquet file has one."""
    return prompt.tolist() if isinstance(prompt, np.ndarray) else prompt


def verl_advantages(
    token_level_rewards: Tensor,
    response_mask: Tensor,
    index: Any,
    non_tensor_batch: Mapping[str, Any] | None = None,
    floor: float = FLOOR,
    **others: Any,
) -> tuple[Tensor, Tensor]:
    """Return the advantages that keep the gate, for every token of each answer, and the same again as returns.

    Args:
        token_level_rewards: [N, L], whose device and dtype the result has.
        response_mask: [N, L], 1 for the tokens of the answer.
        index: the group of each answer, verl's ``uid``.
        non_tensor_batch: what ``compute_score`` returned, one array per key.
        floor: the least deviation that a column of ratings is divided by.
        others: other arguments of verl, which are not used.

    Raises:
        ConfigError: the columns of ``compute_score`` are not there.
    """
    columns = dict(non_tensor_batch or {})
    names = [key.removeprefix(RATING) for key in columns if key.startswith(RATING)]
    missing = next((key for key in ("failed", *(WEIGHT + name for name in names)) if key not in columns), None)
    if missing is not None or not names:
        raise ConfigError(
            f"the batch has no column '{missing or RATING + '...'}'",
            place="verl's advantages",
            fix="use verl_compute_score, reward.reward_manager.name=gdpo and the estimator name gdpo",
        )
    ratings, weights = (
        np.stack([np.asarray(columns[part + name], dtype=np.float64) for name in names], axis=1)
        for part in (RATING, WEIGHT)
    )
    ratings[np.asarray(columns["failed"], dtype=np.float64) != 0.0] = np.nan
    found = torch.as_tensor(grouped_advantages(ratings, weights, index, floor=floor))
    advantages = found.to(token_level_rewards)[:, None] * response_mask
    return advantages, advantages


def register_verl_advantages(*, name: str = "gdpo", floor: float = FLOOR) -> None:
    """Register :func:`verl_advantages` with verl, in place of an estimator of this name.

    Args:
        name: the name for ``algorithm.adv_estimator``; verl hands the reward columns only to ``gdpo``.
        floor: the least deviation that a column of ratings is divided by.

    Raises:
        ConfigError: verl is not installed.
    """
    try:
        register = load_name(_ALGORITHMS, "register_adv_est")
        known = load_name(_ALGORITHMS, "ADV_ESTIMATOR_REGISTRY")
    except ModuleNotFoundError as exc:
        raise ConfigError(f"no module '{exc.name}'", place="verl", fix="call this where verl is installed") from None
    known.pop(name, None)
    register(name)(partial(verl_advantages, floor=floor))
