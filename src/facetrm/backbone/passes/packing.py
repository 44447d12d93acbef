"""Many conversations in one row without padding, each prompt computed once: a tree of segments.

    [ prompt A | answer A1 | answer A2 | prompt B | answer B1 | ... ]      T tokens, positions restart with each prompt

Every token sees its own conversation alone: a prompt sees itself, an answer sees its prompt and itself, both from left
to right. The linear layers of the model see T tokens and nothing else, so no work goes into padding or into reading a
prompt again. :mod:`facetrm.backbone.passes.attention` lets a model attend within the trees.

Where every new T costs memory for good (oneDNN compiles and keeps code for each shape that it multiplies), a filler at
the end of the pack rounds T up, so that few values of T occur.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

_STEP: Final = 32  # tokens between two sizes of a filled pack, up to 32 steps; beyond them the steps grow with the pack
_TAIL: Final = 896  # tokens up to which a pack behind full ones counts as what is left over


@dataclass(frozen=True)
class Tree:
    """One prompt and the answers to it: ``[start, stop)`` is the prompt, then come the answers' spans."""

    start: int
    stop: int
    tails: tuple[tuple[int, int], ...]

    def segments(self) -> Iterator[tuple[int, int, int]]:
        """Yield ``(start, stop, shared)`` in the order of the tokens, which see ``shared`` more of the prompt's.

        The first answer stands right behind its prompt, so both are one segment that shares nothing.
        """
        yield self.start, self.tails[0][1] if self.tails else self.stop, 0
        for start, stop in self.tails[1:]:
            yield start, stop, self.stop - self.start


@dataclass(frozen=True)
class PackedPass:
    """One forward pass.

    Attributes:
        ids: of T tokens.
        positions: of each within its conversation.
        trees: who sees whom.
        rows: the numbers of the conversations in it.
        ends: where each of their prompts ends.
        lasts: their last tokens.
    """

    ids: list[int]
    positions: list[int]
    trees: tuple[Tree, ...]
    rows: list[int]
    ends: list[int]
    lasts: list[int]

    def prompts(self, *, pad: int | None = None) -> tuple[PackedPass, list[int]]:
        """Return a pack of the prompts alone, and where its tokens stand in this one.

        Its rows are those of this one, ``ends`` and ``lasts`` both where their prompts end. A filler of this pack is
        left out; the filler of the new one stands for this one's first token.

        Args:
            pad: as for :meth:`filled`.
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
        """Return the pack with a filler, a tree without answers that nobody reads, up to one of few sizes.

        Args:
            pad: the id of the filler's tokens; None for no filler.
            most: a size that the filler does not exceed; None for no limit.
            later: whether a pack was read before it, so that a longer filler of a small one hardly counts.
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
    """Yield packs of at most ``token_budget`` tokens that hold every conversation, answers to one prompt together.

    Equal conversations are held once. A prompt whose answers do not fit into one pack is held in several; a
    conversation above the budget has a pack of its own. The packs depend on the arguments only.

    Args:
        ids: tokens of N conversations.
        prompts: number of tokens of each one's prompt, at least 1 and less than all.
        token_budget: the most tokens of a pack.
        enough: tokens beyond which a pack begins no further prompt; the budget by default.
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

    def close(self) -> PackedPass:
        """Return the pack."""
        trees = tuple(Tree(start, stop, tuple(tails)) for start, stop, tails in self.trees)
        return PackedPass(self.ids, self.positions, trees, self.rows, self.ends, self.lasts)
