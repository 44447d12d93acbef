"""Many conversations in one row without padding, each prompt computed once: a tree of segments and its attention.

    [ prompt A | answer A1 | answer A2 | prompt B | answer B1 | ... ]      T tokens, positions restart with each prompt

Every token sees its own conversation alone: a prompt sees itself, an answer sees its prompt and itself, both from left
to right. The linear layers of the model see T tokens and nothing else, so no work goes into padding or into reading a
prompt again. Attention runs segment by segment on the keys and values that belong to it.

Shapes: T tokens of a pack, H query heads, G key-value heads, E width of a head.

The attention is registered with Transformers under :data:`ATTENTION` and does its work only inside :func:`reading`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

ATTENTION: Final = "facetrm_packed"
_HARMLESS: Final = frozenset({"dropout", "use_cache", "position_ids", "output_attentions", "cache_position"})


class PackingError(Exception):
    """The model's attention needs something that segments do not have; read it row by row."""


@dataclass(frozen=True)
class Tree:
    """One prompt and the answers to it: ``[start, stop)`` is the prompt, then come the answers' spans."""

    start: int
    stop: int
    tails: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Pack:
    """One forward pass.

    Attributes:
        ids: of T tokens; positions: of each within its conversation.
        trees: who sees whom.
        rows: the numbers of the conversations in it; ends: where each of their prompts ends; lasts: their last tokens.
    """

    ids: list[int]
    positions: list[int]
    trees: tuple[Tree, ...]
    rows: list[int]
    ends: list[int]
    lasts: list[int]


@dataclass
class _Reading:
    """What the attention needs to know during one forward pass, and the masks that its layers share."""

    trees: Sequence[Tree]
    calls: int = 0
    masks: dict[tuple[int, int, int], Tensor] = field(default_factory=dict)

    def mask(self, queries: int, keys: int, window: int, device: torch.device) -> Tensor:
        """Return which keys the last ``queries`` of ``keys`` tokens see, at most ``window`` back; True is seen."""
        found = self.masks.get((queries, keys, window))
        if found is None:
            q_Q = torch.arange(keys - queries, keys, device=device)[:, None]
            k_K = torch.arange(keys, device=device)[None]
            found = self.masks[queries, keys, window] = (k_K <= q_Q) & (k_K > q_Q - window)
        return found


_reading: ContextVar[_Reading | None] = ContextVar("reading", default=None)


@contextmanager
def reading(model: PreTrainedModel, trees: Sequence[Tree]) -> Iterator[_Reading]:
    """Let ``model`` attend within ``trees``; its configured attention is back afterwards."""
    configs = {id(m.config): m.config for m in model.modules() if isinstance(m, PreTrainedModel)}
    text = model.config.get_text_config()
    configs[id(text)] = text
    before = [(config, config._attn_implementation) for config in configs.values()]
    state = _Reading(trees)
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
    """Attend within the trees of the pack that is being read.

    Args:
        module: the attention layer. attention_mask: must be None.
        query: [1, H, T, E]; key, value: [1, G, T, E].
        scaling: of the products, by default E ** -0.5. sliding_window: how far back a token sees, itself included.
        softcap: c of c * tanh(products / c). is_causal: False is refused, as what ``kwargs`` holds beyond the harmless.

    Returns:
        [1, T, H, E], and None.

    Raises:
        PackingError: a mask, or an argument that changes the attention in a way that is not known here.
    """
    state = _reading.get()
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    unknown = sorted(k for k, v in kwargs.items() if v is not None and v is not False and k not in _HARMLESS)
    if state is None or attention_mask is not None or unknown or not causal:
        raise PackingError(f"attention with {', '.join(unknown) or 'a mask, both ways, or outside of a pack'}")
    state.calls += 1
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    out_THE = query.new_empty(query.shape[2], query.shape[1], value.shape[-1])

    def attend(start: int, stop: int, key_GKE: Tensor, value_GKE: Tensor) -> None:
        queries, keys = stop - start, key_GKE.shape[1]
        near = keys if sliding_window is None else sliding_window
        plain = queries == keys and near >= keys
        mask_QK = None if plain else state.mask(queries, keys, min(near, keys), query.device)
        query_HQE = query[0, :, start:stop]
        if softcap is None:
            result_HQE = scaled_dot_product_attention(
                query_HQE[None],
                key_GKE[None],
                value_GKE[None],
                attn_mask=mask_QK,
                is_causal=plain,
                scale=scale,
                enable_gqa=key_GKE.shape[0] != query_HQE.shape[0],
            )[0]
        else:
            seen_QK = state.mask(queries, keys, min(near, keys), query.device)
            result_HQE = _capped(query_HQE, key_GKE, value_GKE, seen_QK, scale=scale, softcap=softcap)
        out_THE[start:stop] = result_HQE.transpose(0, 1)

    for tree in state.trees:
        # The first answer stands right behind its prompt: both are one plain causal segment.
        first = tree.tails[0][1] if tree.tails else tree.stop
        attend(tree.start, first, key[0, :, tree.start : first], value[0, :, tree.start : first])
        for start, stop in tree.tails[1:]:
            key_GKE = torch.cat([key[0, :, tree.start : tree.stop], key[0, :, start:stop]], dim=1)
            value_GKE = torch.cat([value[0, :, tree.start : tree.stop], value[0, :, start:stop]], dim=1)
            attend(start, stop, key_GKE, value_GKE)
    return out_THE[None], None


