"""The input of the gate: the prompt vector, the standardised vector, or its coordinates along a few directions.

The directions are principal components, with unit variance over all prompts, or linear discriminants: those that tell
tasks apart best, with unit variance inside the tasks.

Shapes: N prompts, D hidden size, R kept directions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from facetrm.core.errors import FitError
from facetrm.fit.blocks import Vectors, row_blocks

_PLACE: Final = "gate.settings.directions"


@dataclass(frozen=True)
class Projection:
    """A linear map of prompt vectors: ``x_NR = ((prompt_ND - center_D) * spread_D) @ projection_DR``.

    Attributes:
        center_D: vector that is subtracted.
        spread_D: factor for each dimension.
        projection_DR: scaled directions; None keeps all dimensions, so R = D.
    """

    center_D: Tensor
    spread_D: Tensor
    projection_DR: Tensor | None


def fit_projection(prompt_ND: Vectors, *, rank: int, shrinkage: float, standardise: bool) -> Projection:
    """Fit the projection on prompt vectors.

        projection = V_R / sqrt(variance_R + shrinkage * mean(variance_R))

    Args:
        prompt_ND: prompt vectors, [N, D], with every prompt once.
        rank: number of components to keep, at most N - 1 and D; 0 keeps the whole vector.
        shrinkage: share of the mean variance that is added to each variance, so that components of low variance are not
            amplified too much.
        standardise: whether to divide every dimension by its standard deviation; used only with rank 0.

    Returns:
        Float32 tensors for the buffers of the gate. The sign of a component is such that its largest entry is positive.
    """
    rows, hidden = prompt_ND.shape
    ones_D = torch.ones(hidden)
    rank = min(rank, hidden, max(rows - 1, 1))
    if rank == 0 and not standardise:
        return Projection(torch.zeros(hidden), ones_D, None)
    center_D = _mean(prompt_ND)
    if rank == 0:
        spread_D = _mean(prompt_ND, lambda block_ND: (block_ND - center_D).square()).sqrt()
        spread_D = torch.where(spread_D > 1e-8, 1.0 / spread_D.clamp_min(1e-8), torch.zeros_like(spread_D))
        return Projection(center_D.float(), spread_D.float(), None)
    if isinstance(prompt_ND, Tensor) and rows < hidden:
        x_ND = prompt_ND.double() - center_D
        variance, left = torch.linalg.eigh(x_ND @ x_ND.T / rows)
        vectors_DR = x_ND.T @ left / (variance * rows).clamp_min(1e-12).sqrt()
    else:
        gram_DD = torch.zeros(hidden, hidden, dtype=torch.float64)
        for _, block_ND in row_blocks(prompt_ND):
            x_ND = block_ND.double() - center_D
            gram_DD += x_ND.T @ x_ND
        variance, vectors_DR = torch.linalg.eigh(gram_DD / rows)
    variance, vectors_DR = variance[-rank:].flip(0).clamp_min(0.0), vectors_DR[:, -rank:].flip(1)
    scale_R = (variance + shrinkage * variance.mean()).clamp_min(1e-12).rsqrt()
    return Projection(center_D.float(), ones_D, (_signed(vectors_DR) * scale_R).float().contiguous())


def fit_discriminants(prompt_ND: Vectors, tasks: Sequence[str | None], *, rank: int, shrinkage: float) -> Projection:
    """Fit the linear discriminants of prompt vectors: the directions that tell tasks apart best.

        within = pooled covariance inside the tasks + shrinkage * (its mean variance) * identity
        directions = those of the largest spread of the task means, among all with unit variance under ``within``

    A task counts by its share of the prompts.

    What varies inside the tasks, such as the length of a prompt or a system message, moves these coordinates little.
    A gate therefore needs fewer pairs than with principal components, which follow whatever varies most.

    Args:
        prompt_ND: prompt vectors, [N, D], with every prompt once.
        tasks: task of each prompt, [N]; prompts without one (None) are left out of the fit.
        rank: largest number of directions; 0 for no limit. There are at most one fewer than there are tasks, and only
            those along which the task means differ.
        shrinkage: share of the mean variance of all dimensions that is added to each variance, so that directions in
            which few prompts vary are not amplified too much; at least 1e-6, so that the covariance has an inverse.

    Returns:
        Float32 tensors for the buffers of the gate. The sign of a direction is such that its entry of largest magnitude
        is positive.

    Raises:
        FitError: the prompts have fewer than two tasks, no prompt vector varies inside its task, or ``tasks`` has not
            one entry per prompt.

    Reference: linear discriminant analysis (Fisher 1936; Rao 1948), with a shrunk covariance.
    """
    rows_of, hidden = prompt_ND.shape
    if len(tasks) != rows_of:
        raise FitError(f"{len(tasks)} tasks for {rows_of} prompts", place=_PLACE, fix="give one per prompt, or None")
    names = sorted({task for task in tasks if task is not None})
    if len(names) < 2:
        raise FitError(
            f"the training prompts have {len(names)} task{'' if len(names) == 1 else 's'}",
            place=_PLACE,
            fix="give the pairs a field 'task' with at least two names, or set it to 'variance'",
        )
    index_N = torch.tensor([names.index(task) if task is not None else -1 for task in tasks])
    share_T = torch.bincount(index_N[index_N >= 0], minlength=len(names)).double() / int((index_N >= 0).sum())
    mean_TD = torch.zeros(len(names), hidden, dtype=torch.float64)
    for rows, block_ND in row_blocks(prompt_ND):
        known_N = index_N[rows] >= 0
        mean_TD.index_add_(0, index_N[rows][known_N], block_ND[known_N].double())
    mean_TD /= (share_T * int((index_N >= 0).sum()))[:, None]
    within_DD = torch.zeros(hidden, hidden, dtype=torch.float64)
    for rows, block_ND in row_blocks(prompt_ND):
        known_N = index_N[rows] >= 0
        x_ND = block_ND[known_N].double() - mean_TD[index_N[rows][known_N]]
        within_DD += x_ND.T @ x_ND
    within_DD /= int((index_N >= 0).sum())
    variance = float(within_DD.diagonal().mean())
    if not variance > 0.0:
        raise FitError(
            f"no prompt vector varies inside its task ({rows_of} prompts, {len(names)} tasks)",
            place=_PLACE,
            fix="give several different prompts of a task, or set it to 'variance'",
        )
    within_DD.diagonal().add_(max(shrinkage, 1e-6) * variance)
    center_D = share_T @ mean_TD
    root_DD = torch.linalg.cholesky(within_DD)
    between_DT = torch.linalg.solve_triangular(root_DD, ((mean_TD - center_D) * share_T.sqrt()[:, None]).T, upper=False)
    left_DT, spread_T, _ = torch.linalg.svd(between_DT, full_matrices=False)
    apart = int((spread_T > 1e-6 * spread_T[0]).sum())
    kept = min(rank or hidden, len(names) - 1, hidden, max(apart, 1))
    directions_DR = torch.linalg.solve_triangular(root_DD.T, left_DT[:, :kept], upper=True)
    return Projection(center_D.float(), torch.ones(hidden), _signed(directions_DR).float().contiguous())


def _signed(vectors_DR: Tensor) -> Tensor:
    """Return the columns with the sign that makes the largest entry of each positive."""
    peak = vectors_DR.abs().argmax(dim=0)
    return vectors_DR * vectors_DR[peak, torch.arange(vectors_DR.shape[1])].sign()


def _mean(vectors_ND: Vectors, change: Callable[[Tensor], Tensor] = lambda block_ND: block_ND) -> Tensor:
    """Return the mean over rows after ``change`` is applied, [D], in float64."""
    if isinstance(vectors_ND, Tensor):
        return change(vectors_ND.double()).mean(dim=0)
    total_D = torch.zeros(vectors_ND.shape[1], dtype=torch.float64)
    for _, block_ND in row_blocks(vectors_ND):
        total_D += change(block_ND.double()).sum(dim=0)
    return total_D / len(vectors_ND)
