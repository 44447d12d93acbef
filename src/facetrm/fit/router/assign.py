"""Assign tasks to rows without a task label by the router, and count how many are below a confidence threshold.

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
    """Number of labelled and routed rows of each task.

    Attributes:
        given: number of rows with a task label, by task.
        routed: number of rows that the router assigned, by task.
        below: number of routed rows with a confidence below ``threshold``, by task.
        threshold: confidence threshold, 0 to 1.
    """

    given: dict[str, int]
    routed: dict[str, int]
    below: dict[str, int]
    threshold: float

    def to_dict(self) -> dict[str, Any]:
        """Return the counts and their totals as a JSON-ready dict."""
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
    """Return a task for every row: its label if it has one, else the router's choice.

    Args:
        gate: the fitted router.
        prompt_ND: prompt vectors, [N, D].
        tasks: task label of each row, [N], None for a row without a label; None if no row has a label.
        names: names of the T tasks, in the gate's order.
        threshold: confidence below which a routed row is counted, 0 to 1; the row gets the router's choice anyway.

    Returns:
        The task of each row, [N], and the counts, which are also logged.

    Raises:
        FitError: inputs with different numbers of rows or tasks, an unknown label, a feature that is not finite, or a
            threshold outside [0, 1].
    """
    labels: list[str | None] = [None] * len(prompt_ND) if tasks is None else [task or None for task in tasks]
    if gate.shape.choices != len(names):
        raise FitError(
            f"{len(names)} names for a router over {gate.shape.choices} tasks",
            place="router",
            fix="give the names used in the fit, in the same order",
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