def _capped(
    query_HQE: Tensor, key_GKE: Tensor, value_GKE: Tensor, seen_QK: Tensor, *, scale: float, softcap: float
) -> Tensor:
    """Return attention whose products are capped (Gemma 2): the softmax in float32, as the published code has it."""
    times = query_HQE.shape[0] // key_GKE.shape[0]
    key_HKE, value_HKE = key_GKE.repeat_interleave(times, dim=0), value_GKE.repeat_interleave(times, dim=0)
    product_HQK = query_HQE @ key_HKE.transpose(1, 2) * scale
    product_HQK = torch.tanh(product_HQK / softcap) * softcap
    product_HQK = product_HQK.masked_fill(~seen_QK, -torch.inf)
    return torch.softmax(product_HQK, dim=-1, dtype=torch.float32).to(query_HQE.dtype) @ value_HKE


def _no_mask(*args: Any, **kwargs: Any) -> None:
    """Make no mask: the trees say who sees whom."""
    if _reading.get() is None:
        raise PackingError("attention outside of a pack")


AttentionInterface.register(ATTENTION, packed_attention)
AttentionMaskInterface.register(ATTENTION, _no_mask)


def pack_rows(ids: Sequence[tuple[int, ...]], prompts: Sequence[int], *, token_budget: int) -> Iterator[Pack]:
    """Yield packs of at most ``token_budget`` tokens that hold every conversation, answers to one prompt together.

    Equal conversations are held once. A prompt whose answers do not fit into one pack is held in several; a
    conversation above the budget has a pack of its own. The packs depend on the arguments only.

    Args:
        ids: tokens of N conversations.
        prompts: number of tokens of each one's prompt, at least 1 and less than all.
        token_budget: the most tokens of a pack.
    """
    trees: dict[tuple[int, ...], dict[tuple[int, ...], list[int]]] = {}
    for n, (row, prompt) in enumerate(zip(ids, prompts, strict=True)):
        trees.setdefault(row[:prompt], {}).setdefault(row[prompt:], []).append(n)
    pack = _Builder()
    for prompt_ids, tails in sorted(trees.items(), key=lambda tree: -len(tree[0]) - sum(map(len, tree[1]))):
        open_tree = False
        whole = len(prompt_ids) + sum(map(len, tails))
        if len(pack) and len(pack) + whole > token_budget:
            yield pack.close()
            pack = _Builder()
        for tail, rows in tails.items():
            cost = len(tail) + (0 if open_tree else len(prompt_ids))
            if len(pack) and len(pack) + cost > token_budget:
                yield pack.close()
                pack, open_tree = _Builder(), False
            if not open_tree:
                pack.begin(prompt_ids)
                open_tree = True
            pack.add(tail, rows)
    if len(pack):
        yield pack.close()


class _Builder:
    """A pack in the making."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.positions: list[int] = []
        self.trees: list[tuple[int, int, list[tuple[int, int]]]] = []
        self.rows: list[int] = []
        self.ends: list[int] = []
        self.lasts: list[int] = []

    def __len__(self) -> int:
        return len(self.ids)

    def begin(self, prompt: tuple[int, ...]) -> None:
        """Begin a tree."""
        start = len(self.ids)
        self.ids.extend(prompt)
        self.positions.extend(range(len(prompt)))
        self.trees.append((start, len(self.ids), []))

    def add(self, tail: tuple[int, ...], rows: list[int]) -> None:
        """Add an answer, that of ``rows``, to the last tree."""
        start, stop, tails = self.trees[-1]
        here = len(self.ids)
        self.ids.extend(tail)
        self.positions.extend(range(stop - start, stop - start + len(tail)))
        tails.append((here, len(self.ids)))
        self.rows.extend(rows)
        self.ends.extend([stop - 1] * len(rows))
        self.lasts.extend([len(self.ids) - 1] * len(rows))

    def close(self) -> Pack:
        """Return the pack."""
        trees = tuple(Tree(start, stop, tuple(tails)) for start, stop, tails in self.trees)
        return Pack(self.ids, self.positions, trees, self.rows, self.ends, self.lasts)


def read_pack(model: PreTrainedModel, pack: Pack) -> Tensor:
    """Return the last hidden states [T, D] of one pack.

    Raises:
        PackingError: the model has layers that do not attend through Transformers' interface, so that conversations
            would see each other.
    """
    device = model.device
    ids_1T = torch.tensor([pack.ids], device=device)
    position_1T = torch.tensor([pack.positions], device=device)
    with reading(model, pack.trees) as state:
        output = model(input_ids=ids_1T, position_ids=position_1T, use_cache=False)
    layers = model.config.get_text_config().num_hidden_layers
    if state.calls != layers:
        raise PackingError(f"{state.calls} of {layers} layers attend through the interface of Transformers")
    hidden_TD: Tensor = output.last_hidden_state[0]
    return hidden_TD
