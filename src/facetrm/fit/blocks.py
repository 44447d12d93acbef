"""Features that come block by block, so that a fit's memory does not grow with the number of rows.

What a fit must read again and again, and in any order (the prompts that a gate trains on, the differences that a
linear head is fitted to), goes to a temporary file once it outgrows memory.

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

HELD: Final = 64 * 2**20  # bytes of one matrix that stay in memory
_FLOATS: Final = 2**20  # of one block: 2,048 rows at D = 512
_STEP: Final = 1024  # blocks are cut at multiples of it, as ridge regression cuts them


class PairBlocks(Protocol):
    """Pairs whose features come block by block, in order: each block holds the better and the worse answers."""

    def __len__(self) -> int: ...

    def blocks(self) -> Iterator[tuple[Features, Features]]:
        """Yield both sides, a block at a time."""
        ...


class FeatureStream(Protocol):
    """Conversations in, their features out, in order, at most ``rows`` at a time."""

    def __call__(self, conversations: Iterable[Conversation], *, rows: int) -> Iterator[Features]:
        """Yield the features of ``conversations``, ``rows`` at a time."""
        ...


def block_rows(hidden_size: int) -> int:
    """Return how many rows a block has: a multiple of 1,024, about 4 MiB of float32 vectors.

    Args:
        hidden_size: D.
    """
    return max(_FLOATS // hidden_size // _STEP, 1) * _STEP


@final
class VectorFile:
    """Vectors [N, D] in a temporary file, read where they are asked for; the file goes when nothing refers to it.

    Args:
        handle: open for reading.
        dtype: type of the numbers in the file.
        size: rows and columns of the file.
        rows: which of its rows these are, in order; None for all.
        owner: what closes the file when nothing refers to it any more; None for this one.
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
        """N and D."""
        return (self._size[0] if self._rows is None else len(self._rows), self._size[1])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        index: slice | np.ndarray[tuple[int], np.dtype[np.int64]]
        index = rows if isinstance(rows, slice) else rows.numpy()
        if self._rows is not None:
            index = self._rows[index]
        # mapped again for each access: pages that were read do not stay resident
        mapped = np.memmap(self._handle, dtype=self._dtype, mode="r", shape=self._size)
        return torch.from_numpy(np.array(mapped[index]))

    def select(self, rows: Tensor) -> VectorFile:
        """Return the rows named by ``rows`` (int64), in that order; nothing is read."""
        index = rows.numpy()
        chosen = index if self._rows is None else self._rows[index]
        return VectorFile(self._handle, self._dtype, self._size, rows=chosen, owner=self._owner or self)


Vectors: TypeAlias = Tensor | VectorFile


def gather(blocks: Iterable[Tensor], *, rows: int, folder: Path | None = None, held: int | None = None) -> Vectors:
    """Return the vectors of all blocks, in memory while they are few, else in a temporary file.

    Args:
        blocks: [n, D] each, of one type.
        rows: N, in all.
        folder: where the file is made; None for the system's temporary folder.
        held: bytes that stay in memory; None for :data:`HELD`.

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
                f"cannot keep {size / 2**30:.1f} GiB of vectors ({exc})", place=place, fix="free disk space"
            ) from exc
    if handle is None:
        return kept[0] if len(kept) == 1 else torch.cat(kept)
    handle.flush()
    return VectorFile(handle, dtype, (rows, hidden))


def select_rows(vectors: Vectors, rows: Tensor) -> Vectors:
    """Return the rows of ``vectors`` named by ``rows`` (int64), in that order, where they lie."""
    return vectors[rows] if isinstance(vectors, Tensor) else vectors.select(rows)


def row_blocks(vectors: Vectors) -> Iterator[tuple[slice, Tensor]]:
    """Yield the vectors block by block, each with its place; those in memory are one block."""
    if isinstance(vectors, Tensor):
        yield slice(0, len(vectors)), vectors
        return
    step = block_rows(vectors.shape[1])
    for start in range(0, len(vectors), step):
        yield slice(start, min(start + step, len(vectors))), vectors[slice(start, min(start + step, len(vectors)))]
