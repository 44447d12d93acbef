"""ms-swift: reward classes for its table ``orms``, in a file given as ``--external_plugins``.

    from swift.rewards import orms
    orms.update(swift_orms(load_model(...)))         # --reward_funcs reward, or one name per objective

``--scale_rewards gdpo`` standardises each column. One None there has made all advantages NaN, so none is returned: an
answer without a reward gets the mean of the other answers to its prompt, hence advantage 0 in each column.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from facetrm.core.errors import DataError
from facetrm.model.output import Scorer
from facetrm.policy.bridges.scored import Answer, RewardSource, ScoredAnswers, same_prompt, sampled_answer

Orm = type[Any]


def swift_orms(scorer: Scorer, *, objectives: Sequence[str] | None = None) -> dict[str, Orm]:
    """Return reward classes by name: ``reward``, and for each objective what it adds to the reward.

    All of them share one pass per batch. The names have only letters, digits and underscores.

    Args:
        scorer: the reward model.
        objectives: the objectives; None takes those of the model.

    Raises:
        ConfigError: the scorer does not say what its objectives are, or has no such objective.

    Example:
        >>> from facetrm import toy_model
        >>> from facetrm.policy import swift_orms
        >>> sorted(swift_orms(toy_model()))
        ['helpful', 'honest', 'reward', 'verbose']
    """
    source = RewardSource(scorer, objectives=objectives)
    classes = {"reward": _orm(source, "reward", lambda scored: scored.rewards)}
    for objective in source.objectives:
        name = re.sub(r"\W", "_", objective)
        while name in classes:
            name = f"objective_{name}"
        classes[name] = _orm(source, name, _column(objective))
    return classes


def _column(objective: str) -> Callable[[ScoredAnswers], list[float | None]]:
    return lambda scored: scored.contributions(objective)


def _orm(source: RewardSource, name: str, column: Callable[[ScoredAnswers], list[float | None]]) -> Orm:
    """Return a class like swift's ORM: made with the trainer's arguments, called with completions and columns."""

    class Reward:
        def __init__(self, args: Any = None, **settings: Any) -> None:
            self.args = args

        def __call__(self, completions: Sequence[Any], **columns: Any) -> list[float]:
            answers, prompts = _answers(completions, columns)
            return _filled(column(source.score(answers)), prompts)

    Reward.__name__ = Reward.__qualname__ = name
    return Reward


def _answers(completions: Sequence[Any], columns: Mapping[str, Any]) -> tuple[list[Answer], list[str]]:
    """Return the answers, and a key of each prompt. swift's ``messages`` end with the answer, or with the prompt."""
    if "messages" not in columns:
        lack = DataError("there is no column 'messages'", place="ms-swift", fix="use a data set with messages")
        return [lack for _ in completions], ["" for _ in completions]
    prompts = []
    for messages in columns["messages"]:
        told = list(messages)
        ends = bool(told) and isinstance(told[-1], Mapping) and told[-1].get("role") == "assistant"
        prompts.append(told[:-1] if ends else told)
    answers = [sampled_answer(prompt, completion) for prompt, completion in zip(prompts, completions, strict=True)]
    return answers, [same_prompt(prompt) for prompt in prompts]


def _filled(values: Sequence[float | None], prompts: Sequence[str]) -> list[float]:
    """Return the values with the mean of its group for each absent one; 0 if a whole group is absent."""
    known: dict[str, list[float]] = defaultdict(list)
    for value, prompt in zip(values, prompts, strict=True):
        if value is not None:
            known[prompt].append(value)
    mean = {prompt: sum(found) / len(found) for prompt, found in known.items()}
    return [mean.get(p, 0.0) if value is None else value for value, p in zip(values, prompts, strict=True)]
