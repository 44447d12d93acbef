"""Attention within the trees of a pack, for any model that uses Transformers' attention interface.

There are two implementations. One calls PyTorch's attention once per segment and works on every device; the other
computes all segments in one call of a :class:`~facetrm.backbone.passes.varlen.Kernel`.

Shapes: T tokens of a pack, H query heads, G key-value heads, E head dimension.

The attention is registered with Transformers under :data:`ATTENTION` and works only inside :func:`attend_within`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from facetrm.backbone.exclusive import trunk_lock
from facetrm.backbone.passes.packing import PackedPass, Tree
from facetrm.backbone.passes.probes import TOLERANCE
from facetrm.backbone.passes.varlen import Kernel, SegmentLayout, layout_of

ATTENTION: Final = "facetrm_packed"
_HARMLESS: Final = frozenset({"dropout", "use_cache", "position_ids", "output_attentions", "cache_position"})


class PackingError(Exception):
    """The model's attention is not compatible with packing, so conversations must be read in padded batches."""


@dataclass
class _Reading:
    """State of one forward pass, shared by its attention layers.

    ``asked`` contains the window sizes of the model's masks, ``followed`` those that its layers pass to the attention.
    """

    trees: Sequence[Tree]
    device: torch.device
    kernel: Kernel | None = None
    calls: int = 0
    asked: set[int] = field(default_factory=set)
    followed: set[int] = field(default_factory=set)
    masks: dict[tuple[int, int, int], Tensor] = field(default_factory=dict)

    @cached_property
    def layout(self) -> SegmentLayout:
        """The layout of the segments, for a kernel."""
        return layout_of(self.trees, self.device)

    def mask(self, queries: int, keys: int, window: int) -> Tensor:
        """Return the causal mask [queries, keys] for the last ``queries`` of ``keys`` tokens (True: attend).

        Args:
            queries: number of queries.
            keys: number of keys.
            window: number of keys, including its own, that each query attends to.
        """
        found = self.masks.get((queries, keys, window))
        if found is None:
            q_Q = torch.arange(keys - queries, keys, device=self.device)[:, None]
            k_K = torch.arange(keys, device=self.device)[None]
            found = self.masks[queries, keys, window] = (k_K <= q_Q) & (k_K > q_Q - window)
        return found


_reading: ContextVar[_Reading | None] = ContextVar("reading", default=None)


