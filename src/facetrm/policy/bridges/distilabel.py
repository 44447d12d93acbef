"""distilabel: the ``process`` of a step, with the columns of its ``RewardModelScore``.

columns = ["score", "contributions", "reason"]
score_step = step(inputs=["instruction", "response"], outputs=columns)(distilabel_step(load_model(...)))
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from facetrm.core.errors import DataError, short
from facetrm.model.output import Scorer
from facetrm.policy.bridges.scored import Answer, RewardSource, answered_messages, sampled_answer

StepRows = list[dict[str, Any]]


def distilabel_step(
    scorer: Scorer, *, objectives: Sequence[str] | None = None
) -> Callable[[StepRows], Iterator[StepRows]]:
    """Return a generator function that yields the rows it is given with ``score``, ``contributions`` and ``reason``.

    A row has ``instruction`` and ``response``, or ``conversation``. If it cannot be scored, ``score`` is None,
    ``reason`` says why, and ``contributions`` holds None for each objective.

    Args:
        scorer: the reward model.
        objectives: the objectives; None takes those of the model.

    Raises:
        ConfigError: the scorer does not say what its objectives are, or has no such objective.
    """
    source = RewardSource(scorer, objectives=objectives)

    def process(inputs: StepRows) -> Iterator[StepRows]:
        """Yield the rows with their scores."""
        scored = source.score([_row(row) for row in inputs])
        columns = {name: scored.contributions(name) for name in scored.objectives}
        yield [
            {
                **row,
                "score": scored.rewards[n],
                "contributions": {name: column[n] for name, column in columns.items()},
                "reason": scored.reasons[n] or None,
            }
            for n, row in enumerate(inputs)
        ]

    return process


def _row(row: dict[str, Any]) -> Answer:
    if "conversation" in row:
        return answered_messages(row["conversation"])
    if "instruction" in row and "response" in row:
        return sampled_answer(row["instruction"], row["response"])
    problem = f"the row has only {short(sorted(row))}"
    return DataError(problem, place="distilabel", fix="give instruction and response, or conversation")
