"""Streaming moments of features and labels in float64, which are all that ridge regression needs.

    M = sum_n w_n z_n z_n^T        z = [x - shift, 1, y]

Shapes: N rows, D hidden size, K objectives of a block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facetrm.backbone.encoder import LAST, Features, Layer
from facetrm.core.errors import FitError
from facetrm.fit.heads.label_blocks import Bools, Ints, LabelBlock

Chunk: TypeAlias = Features | Tensor
FeatureSource: TypeAlias = Chunk | Sequence[Chunk] | Callable[[], Iterable[Chunk]]
Precision = Literal["float64", "float32"]

_PLACE = "features"
_ROWS = 1024  # rows per matrix product: enough to hide the memory traffic of a D x D matrix
_PANELS = 8  # row panels of the upper triangle: 9/16 of the products of the full square


def at_layer(source: FeatureSource, layer: Layer, *, factor: float = 1.0) -> FeatureSource:
    """Return the response vectors of one layer, block by block, times ``factor``; tensors count as this layer.

    Args:
        source: features in a form that :func:`response_chunks` accepts.
        layer: the layer.
        factor: factor on the vectors.
    """
    if isinstance(source, Iterator):  # refused when it is read
        return source

    def pieces() -> Iterator[Chunk]:
        given = (source,) if isinstance(source, (Features, torch.Tensor)) else source() if callable(source) else source
        for piece in given:
            if not isinstance(piece, Features) or (not piece.layers and layer == LAST):
                yield piece
            else:
                x = piece.response(layer)
                yield x if factor == 1.0 else x * factor

    return pieces


def response_chunks(source: FeatureSource, *, rows: int) -> Iterator[tuple[int, Tensor]]:
    """Yield the checked response vectors chunk by chunk, as ``(index of the first row, response_ND)``.

    Args:
        source: features of the N rows: ``Features``, a tensor [N, D] or [N, 1, D], a list of either, or a function that
            returns a new iterable of either on every call.
        rows: number of rows N of the labels.

    Raises:
        FitError: an iterator that can be read only once, a number of rows other than N, features of several adapters,
            or a feature that is not finite.
    """
    if isinstance(source, Iterator):
        raise FitError("an iterator can be read only once", place=_PLACE, fix="give a function that returns a new one")
    if isinstance(source, (Features, torch.Tensor)):
        pieces: Iterable[Chunk] = (source,)
    else:
        pieces = source() if callable(source) else source
    start, width = 0, None
    for piece in pieces:
        x = piece.response_NAD if isinstance(piece, Features) else piece
        if x.ndim == 3 and x.shape[1] == 1:
            x = x[:, 0]
        if x.ndim != 2 or (width is not None and x.shape[1] != width):
            wanted = "[rows, D] or [rows, 1, D]" if width is None else f"[rows, {width}] as in earlier chunks"
            raise FitError(f"a chunk of shape {list(x.shape)}", place=f"{_PLACE} row {start}", fix=f"give {wanted}")
        width = x.shape[1]
        for first in range(0, len(x), _ROWS):
            part = x[first : first + _ROWS]
            if not bool(torch.isfinite(part).all()):
                row = start + int((~torch.isfinite(part).all(dim=1)).nonzero()[0])
                raise FitError("a feature is not finite", place=f"{_PLACE} row {row}", fix="encode that row again")
            yield start, part
            start += len(part)
    if start != rows:
        raise FitError(
            f"{start} rows of features for {rows} rows of labels", place=_PLACE, fix="give one feature vector per row"
        )


@dataclass(frozen=True)
class Centre:
    """The origin of the moments: a point near the data, so that large means cost no precision.

    Attributes:
        x_D: vector that is subtracted from the features.
        y_K: vector that is subtracted from the labels.
    """

    x_D: Tensor
    y_K: Tensor


class Moments:
    """The upper triangle of one moment matrix M, accumulated in blocks of rows.

    Args:
        size: size D + 1 + K of the matrix.
        precision: precision of the products; the sum is always float64.
    """

    def __init__(self, size: int, *, precision: Precision) -> None:
        self._sum = torch.zeros(size, size, dtype=torch.float64)
        self._dtype = torch.float64 if precision == "float64" else torch.float32
        self._waiting: list[Tensor] = []
        self._rows = 0

    def add(self, z: Tensor) -> None:
        """Add the rows ``z``, [R, D + 1 + K]."""
        self._waiting.append(z.to(self._dtype))
        self._rows += len(z)
        if self._rows >= _ROWS:
            self.flush()

    def flush(self) -> None:
        """Add the products of the waiting rows to the sum."""
        if not self._waiting:
            return
        z = self._waiting[0] if len(self._waiting) == 1 else torch.cat(self._waiting)
        step = -(-z.shape[1] // _PANELS)
        for left in range(0, z.shape[1], step):
            panel = self._sum[left : left + step, left:]
            if self._dtype == torch.float64:
                panel.addmm_(z[:, left : left + step].T, z[:, left:])
            else:
                panel += z[:, left : left + step].T @ z[:, left:]
        self._waiting, self._rows = [], 0

    @staticmethod
    def full(parts: Sequence[Moments]) -> Tensor:
        """Return the sum of several moment matrices as one symmetric matrix, in float64."""
        total = parts[0]._sum.clone()
        for part in parts[1:]:
            total += part._sum
        return total.triu_().add_(total.triu(1).T)


def gather_moments(
    source: FeatureSource,
    blocks: Sequence[LabelBlock],
    labels_NK: NDArray[np.float64],
    *,
    weights_N: NDArray[np.float64],
    fold_N: Ints,
    centre: Centre,
    precision: Precision,
) -> list[dict[tuple[int, int], Moments]]:
    """Read the features once and return the moments of every block by (part, fold).

    This needs memory for one (D + 1 + K)^2 matrix per part and fold, and for up to ``_ROWS`` waiting rows of each.

    Args:
        source: features of the N rows, in order, in a form that :func:`response_chunks` accepts.
        blocks: the blocks of objectives.
        labels_NK: labels on the [0, 1] scale, [N, K]; NaN if not rated.
        weights_N: weight of each row, [N].
        fold_N: fold of each row, [N].
        centre: the origin of the moments.
        precision: precision of the products; sums are always float64.
    """
    size = [len(centre.x_D) + 1 + len(block.columns) for block in blocks]
    gathered: list[dict[tuple[int, int], Moments]] = [{} for _ in blocks]
    root_N = torch.from_numpy(np.sqrt(weights_N))
    targets = [torch.from_numpy(np.nan_to_num(labels_NK[:, list(block.columns)])) for block in blocks]
    for start, x in response_chunks(source, rows=len(labels_NK)):
        fold = fold_N[start : start + len(x)]
        for i, block in enumerate(blocks):
            origin = centre.y_K[list(block.columns)]
            for p, f, rows in _slots(block.parts, start, fold):
                y = targets[i][start + rows] - origin
                z = torch.cat([x[rows].to(torch.float64) - centre.x_D, torch.ones(len(rows), 1), y], dim=1)
                if (p, f) not in gathered[i]:
                    gathered[i][p, f] = Moments(size[i], precision=precision)
                gathered[i][p, f].add(z * root_N[start + rows, None])
    for moments in gathered:
        for item in moments.values():
            item.flush()
    return gathered


def _slots(parts: Sequence[Bools], start: int, fold: Ints) -> Iterator[tuple[int, int, Tensor]]:
    """Yield (part, fold, rows of the chunk) for every set of rows that is not empty."""
    for p, part in enumerate(parts):
        rows = np.flatnonzero(part[start : start + len(fold)])
        for f in np.unique(fold[rows]):
            yield p, int(f), torch.from_numpy(rows[fold[rows] == f])
