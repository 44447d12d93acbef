"""Rows with known tasks for the fit of the router, and their split by prompt.

Shapes: N rows, D hidden size, T tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from facetrm.core.errors import FitError, did_you_mean

_PLACE: Final = "router"


@dataclass(frozen=True)
class RouterRows:
    """N rows with known tasks.

    Attributes:
        names: names of the T tasks.
        prompt_ND: prompt vector of each row.
        truth_N: index of each row's task in ``names``.
        groups_N: number of each row's prompt.
        weights_N: weight of each row.
        number_N: index of each row in the input.
    """

    names: tuple[str, ...]
    prompt_ND: Tensor
    truth_N: NDArray[np.int64]
    groups_N: NDArray[np.int64]
    weights_N: NDArray[np.float64]
    number_N: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.truth_N)

    def select(self, rows_N: NDArray[np.bool_]) -> RouterRows:
        """Return the rows for which ``rows_N`` is True."""
        return RouterRows(
            self.names,
            self.prompt_ND[torch.from_numpy(rows_N)],
            self.truth_N[rows_N],
            self.groups_N[rows_N],
            self.weights_N[rows_N],
            self.number_N[rows_N],
        )

    def counts(self) -> dict[str, int]:
        """Return the number of prompts, and the number with several tasks, which no router can get fully right."""
        pairs = np.unique(np.stack([self.groups_N, self.truth_N]), axis=1)
        tasks_of = np.bincount(pairs[0])
        return {"prompts": int((tasks_of > 0).sum()), "prompts_with_several_tasks": int((tasks_of > 1).sum())}


def check_prompts(prompt_ND: Tensor, rows: int) -> None:
    """Raise FitError unless ``prompt_ND`` holds ``rows`` prompt vectors and all are finite."""
    if prompt_ND.ndim != 2 or len(prompt_ND) != rows:
        raise FitError(
            f"prompt features of shape {tuple(prompt_ND.shape)} for {rows} rows",
            place=_PLACE,
            fix="give one prompt vector per row",
        )
    bad = torch.nonzero(~torch.isfinite(prompt_ND).all(dim=1)).flatten().tolist()
    if bad:
        raise FitError(f"prompt features of row {bad[0]} are not finite", place=_PLACE, fix="encode it again")


def task_numbers(tasks: Sequence[str], names: Sequence[str]) -> NDArray[np.int64]:
    """Return the index of each task in ``names``, [N].

    Args:
        tasks: task of each row, [N].
        names: names of the T tasks.

    Raises:
        FitError: a row without a task or with an unknown task, or a name that occurs twice.
    """
    number = {name: t for t, name in enumerate(names)}
    if len(number) < len(names):
        raise FitError(f"a task occurs twice in {list(names)}", place=_PLACE, fix="name every task once")
    for n, task in enumerate(tasks):
        if not task:
            fix = "leave rows without a task out of the fit; assign() gives them tasks afterwards"
            raise FitError(f"row {n} has no task", place=_PLACE, fix=fix)
        if task not in number:
            raise FitError(f"row {n} has the unknown task '{task}'", place=_PLACE, fix=did_you_mean(task, names))
    return np.array([number[task] for task in tasks], dtype=np.int64)


def router_rows(
    prompt_ND: Tensor,
    tasks: Sequence[str],
    *,
    groups: Sequence[str],
    names: Sequence[str] | None,
    weights: ArrayLike | None,
    every_task: bool = True,
) -> RouterRows:
    """Check rows and return those with a weight above 0.

    Args:
        prompt_ND: prompt vectors, [N, D].
        tasks: task of each row, [N].
        groups: prompt key of each row, [N].
        names: names of the T tasks in the order of the gate; None for all tasks that occur, in alphabetical order.
        weights: weight of each row, [N], 0 or more; None for equal weights.
        every_task: whether a task without rows is an error.

    Raises:
        FitError: inputs with different numbers of rows, a feature or weight that is not finite, a row without a task or
            with an unknown task, or a task without rows.
    """
    n = len(tasks)
    if not n or len(groups) != n:
        fix = "give one of each per row, and at least one row"
        raise FitError(f"{n} tasks and {len(groups)} prompt groups", place=_PLACE, fix=fix)
    check_prompts(prompt_ND, n)
    wanted = tuple(sorted({task for task in tasks if task})) if names is None else tuple(names)
    truth_N = task_numbers(tasks, wanted)
    w_N = np.ones(n) if weights is None else np.asarray(weights, dtype=np.float64)
    if w_N.shape != (n,) or not np.isfinite(w_N).all() or (w_N < 0).any() or not w_N.any():
        raise FitError("the weights are not one finite number >= 0 per row", place=_PLACE, fix="correct the weights")
    groups_N = np.unique(np.asarray(groups), return_inverse=True)[1].astype(np.int64)
    rows = RouterRows(wanted, prompt_ND.float(), truth_N, groups_N, w_N, np.arange(n)).select(w_N > 0)
    for t, name in enumerate(wanted):
        if every_task and not (rows.truth_N == t).any():
            raise FitError(
                f"task '{name}' has no row", place=_PLACE, fix="add rows of this task, or remove it from the names"
            )
    return rows


def hold_out_by_task(rows: RouterRows, share: float, *, seed: int) -> NDArray[np.bool_]:
    """Choose the rows to hold out: a share of each task's prompts, at least one prompt per task and never all.

    A prompt belongs to the task of its first row. A task with only one prompt is used for training and not evaluated.

    Args:
        rows: the rows to split.
        share: share of each task's prompts to hold out, 0 to 1.
        seed: random seed of the choice.

    Returns:
        True for the rows that are held out, [N].

    Raises:
        FitError: no task has two prompts.
    """
    prompts, first = np.unique(rows.groups_N, return_index=True)
    task_of = rows.truth_N[first]
    chosen: list[int] = []
    for t in range(len(rows.names)):
        own = np.random.default_rng([seed, t]).permutation(prompts[task_of == t])
        chosen += own[: min(max(round(share * len(own)), 1), len(own) - 1)].tolist() if len(own) > 1 else []
    if not chosen:
        raise FitError("no task has two prompts", place=_PLACE, fix="give more prompts, so that some can be held out")
    return np.isin(rows.groups_N, chosen)
