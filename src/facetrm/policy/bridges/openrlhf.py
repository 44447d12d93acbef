"""OpenRLHF: a function for a file given as ``--reward.remote_url FILE.py`` (before 0.11: ``--remote_rm_url``).

    reward_func = openrlhf_reward(load_model(...))

OpenRLHF sends the rendered prompt and the rendered prompt with its answer. The prompt is read back into turns; a
template that cannot be read back needs ``--data.apply_chat_template`` off or the messages as ``labels``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import torch

from facetrm.core.errors import DataError, short
from facetrm.model.output import Score, Scorer
from facetrm.model.reward_model import RewardModel
from facetrm.policy.bridges.scored import Answer, RewardSource, sampled_answer

_ENDS: Final = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>")


def openrlhf_reward(
    scorer: Scorer,
    *,
    objectives: Sequence[str] | None = None,
    read: Callable[[str, str, Any], Any] | None = None,
    missing: float = 0.0,
) -> Callable[..., dict[str, Any]]:
    """Return OpenRLHF's ``reward_func(queries, prompts, labels)``.

    It returns ``rewards``; ``scores`` in [0, 1], the probability that the answer beats the reference answer behind the
    base (0 if there is no score); and ``extra_logs`` with ``failed`` and each objective's contribution.

    Args:
        scorer: the reward model.
        objectives: the objectives; None takes those of the model.
        read: function (prompt, response, label) that returns the prompt as text or messages; by default the rendered
            prompt is read back, if its template is ChatML's, Llama 3's or Gemma's, or there is none.
        missing: the reward of an answer that cannot be scored.

    Raises:
        ConfigError: the scorer does not say what its objectives are, has no such objective, or one is named ``failed``.
    """
    source = RewardSource(scorer, objectives=objectives, taken=["failed"])

    def reward_func(
        queries: Sequence[str], prompts: Sequence[str], labels: Sequence[Any] | None = None, **others: Any
    ) -> dict[str, Any]:
        """Return the rewards of the answers in ``queries``."""
        known = [None] * len(queries) if labels is None else list(labels)
        rows = [_row(q, p, label, read) for q, p, label in zip(queries, prompts, known, strict=True)]
        scored = source.score(rows)
        logs = {"failed": [float(score is None) for score in scored.scores]}
        logs |= {name: [value or 0.0 for value in scored.contributions(name)] for name in scored.objectives}
        return {
            "rewards": torch.tensor([missing if reward is None else reward for reward in scored.rewards]),
            "scores": torch.tensor([_probability(scorer, score) for score in scored.scores]),
            "extra_logs": {name: torch.tensor(values) for name, values in logs.items()},
        }

    return reward_func


def _row(query: str, prompt: str, label: Any, read: Callable[[str, str, Any], Any] | None) -> Answer:
    if not query.startswith(prompt):
        problem = f"the query does not begin with its prompt ({short(query, 60)})"
        return DataError(problem, place="OpenRLHF", fix="check that prompts and queries are in the same order")
    response = query[len(prompt) :].rstrip()
    while (end := next((mark for mark in _ENDS if response.endswith(mark)), None)) is not None:
        response = response.removesuffix(end).rstrip()
    return sampled_answer(prompt if read is None else read(prompt, response, label), response)


def _probability(scorer: Scorer, score: Score | None) -> float:
    if score is None:
        return 0.0
    margin = torch.tensor([score.reward - score.base])
    if isinstance(scorer, RewardModel):
        return float(scorer.margin_probability(margin, task=score.task))
    return float(margin.sigmoid())
