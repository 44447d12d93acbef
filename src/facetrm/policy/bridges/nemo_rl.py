"""NeMo-RL: the reward fields of a NeMo Gym verifier.

    async def verify(self, body):
        fields = nemo_fields(prompt, response)              # nemo_fields = nemo_verifier(load_model(...))
        return MyVerifyResponse(**body.model_dump(), **fields)

NeMo-RL demands that ``reward_components`` sum to ``reward``, and trains GDPO on them as ``reward/NAME``. The base is a
component too, so ours do. It takes the weights of components in alphabetical order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final

from facetrm.model.output import Scorer
from facetrm.policy.bridges.scored import RewardSource, sampled_answer

_BASE: Final = "base"


def nemo_verifier(
    scorer: Scorer, *, objectives: Sequence[str] | None = None, missing: float = 0.0
) -> Callable[[Any, Any], dict[str, Any]]:
    """Return a function (prompt, response) that returns ``reward``, ``reward_components``, ``failed`` and ``reason``.

    The components are the base and each objective's contribution, in alphabetical order and with the same keys for
    every answer. ``reward`` is their sum in double precision; the model's own reward may differ in its last digit. An
    answer that cannot be scored has ``failed`` 1.0, the reason, and ``missing`` as its reward and base.

    Args:
        scorer: the reward model.
        objectives: all objectives of the model; None takes them from a reward model.
        missing: the reward of an answer that cannot be scored.

    Raises:
        ConfigError: the scorer does not say what its objectives are, or one is named ``base``.

    Example:
        >>> from facetrm import toy_model
        >>> from facetrm.policy import nemo_verifier
        >>> fields = nemo_verifier(toy_model())("write a program .", "two plus two is four .")
        >>> list(fields["reward_components"]), fields["failed"]
        (['base', 'helpful', 'honest', 'verbose'], 0.0)
    """
    source = RewardSource(scorer, objectives=objectives, taken=[_BASE])

    def verify_fields(prompt: Any, response: Any) -> dict[str, Any]:
        """Return the reward fields of one answer."""
        scored = source.score([sampled_answer(prompt, response)])
        score = scored.scores[0]
        parts = {_BASE: missing if score is None else score.base}
        for name in source.objectives:
            parts[name] = 0.0 if score is None else score.contributions.get(name, 0.0)
        return {
            "reward": math.fsum(parts.values()),
            "reward_components": {name: parts[name] for name in sorted(parts)},
            "failed": float(score is None),
            "reason": scored.reasons[0],
        }

    return verify_fields
