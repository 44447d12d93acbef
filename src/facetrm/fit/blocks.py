"""Read features block by block, so that the memory of a fit does not grow with the number of rows.

Some vectors are read many times and in random order: the prompts that a gate trains on, and the differences that a
linear head is fitted to. They are kept in memory while they are small, and in a temporary file otherwise.

Shapes: N rows or pairs, D hidden size.
"""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Final, Protocol, TypeAlias, final

import numpy as np
import torch
from torch import Tensor

from facetrm.backbone.encoder import Features
from facetrm.core.errors import FitError
from facetrm.data.records import Conversation

HELD: Final = 64 * 2**20  # largest size in bytes of a matrix that stays in memory
_FLOATS: Final = 2**20  # numbers in one block: 2,048 rows at D = 512
_STEP: Final = 1024  # a block is a multiple of this many rows, as in ridge regression


class PairBlocks(Protocol):
    """Pairs whose features are read block by block, in order."""

    def __len__(self) -> int: ...

    def blocks(self) -> Iterator[tuple[Features, Features]]:
        """Yield the features of the chosen and the rejected answers, one block at a time."""
        ...


class FeatureStream(Protocol):
    """A function that yields the features of conversations in order, block by block."""

    def __call__(self, conversations: Iterable[Conversation], *, rows: int) -> Iterator[Features]:
        """Yield the features of ``conversations``, at most ``rows`` at a time."""
        ...


def block_rows(hidden_size: int) -> int:
    """Return the number of rows of a block: a multiple of 1,024, about 4 MiB of float32 vectors.

    Args:
        hidden_size: size D of a vector.
    """
    return max(_FLOATS // hidden_size // _STEP, 1) * _STEP


@final
class VectorFile:
    """Vectors [N, D] in a temporary file. Rows are read when they are needed.

    Args:
        handle: the file, open for reading.
        dtype: data type of the numbers in the file.
        size: number of rows and columns in the file.
        rows: indices of the rows of the file that this object holds, in order; None for all rows.
        owner: the object that closes the file when it is garbage-collected; None if this object does.
    """

    def __init__(
        self,
        handle: IO[bytes],
        dtype: np.dtype[np.generic],
        size: tuple[int, int],
        *,
        rows: np.ndarray[tuple[int], np.dtype[np.int64]] | None = None,
        owner: VectorFile | None = None,
    ) -> None:
        self._handle, self._dtype, self._size, self._rows, self._owner = handle, dtype, size, rows, owner
        if owner is None:
            weakref.finalize(self, handle.close)

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows N and size D of a vector."""
        return (self._size[0] if self._rows is None else len(self._rows), self._size[1])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        index: slice | np.ndarray[tuple[int], np.dtype[np.int64]]
        index = rows if isinstance(rows, slice) else rows.numpy()
        if self._rows is not None:
            index = self._rows[index]
        # a new mapping for each access, so that pages that were read do not stay resident
        mapped = np.memmap(self._handle, dtype=self._dtype, mode="r", shape=self._size)
        return torch.from_numpy(np.array(mapped[index]))

    def select(self, rows: Tensor) -> VectorFile:
        """Return the rows with the indices ``rows`` (int64), in that order; nothing is read."""
        index = rows.numpy()
        chosen = index if self._rows is None else self._rows[index]
        return VectorFile(self._handle, self._dtype, self._size, rows=chosen, owner=self._owner or self)


Vectors: TypeAlias = Tensor | VectorFile


def gather(blocks: Iterable[Tensor], *, rows: int, folder: Path | None = None, held: int | None = None) -> Vectors:
    """Return the vectors of all blocks, [N, D], in memory if they are small enough, else in a temporary file.

    Args:
        blocks: blocks of vectors, [n, D] each, of one data type.
        rows: total number of rows N.
        folder: folder of the temporary file; None for the system's temporary folder.
        held: largest size in bytes that stays in memory; None for :data:`HELD`.

    Raises:
        FitError: the file cannot be written.
    """
    kept: list[Tensor] = []
    handle: IO[bytes] | None = None
    hidden, dtype = 0, np.dtype(np.float32)
    for block in blocks:
        size = rows * block.shape[1] * block.element_size()
        if size <= (HELD if held is None else held):
            kept.append(block)
            continue
        try:
            if handle is None:
                handle = tempfile.TemporaryFile(prefix="facetrm-", dir=folder)  # noqa: SIM115
                hidden, dtype = block.shape[1], block.numpy().dtype
            handle.write(block.contiguous().numpy().tobytes())
        except OSError as exc:
            place = folder or tempfile.gettempdir()
            raise FitError(
                f"cannot keep {size / 2**30:.1f} GiB of vectors on disk ({exc})", place=place, fix="free disk space"
            ) from exc
    if handle is None:
        return kept[0] if len(kept) == 1 else torch.cat(kept)
    handle.flush()
    return VectorFile(handle, dtype, (rows, hidden))


def select_rows(vectors: Vectors, rows: Tensor) -> Vectors:
    """Return the rows of ``vectors`` with the indices ``rows`` (int64), in that order; a file is not read."""
    return vectors[rows] if isinstance(vectors, Tensor) else vectors.select(rows)


def row_blocks(vectors: Vectors) -> Iterator[tuple[slice, Tensor]]:
    """Yield the vectors block by block, each with its row range; vectors in memory are one block."""
    if isinstance(vectors, Tensor):
        yield slice(0, len(vectors)), vectors
        return
    step = block_rows(vectors.shape[1])
    for start in range(0, len(vectors), step):
        yield slice(start, min(start + step, len(vectors))), vectors[slice(start, min(start + step, len(vectors)))]
