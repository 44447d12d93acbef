"""Choose the mixture that scores each row: the router's choice, or the fallback if the router is unsure.

    chosen     = argmax_t p_t(prompt)        confidence = max_t p_t(prompt)
    used       = chosen if confidence >= threshold else fallback

Shapes: N conversations, D hidden size, T tasks.

Reference: DMoERM (arXiv 2403.01197), the outer mixture: sparse, one task per prompt. The fallback is an
addition of facetrm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from facetrm.core.errors import ModelError, did_you_mean
from facetrm.model.gate import Gate


@final
@dataclass(frozen=True)
class Routes:
    """The routing of N rows.

    Attributes:
        used_N: the index of the mixture that scores each row.
        chosen_N: the index of the task that the router chose.
        confidence_N: the router's probability of its choice.
    """

    used_N: Tensor
    chosen_N: Tensor
    confidence_N: Tensor


@final
@dataclass(frozen=True)
class Fallback:
    """The task for rows where the router is unsure.

    Attributes:
        task: the name of the task.
        threshold: the router's probability of its choice below which the fallback is used, in (0, 1].
    """

    task: str
    threshold: float

    def check(self, tasks: Sequence[str]) -> None:
        """Raise ModelError if the task is not one of ``tasks``, or the threshold is not in (0, 1]."""
        if self.task not in tasks:
            raise ModelError(
                f"unknown task '{self.task}'", place="reward model: fallback", fix=did_you_mean(self.task, tasks)
            )
        if not 0 < self.threshold <= 1:
            raise ModelError(
                f"threshold is {self.threshold}", place="reward model: fallback", fix="give a number in (0, 1]"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return {"fallback": self.task, "threshold": self.threshold}

    @staticmethod
    def from_dict(value: Mapping[str, Any]) -> Fallback:
        """Restore a fallback from the output of :meth:`to_dict`.

        Raises:
            ModelError: the value is malformed.
        """
        try:
            return Fallback(str(value["fallback"]), float(value["threshold"]))
        except (KeyError, TypeError, ValueError):
            raise ModelError(f"malformed fallback {value!r}", place="routing", fix="save the model again") from None


@torch.no_grad()
def route(router: Gate | None, prompt_ND: Tensor, *, tasks: Sequence[str], fallback: Fallback | None) -> Routes:
    """Route each prompt to a task. Without a router, every prompt goes to the first task with confidence 1.

    Args:
        router: a gate over the tasks, in the order of ``tasks``; None if there is only one task.
        prompt_ND: the prompt vectors, encoded without adapters.
        tasks: the names of the tasks, in the order of the mixtures.
        fallback: the task for rows where the router is unsure; None for no fallback.
    """
    if router is None:
        none_N = torch.zeros(len(prompt_ND), dtype=torch.int64)
        return Routes(none_N, none_N, torch.ones(len(prompt_ND)))
    logits_NT = router.logits(prompt_ND)
    chosen_N = logits_NT.argmax(dim=-1)
    confidence_N = torch.softmax(logits_NT, dim=-1).gather(1, chosen_N[:, None])[:, 0]
    used_N = chosen_N
    if fallback is not None:
        sure_N = confidence_N >= fallback.threshold
        used_N = torch.where(sure_N, chosen_N, list(tasks).index(fallback.task))
    return Routes(used_N, chosen_N, confidence_N)
