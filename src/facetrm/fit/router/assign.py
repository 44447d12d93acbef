"""Tasks for rows that have none: what the router says, and how often it was sure.

Shapes: N rows, D hidden size, T tasks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from facetrm.core.errors import FitError
from facetrm.core.progress import log
from facetrm.fit.router.rows import check_prompts, task_numbers
from facetrm.model.gate import Gate


@dataclass(frozen=True)
class AssignmentCounts:
    """How rows came by their tasks.

    Attributes:
        given: rows that had a label, by task.
        routed: rows that the router named, by task.
        below: those of ``routed`` whose confidence is below ``threshold``, by task.
        threshold: confidence level.
    """

    given: dict[str, int]
    routed: dict[str, int]
    below: dict[str, int]
    threshold: float

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-ready counts, with their totals."""
        parts = {"given": self.given, "routed": self.routed, "below": self.below}
        totals = {f"{name}_total": sum(part.values()) for name, part in parts.items()}
        return {**parts, **totals, "threshold": self.threshold}


def assign(
    gate: Gate,
    prompt_ND: Tensor,
    *,
    tasks: Sequence[str | None] | None,
    names: Sequence[str],
    threshold: float = 0.0,
) -> tuple[list[str], AssignmentCounts]:
    """Return a task for every row: its own label where it has one, else the router's choice.

    Args:
        gate: the router.
        prompt_ND: prompt features of N rows.
        tasks: the label of each row, None where it has none; None for rows without any label.
        names: the T tasks, in the gate's order.
        threshold: a choice with less confidence is made all the same, and counted.

    Returns:
        N tasks, and the counts, which are announced too.

    Raises:
        FitError: rows that do not fit together, an unknown label, features that are not finite, names of another number
            than the router's tasks, or a threshold outside [0, 1].
    """
    labels: list[str | None] = [None] * len(prompt_ND) if tasks is None else [task or None for task in tasks]
    if gate.shape.choices != len(names):
        raise FitError(
            f"{len(names)} names for a router over {gate.shape.choices} tasks",
            place="router",
            fix="give the names that it was fitted with, in that order",
        )
    if not 0.0 <= threshold <= 1.0:
        raise FitError(f"the threshold is {threshold}", place="router", fix="give a confidence in [0, 1]")
    check_prompts(prompt_ND, len(labels))
    task_numbers([task for task in labels if task is not None], names)
    with torch.no_grad():
        confidence_N, choice_N = gate(prompt_ND).max(dim=-1)
    assigned, given, routed, below = [], Counter[str](), Counter[str](), Counter[str]()
    for label, choice, confidence in zip(labels, choice_N.tolist(), confidence_N.tolist(), strict=True):
        task = names[choice] if label is None else label
        assigned.append(task)
        (given if label is not None else routed)[task] += 1
        below[task] += label is None and confidence < threshold
    by_task = [{name: counter[name] for name in names} for counter in (given, routed, below)]
    counts = AssignmentCounts(by_task[0], by_task[1], by_task[2], threshold)
    log("assign tasks", **counts.to_dict())
    return assigned, counts
