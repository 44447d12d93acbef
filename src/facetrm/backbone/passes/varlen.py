"""Attention over all segments of a pack in one kernel call per layer, which avoids launch overhead on a GPU.

    queries   [ prompt A, answer A1 |          answer A2 | prompt B, answer B1 | ... ]     the T tokens of the pack
    keys      [ prompt A, answer A1 | prompt A, answer A2 | prompt B, answer B1 | ... ]     S rows, gathered from the T

The causal mask is aligned to the bottom right: the last query of a segment attends to all of its keys, the second to
last to all but one, and so on.

Shapes: T tokens of a pack, S keys, M segments, H query heads, G key-value heads, E head dimension.
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
    """Layout of the segments of a pack, computed once per pass and used by every layer.

    Attributes:
        keys_S: Token index of each key row; None if the keys are the T tokens in order.
        query_starts: Start of each segment among the queries, and the end of the last one, [M + 1].
        key_starts: Start of each segment among the keys, and the end of the last one, [M + 1].
        longest_query: Largest number of queries in a segment.
        longest_key: Largest number of keys in a segment.
    """

    keys_S: Tensor | None
    query_starts: Tensor
    key_starts: Tensor
    longest_query: int
    longest_key: int


class Kernel(Protocol):
    """Causal attention within each segment, with the mask aligned to the bottom right."""

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
        """Return the attention output [T, H, E].

        Args:
            query_THE: queries, [T, H, E].
            key_SGE: keys, [S, G, E].
            value_SGE: values, [S, G, E].
            layout: layout of the segments.
            scale: factor applied to the query-key products.
            window: number of keys, including its own, that each query attends to; None for no limit.
        """


def layout_of(trees: Sequence[Tree], device: torch.device | str) -> SegmentLayout:
    """Return the layout of a pack.

    Args:
        trees: trees of the pack, which together cover all of its tokens in order.
        device: device for the tensors of the layout.
    """
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
    """Implement :class:`Kernel` with PyTorch's variable-length attention (bfloat16 and float16, on CUDA).

    PyTorch's window counts only the keys to the left of a query; ours includes the query's own key.
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
    """Return the kernel for models of ``dtype`` on ``device``, or None if there is none."""
    return flash if device.type == "cuda" and dtype in _HALF and _varlen() is not None else None


@cache
def _varlen() -> Any:
    """Return PyTorch's kernel (useful only on CUDA), or None if this PyTorch version does not have it."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn
