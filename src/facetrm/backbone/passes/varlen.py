"""All segments of a pack in one call of a kernel: where every call costs, as on a GPU, one a layer instead of many.

    queries   [ prompt A, answer A1 |          answer A2 | prompt B, answer B1 | ... ]     the T tokens of the pack
    keys      [ prompt A, answer A1 | prompt A, answer A2 | prompt B, answer B1 | ... ]     S rows, gathered from the T

A segment's last query sees all of its keys, the one before it all but the last: the mask is aligned to the bottom
right.

Shapes: T tokens of a pack, S keys, M segments, H query heads, G key-value heads, E width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import Any, Final, Protocol

import torch
from torch import Tensor

from facetrm.backbone.passes.packing import Tree

_HALF: Final = frozenset({torch.bfloat16, torch.float16})


@dataclass(frozen=True)
class SegmentLayout:
    """Where the segments of a pack lie, made once a pass and used by every layer.

    Attributes:
        keys_S: which token each key row is; None where they are the T tokens as they stand.
        query_starts: where each segment begins among the queries, and where the last ends, [M + 1].
        key_starts: the same among the keys, [M + 1].
        longest_query: the most query rows of a segment.
        longest_key: the most key rows of a segment.
    """

    keys_S: Tensor | None
    query_starts: Tensor
    key_starts: Tensor
    longest_query: int
    longest_key: int


class Kernel(Protocol):
    """Attention of every segment's queries to its keys, from left to right, aligned to the bottom right."""

    def __call__(
        self,
        query_THE: Tensor,
        key_SGE: Tensor,
        value_SGE: Tensor,
        layout: SegmentLayout,
        *,
        scale: float,
        window: int | None,
    ) -> Tensor:
        """Return [T, H, E]; a query sees the last ``window`` keys up to itself, or all where that is None."""


def layout_of(trees: Sequence[Tree], device: torch.device | str) -> SegmentLayout:
    """Return the layout of a pack that ``trees`` tile, its tensors on ``device``."""
    queries: list[int] = []
    lengths: list[int] = []
    index: list[int] = []
    for tree in trees:
        for start, stop, shared in tree.segments():
            queries.append(stop - start)
            lengths.append(shared + stop - start)
            index.extend(range(tree.start, tree.start + shared))
            index.extend(range(start, stop))
    as_they_stand = sum(lengths) == sum(queries)
    query_starts, key_starts = (
        torch.tensor([0, *accumulate(sizes)], dtype=torch.int32, device=device) for sizes in (queries, lengths)
    )
    keys_S = None if as_they_stand else torch.tensor(index, device=device)
    return SegmentLayout(keys_S, query_starts, key_starts, max(queries), max(lengths))


def flash(
    query_THE: Tensor, key_SGE: Tensor, value_SGE: Tensor, layout: SegmentLayout, *, scale: float, window: int | None
) -> Tensor:
    """Attend with PyTorch's own kernel (bfloat16 and float16, on CUDA): a :class:`Kernel`.

    Its window counts the keys to the left of a query, ours the query as well.
    """
    found: Tensor = _varlen()(
        query_THE,
        key_SGE,
        value_SGE,
        layout.query_starts,
        layout.key_starts,
        layout.longest_query,
        layout.longest_key,
        scale=scale,
        window_size=(-1 if window is None else window - 1, 0),
        enable_gqa=query_THE.shape[1] != key_SGE.shape[1],
    )
    return found


def kernel_for(device: torch.device, dtype: torch.dtype) -> Kernel | None:
    """Return the kernel for models of ``dtype`` on ``device``, or None where there is none."""
    return flash if device.type == "cuda" and dtype in _HALF and _varlen() is not None else None


@cache
def _varlen() -> Any:
    """Return PyTorch's kernel, which only CUDA has a use for; None where PyTorch is older than it."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn
