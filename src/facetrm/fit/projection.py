"""The input of the gate: the whole prompt vector, the standardised vector, or a few whitened principal components.

Shapes: N prompts, D hidden size, R kept components.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from facetrm.fit.blocks import Vectors, row_blocks


@dataclass(frozen=True)
class Projection:
    """A linear map of prompt vectors: ``x_NR = ((prompt_ND - center_D) * spread_D) @ projection_DR``.

    Attributes:
        center_D: vector that is subtracted.
        spread_D: factor for each dimension.
        projection_DR: whitened principal components; None keeps all dimensions, so R = D.
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
    peak = vectors_DR.abs().argmax(dim=0)
    vectors_DR = vectors_DR * vectors_DR[peak, torch.arange(rank)].sign()
    scale_R = (variance + shrinkage * variance.mean()).clamp_min(1e-12).rsqrt()
    return Projection(center_D.float(), ones_D, (vectors_DR * scale_R).float().contiguous())


def _mean(vectors_ND: Vectors, change: Callable[[Tensor], Tensor] = lambda block_ND: block_ND) -> Tensor:
    """Return the mean over rows after ``change`` is applied, [D], in float64."""
    if isinstance(vectors_ND, Tensor):
        return change(vectors_ND.double()).mean(dim=0)
    total_D = torch.zeros(vectors_ND.shape[1], dtype=torch.float64)
    for _, block_ND in row_blocks(vectors_ND):
        total_D += change(block_ND.double()).sum(dim=0)
    return total_D / len(vectors_ND)
