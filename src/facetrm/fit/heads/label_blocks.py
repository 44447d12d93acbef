"""Who shares rows with whom: the plan that keeps ridge at one Gram matrix per distinct label mask.

Shapes: N rows, K objectives. A *mask* is the set of rows that one objective labels; a *block* is a set of objectives
connected by shared rows; blocks share none, so they are fitted one after another.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class LabelBlock:
    """Objectives that share rows, and the row sets whose Gram matrices they need.

    Attributes:
        columns: the objectives, as columns of the label matrix.
        parts: row sets [N], one Gram matrix each.
        parts_of: per objective, the parts that together are exactly its rows, each row once.
    """

    columns: tuple[int, ...]
    parts: tuple[Bools, ...]
    parts_of: tuple[tuple[int, ...], ...]

    def by_mask(self) -> dict[tuple[int, ...], list[int]]:
        """Return the objectives (positions in ``columns``) of each distinct mask: they share a decomposition."""
        groups: dict[tuple[int, ...], list[int]] = {}
        for i, parts in enumerate(self.parts_of):
            groups.setdefault(parts, []).append(i)
        return groups


def label_blocks(labelled_NK: Bools) -> list[LabelBlock]:
    """Return the blocks of ``labelled_NK`` (True where rated), ordered by their first objective.

    Within a block the row sets are either its distinct row patterns (disjoint: each row is multiplied once) or the
    objectives' distinct masks, whichever is fewer, so there are never more Gram matrices than objectives. An
    objective without a label is in no block.
    """
    patterns, pattern_N = distinct_rows(labelled_NK)
    shared = patterns.T.astype(np.float64) @ patterns.astype(np.float64)
    _, component = connected_components(csr_array(shared > 0), directed=False)
    blocks = []
    for code in dict.fromkeys(component.tolist()):
        columns = tuple(int(k) for k in np.flatnonzero((component == code) & patterns.any(axis=0)))
        if columns:
            blocks.append(_block(columns, patterns[:, list(columns)], pattern_N))
    return blocks


def distinct_rows(table: Bools) -> tuple[Bools, Ints]:
    """Return the distinct rows of a bool table [N, K], and for each row which of them it is, [N]."""
    packed = np.ascontiguousarray(np.packbits(table, axis=1))
    keys = packed.view(f"V{packed.shape[1]}").ravel()
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    return table[first], inverse.ravel().astype(np.int64)


def _block(columns: tuple[int, ...], patterns: Bools, pattern_N: Ints) -> LabelBlock:
    """Return one block from the row patterns of its objectives."""
    masks, mask_of = distinct_rows(patterns.T)
    kinds, kind_of = distinct_rows(patterns)
    rated = [p for p in range(len(kinds)) if kinds[p].any()]
    if len(rated) > len(masks):
        return LabelBlock(columns, tuple(mask[pattern_N] for mask in masks), tuple((int(m),) for m in mask_of))
    kind_N = kind_of[pattern_N]
    parts_of = tuple(tuple(i for i, p in enumerate(rated) if kinds[p, k]) for k in range(len(columns)))
    return LabelBlock(columns, tuple(kind_N == p for p in rated), parts_of)


def assign_folds(
    groups_N: NDArray[np.generic], labelled_NK: Bools, *, folds: int, validation: float, seed: int
) -> Ints:
    """Return a fold per row; rows of one group (prompt) share a fold, and the order of the rows does not matter.

    Groups are shuffled within the objectives they label, so every objective is spread evenly over the folds.

    Args:
        groups_N: the prompt key of each row.
        labelled_NK: True where rated.
        folds: with 2 or more, folds 0..folds-1 take turns as the held-out one; with 1, fold 1 is a single held-out
            part and fold 0 the rest.
        validation: share of the groups in that single part.
        seed: random seed of the shuffle.

    Returns:
        ``fold_N`` int64; -1 for a row without any label.
    """
    used = labelled_NK.any(axis=1)
    fold_N = np.full(len(groups_N), -1, dtype=np.int64)
    names, code = np.unique(groups_N[used], return_inverse=True)
    labelled = np.stack([np.bincount(code.ravel(), column) > 0 for column in labelled_NK[used].T], axis=1)
    _, signature = distinct_rows(labelled)
    rng = np.random.default_rng(seed)
    order = np.lexsort((rng.random(len(names)), signature))
    place = np.empty(len(names), dtype=np.int64)
    place[order] = np.arange(len(names))
    if folds > 1:
        group_fold = place % folds
    else:
        start = rng.random()
        group_fold = (np.floor((place + 1) * validation + start) > np.floor(place * validation + start)).astype(
            np.int64
        )
    fold_N[used] = group_fold[code.ravel()]
    return fold_N
