"""Packing with prefix sharing: many conversations in one row without padding, each prompt computed once.

    [ prompt A | answer A1 | answer A2 | prompt B | answer B1 | ... ]      T tokens, positions restart with each prompt

A prompt and its answers form a tree of segments. Every token attends causally, and only to its own conversation: prompt
tokens to the prompt, answer tokens to the prompt and the answer. The linear layers process exactly T tokens, so no work
is spent on padding or repeated prompts. :mod:`facetrm.backbone.passes.attention` implements the attention.

Some backends keep memory for every new T (oneDNN compiles and caches code for each shape). There, a filler at the end
of the pack rounds T up, so that only few values of T occur.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

_STEP: Final = 32  # filled packs have multiples of this many tokens; above 32 steps, the step grows with the pack
_TAIL: Final = 896  # a pack of at most this many tokens that follows another pack counts as a remainder


@dataclass(frozen=True)
class Tree:
    """One prompt and its answers, as token spans of a pack.

    Attributes:
        start: Index of the first token of the prompt.
        stop: Index after the last token of the prompt.
        tails: Span ``(start, stop)`` of each answer.
    """

    start: int
    stop: int
    tails: tuple[tuple[int, int], ...]

    def segments(self) -> Iterator[tuple[int, int, int]]:
        """Yield each segment as ``(start, stop, shared)``: its span and the number of prompt tokens it also attends to.

        The first answer directly follows its prompt, so the two form one segment with ``shared`` 0.
        """
        yield self.start, self.tails[0][1] if self.tails else self.stop, 0
        for start, stop in self.tails[1:]:
            yield start, stop, self.stop - self.start


@dataclass(frozen=True)
class PackedPass:
    """The input of one forward pass.

    Attributes:
        ids: Token ids of the T tokens.
        positions: Position of each token within its conversation.
        trees: Trees that define which tokens attend to each other.
        rows: Indices of the conversations in the pack.
        ends: Index of the last prompt token of each conversation.
        lasts: Index of the last token of each conversation.
    """

    ids: list[int]
    positions: list[int]
    trees: tuple[Tree, ...]
    rows: list[int]
    ends: list[int]
    lasts: list[int]

    def prompts(self, *, pad: int | None = None) -> tuple[PackedPass, list[int]]:
        """Return a pack of only the prompts, and the indices of its tokens in this pack.

        The new pack has the same rows, and both its ``ends`` and ``lasts`` are the last prompt tokens. The filler of
        this pack is left out; filler tokens of the new one get index 0.

        Args:
            pad: token id of the new pack's filler; None for no filler.
        """
        asked = [tree for tree in self.trees if tree.tails]
        kept = [token for tree in asked for token in range(tree.start, tree.stop)]
        place = {token: n for n, token in enumerate(kept)}
        trees = tuple(Tree(place[tree.start], place[tree.stop - 1] + 1, ()) for tree in asked)
        ends = [place[end] for end in self.ends]
        ids, positions = [self.ids[n] for n in kept], [self.positions[n] for n in kept]
        found = PackedPass(ids, positions, trees, self.rows, ends, ends).filled(pad)
        return found, kept + [0] * (len(found.ids) - len(kept))

    def filled(self, pad: int | None, *, most: int | None = None, later: bool = False) -> PackedPass:
        """Return the pack with a filler, a tree without answers, that rounds its size up to one of few values.

        Args:
            pad: token id of the filler; None for no filler.
            most: maximum size of the filled pack; None for no limit.
            later: whether a pack was read before this one. A longer filler of a small pack is then relatively cheap.
        """
        size = len(self.ids)
        step = 4 * _STEP if later and size <= _TAIL else max(_STEP, 2 ** (size.bit_length() - 1) // _STEP)
        stop = -(-size // step) * step
        if most is not None and size <= most:
            stop = min(stop, most)
        if pad is None or stop == size:
            return self
        added = range(stop - size)
        return replace(
            self,
            ids=[*self.ids, *(pad for _ in added)],
            positions=[*self.positions, *added],
            trees=(*self.trees, Tree(size, stop, ())),
        )


def pack_rows(
    ids: Sequence[tuple[int, ...]], prompts: Sequence[int], *, token_budget: int, enough: int | None = None
) -> Iterator[PackedPass]:
    """Yield packs that together contain every conversation, with answers to the same prompt next to each other.

    Duplicate conversations are packed once. If the answers to a prompt do not fit into one pack, the prompt is repeated
    in several; a conversation longer than the budget gets its own pack. The packs depend only on the arguments.

    Args:
        ids: token ids of N conversations.
        prompts: number of prompt tokens of each conversation, at least 1 and less than its length.
        token_budget: maximum tokens per pack.
        enough: pack size in tokens above which no further prompt is added; by default the budget.
    """
    trees: dict[tuple[int, ...], dict[tuple[int, ...], list[int]]] = {}
    for n, (row, prompt) in enumerate(zip(ids, prompts, strict=True)):
        trees.setdefault(row[:prompt], {}).setdefault(row[prompt:], []).append(n)
    pack, room = _Builder(), min(token_budget, enough or token_budget)
    for prompt_ids, tails in sorted(trees.items(), key=lambda tree: -len(tree[0]) - sum(map(len, tree[1]))):
        open_tree = False
        whole = len(prompt_ids) + sum(map(len, tails))
        if len(pack) and len(pack) + whole > room:
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
    """Builds a pack."""

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
        """Start a new tree with ``prompt``."""
        start = len(self.ids)
        self.ids.extend(prompt)
        self.positions.extend(range(len(prompt)))
        self.trees.append((start, len(self.ids), []))

    def add(self, tail: tuple[int, ...], rows: list[int]) -> None:
        """Add an answer to the last tree.

        Args:
            tail: token ids of the answer.
            rows: indices of the conversations that have this answer.
        """
        start, stop, tails = self.trees[-1]
        here = len(self.ids)
        self.ids.extend(tail)
        self.positions.extend(range(stop - start, stop - start + len(tail)))
        tails.append((here, len(self.ids)))
        self.rows.extend(rows)
        self.ends.extend([stop - 1] * len(rows))
        self.lasts.extend([len(self.ids) - 1] * len(rows))

    def close(self) -> PackedPass:
        """Return the finished pack."""
        trees = tuple(Tree(start, stop, tuple(tails)) for start, stop, tails in self.trees)
        return PackedPass(self.ids, self.positions, trees, self.rows, self.ends, self.lasts)
