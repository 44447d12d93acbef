"""TRL: reward functions for ``GRPOTrainer(reward_funcs=...)`` and ``RLOOTrainer``.

    trl_reward(model)        one column: the reward
    trl_rewards(model)       one column per objective, for multi_objective_aggregation="normalize_then_sum" (GDPO)
    trl_advantages(model)    one column: the advantages that keep the gate; set scale_rewards="none"

Columns of one list share one pass of the model. An answer without a reward is None in every column, which TRL leaves
out of the group and gives advantage 0. Prompts and answers may be text or message lists.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, final

from facetrm.model.output import Scorer
from facetrm.policy.advantages import FLOOR
from facetrm.policy.bridges.scored import RewardSource, ScoredAnswers, same_prompt, sampled_answer

Column = list[float | None]


@final
class TrlColumn:
    """A reward function in TRL's form: prompts, completions and columns of the data set in, one reward each out.

    Args:
        source: what scores the answers; functions with the same source share its passes.
        name: the name under which TRL logs the column.
        column: what is taken from the scores, given the prompt of each answer.
        tell: whether to log each objective's mean contribution and the share of answers without a reward.
    """

    def __init__(
        self,
        source: RewardSource,
        name: str,
        column: Callable[[ScoredAnswers, Sequence[str]], Column],
        *,
        tell: bool = False,
    ) -> None:
        self.__name__ = name
        self._source, self._column, self._tell = source, column, tell

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        log_metric: Callable[[str, float], None] | None = None,
        **columns: Any,
    ) -> Column:
        """Return one reward per completion.

        Args:
            prompts: prompt of each completion, text or messages.
            completions: completions, text or messages.
            log_metric: TRL's function that logs a number.
            columns: other arguments of TRL, which are not used.
        """
        scored = self._source.score([sampled_answer(p, c) for p, c in zip(prompts, completions, strict=True)])
        if self._tell and log_metric is not None:
            _log(scored, log_metric)
        return self._column(scored, [same_prompt(prompt) for prompt in prompts])


def trl_reward(scorer: Scorer, *, objectives: Sequence[str] | None = None, name: str = "reward") -> TrlColumn:
    """Return one reward function: the reward. It logs each objective's mean contribution.

    Args:
        scorer: the reward model.
        objectives: the objectives to log; None takes those of the model.
        name: the name of the column.

    Raises:
        ConfigError: the scorer does not say what its objectives are, or has no such objective.

    Example:
        >>> from facetrm import toy_model
        >>> from facetrm.policy import trl_reward
        >>> reward = trl_reward(toy_model())
        >>> len(reward(prompts=["write a program ."], completions=["two plus two is four ."]))
        1
    """
    return TrlColumn(RewardSource(scorer, objectives=objectives), name, lambda scored, _: scored.rewards, tell=True)


def trl_rewards(scorer: Scorer, *, objectives: Sequence[str] | None = None) -> list[TrlColumn]:
    """Return one reward function per objective: what it adds to the reward.

    With the base, which is the same for all answers to a prompt, they sum to the reward. All of them cost one pass.

    Args:
        scorer: the reward model.
        objectives: the objectives; None takes those of the model.

    Raises:
        ConfigError: the scorer does not say what its objectives are, or has no such objective.
    """
    source = RewardSource(scorer, objectives=objectives)
    return [TrlColumn(source, name, _contributions(name)) for name in source.objectives]


def trl_advantages(
    scorer: Scorer, *, objectives: Sequence[str] | None = None, floor: float = FLOOR, name: str = "advantage"
) -> TrlColumn:
    """Return one reward function: the advantages that keep the gate, computed over the answers to each prompt.

    Set ``scale_rewards="none"``: TRL would divide by a deviation again. Each process must hold whole groups, so
    ``per_device_train_batch_size`` must be a multiple of ``num_generations``.

    Args:
        scorer: a reward model whose rewards are gated sums.
        objectives: the objectives; None takes those of the model.
        floor: the least deviation that a column of ratings is divided by.
        name: the name of the column.

    Raises:
        ConfigError: the scorer does not say what its objectives are, or has no such objective.
    """

    def column(scored: ScoredAnswers, prompts: Sequence[str]) -> Column:
        found = scored.advantages(prompts, floor=floor).tolist()
        return [None if score is None else value for score, value in zip(scored.scores, found, strict=True)]

    return TrlColumn(RewardSource(scorer, objectives=objectives), name, column, tell=True)


def _contributions(objective: str) -> Callable[[ScoredAnswers, Sequence[str]], Column]:
    return lambda scored, _: scored.contributions(objective)


def _log(scored: ScoredAnswers, log_metric: Callable[[str, float], None]) -> None:
    found = [score for score in scored.scores if score is not None]
    log_metric("facetrm/failed", 1.0 - len(found) / max(len(scored.scores), 1))
    for name in scored.objectives if found else ():
        mean = math.fsum(score.contributions.get(name, 0.0) for score in found) / len(found)
        log_metric(f"facetrm/{name}", mean)