@contextmanager
def attend_within(model: PreTrainedModel, trees: Sequence[Tree], *, kernel: Kernel | None = None) -> Iterator[_Reading]:
    """Restrict the attention of ``model`` to ``trees`` inside the block, and restore its own attention afterwards.

    Args:
        model: model that will read the pack.
        trees: trees of the pack.
        kernel: kernel that computes all segments in one call; None for one call per segment.
    """
    configs = {id(m.config): m.config for m in model.modules() if isinstance(m, PreTrainedModel)}
    text = model.config.get_text_config()
    configs[id(text)] = text
    state = _Reading(trees, model.device, kernel)
    with trunk_lock(model):
        before = [(config, config._attn_implementation) for config in configs.values()]
        token = _reading.set(state)
        try:
            for config, _ in before:
                config._attn_implementation_internal = ATTENTION
            yield state
        finally:
            _reading.reset(token)
            for config, name in before:
                config._attn_implementation_internal = name


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Compute the attention within the trees of the current pack.

    Args:
        module: attention layer.
        query: queries, [1, H, T, E].
        key: keys, [1, G, T, E].
        value: values, [1, G, T, E].
        attention_mask: must be None.
        scaling: factor applied to the query-key products; by default E ** -0.5.
        sliding_window: number of tokens, including itself, that each token attends to; None for no limit.
        softcap: cap c of the query-key products: c * tanh(products / c).
        is_causal: must not be False.
        **kwargs: other arguments from Transformers; those that could change the attention are refused.

    Returns:
        The attention output [1, T, H, E], and None instead of the attention weights.

    Raises:
        PackingError: There is a mask, or an argument that changes the attention in an unsupported way.
    """
    state = _reading.get()
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    unknown = sorted(k for k, v in kwargs.items() if v is not None and v is not False and k not in _HARMLESS)
    if state is None or attention_mask is not None or unknown or not causal:
        raise PackingError(f"attention with {', '.join(unknown) or 'a mask, bidirectional, or outside a pack'}")
    state.calls += 1
    if sliding_window is not None:
        state.followed.add(sliding_window)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if state.kernel is None or softcap is not None or key.shape[-1] != value.shape[-1]:
        return _by_segments(state, query, key, value, scale=scale, window=sliding_window, softcap=softcap), None
    layout = state.layout
    key_SGE, value_SGE = key[0].transpose(0, 1), value[0].transpose(0, 1)
    if layout.keys_S is not None:
        key_SGE, value_SGE = key_SGE.index_select(0, layout.keys_S), value_SGE.index_select(0, layout.keys_S)
    query_THE = query[0].transpose(0, 1)
    return state.kernel(query_THE, key_SGE, value_SGE, layout, scale=scale, window=sliding_window)[None], None


def _by_segments(
    state: _Reading,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    scale: float,
    window: int | None,
    softcap: float | None = None,
) -> Tensor:
    """Return the attention output [1, T, H, E], with one call per segment."""
    out_THE = query.new_empty(query.shape[2], query.shape[1], value.shape[-1])
    grouped = key.shape[1] != query.shape[1]
    for tree in state.trees:
        for start, stop, shared in tree.segments():
            query_1HQE, key_1GKE, value_1GKE = (part[:, :, start:stop] for part in (query, key, value))
            if shared:
                key_1GKE = torch.cat([key[:, :, tree.start : tree.stop], key_1GKE], dim=2)
                value_1GKE = torch.cat([value[:, :, tree.start : tree.stop], value_1GKE], dim=2)
            queries, keys = stop - start, shared + stop - start
            near = keys if window is None else min(window, keys)
            if softcap is not None:
                seen_QK = state.mask(queries, keys, near)
                result_1HQE = _capped(query_1HQE, key_1GKE, value_1GKE, seen_QK, scale=scale, softcap=softcap)
            else:
                plain = queries == keys == near
                result_1HQE = scaled_dot_product_attention(
                    query_1HQE,
                    key_1GKE,
                    value_1GKE,
                    attn_mask=None if plain else state.mask(queries, keys, near),
                    is_causal=plain,
                    scale=scale,
                    enable_gqa=grouped,
                )
            out_THE[start:stop] = result_1HQE[0].transpose(0, 1)
    return out_THE[None]


def _capped(
    query_1HQE: Tensor, key_1GKE: Tensor, value_1GKE: Tensor, seen_QK: Tensor, *, scale: float, softcap: float
) -> Tensor:
    """Return attention with capped query-key products (Gemma 2), with a float32 softmax as in the published code."""
    times = query_1HQE.shape[1] // key_1GKE.shape[1]
    key_1HKE, value_1HKE = key_1GKE.repeat_interleave(times, dim=1), value_1GKE.repeat_interleave(times, dim=1)
    product_1HQK = query_1HQE @ key_1HKE.transpose(2, 3) * scale
    product_1HQK = torch.tanh(product_1HQK / softcap) * softcap
    product_1HQK = product_1HQK.masked_fill(~seen_QK, -torch.inf)
    return torch.softmax(product_1HQK, dim=-1, dtype=torch.float32).to(query_1HQE.dtype) @ value_1HKE


def _no_mask(*args: Any, local_size: int | None = None, **kwargs: Any) -> None:
    """Create no mask, because the trees replace it, but record its window so that it can be checked later."""
    state = _reading.get()
    if state is None:
        raise PackingError("attention outside a pack")
    if local_size is not None:
        state.asked.add(local_size)


# Not compiled, because the attention pattern changes with every pack and would cause a recompilation each time.
AttentionInterface.register(ATTENTION, torch.compiler.disable(packed_attention))  # type: ignore[no-untyped-call]
AttentionMaskInterface.register(ATTENTION, _no_mask)


def kernel_error(kernel: Kernel, *, dtype: torch.dtype, device: torch.device) -> float:
    """Return the largest relative error (by norm) of ``kernel``, compared with attention segment by segment.

    It is measured on random inputs, for shared and unshared prompts, with and without a window.

    Args:
        kernel: kernel to check.
        dtype: dtype of the queries, keys and values.
        device: device to run on.
    """
    trees = (Tree(0, 5, ((5, 12), (12, 14), (14, 23))), Tree(23, 30, ((30, 31),)))
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, h, 31, 64, generator=generator).to(device, dtype) for h in (4, 2, 2))
    worst = 0.0
    for window in (None, 3, 8):
        expected, found = (
            _attended(_Reading(trees, device, side), query, key, value, window).float() for side in (None, kernel)
        )
        worst = max(worst, float((found - expected).norm() / expected.norm()))
    return worst


def kernel_problem(kernel: Kernel, model: PreTrainedModel) -> str | None:
    """Return why ``kernel`` cannot read with ``model``, or None if it can."""
    try:
        worst = kernel_error(kernel, dtype=model.dtype, device=model.device)
    except (RuntimeError, TypeError, ValueError) as exc:
        return str(exc).strip().splitlines()[0]
    limit = TOLERANCE.get(model.dtype, 1e-3)
    return f"it differs from attention by segments by {worst:.2g} (relative norm)" if worst > limit else None


def _attended(state: _Reading, query: Tensor, key: Tensor, value: Tensor, window: int | None) -> Tensor:
    token = _reading.set(state)
    try:
        return packed_attention(torch.nn.Identity(), query, key, value, None, sliding_window=window)[0]
    finally:
        _reading.reset(token)


def read_packed(
    model: PreTrainedModel,
    pack: PackedPass,
    *,
    kernel: Kernel | None = None,
    forward: Callable[..., Any] | None = None,
    layers: int | None = None,
) -> Tensor:
    """Return the last hidden states [T, D] of one pack.

    Args:
        model: causal trunk.
        pack: pack to read.
        kernel: kernel that computes all segments in one call; None for one call per segment.
        forward: compiled version of ``model``; None for the model itself.
        layers: number of layers that run; None for all.

    Raises:
        PackingError: Some layers do not use Transformers' attention interface or ignore a sliding window, so
            conversations could attend to each other.
    """
    device = model.device
    ids_1T = torch.tensor([pack.ids], device=device)
    position_1T = torch.tensor([pack.positions], device=device)
    with attend_within(model, pack.trees, kernel=kernel) as state:
        output = (model if forward is None else forward)(input_ids=ids_1T, position_ids=position_1T, use_cache=False)
    layers = model.config.get_text_config().num_hidden_layers if layers is None else layers
    if state.calls != layers:
        raise PackingError(f"{state.calls} of {layers} layers use Transformers' attention interface")
    lost = state.asked - state.followed
    if lost:
        raise PackingError(f"the layers do not pass a window of {min(lost)} tokens on to their attention")
    hidden_TD: Tensor = output.last_hidden_state[0]
    return hidden_TD
