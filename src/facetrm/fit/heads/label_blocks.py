"""Group objectives by the rows they share, so that ridge regression needs one Gram matrix per distinct label mask.

A *mask* is the set of rows that have a label for one objective. A *block* is a set of objectives that are connected by
shared rows. Different blocks share no rows, so they are fitted one after another.

Shapes: N rows, K objectives.
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
    """Objectives that share rows, and the sets of rows whose Gram matrices they need.

    Attributes:
        columns: columns of the objectives in the label matrix.
        parts: sets of rows as boolean masks, [N] each; every set has one Gram matrix.
        parts_of: for each objective, the indices of the parts that together contain each of its rows exactly once.
    """

    columns: tuple[int, ...]
    parts: tuple[Bools, ...]
    parts_of: tuple[tuple[int, ...], ...]

    def by_mask(self) -> dict[tuple[int, ...], list[int]]:
        """Return the objectives of each distinct mask, as positions in ``columns``; they share one decomposition."""
        groups: dict[tuple[int, ...], list[int]] = {}
        for i, parts in enumerate(self.parts_of):
            groups.setdefault(parts, []).append(i)
        return groups


def label_blocks(labelled_NK: Bools) -> list[LabelBlock]:
    """Return the blocks, ordered by their first objective. An objective without labels is in no block.

    The parts of a block are either its distinct row patterns, which are disjoint, or the distinct masks of its
    objectives, whichever are fewer. There are therefore never more Gram matrices than objectives.

    Args:
        labelled_NK: True if the row has a label for the objective, [N, K].
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
    """Return the distinct rows of a boolean table [N, K], and the index of each row among them, [N]."""
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
    """Assign rows to folds. All rows of a prompt are in one fold, and the result does not depend on the row order.

    Prompts with labels for the same objectives are shuffled and dealt out in turn, so every objective is spread evenly.

    Args:
        groups_N: prompt key of each row, [N].
        labelled_NK: True if the row has a label for the objective, [N, K].
        folds: number of folds, each of which is held out in turn. With 1, fold 1 is the held-out part and fold 0 the
            rest.
        validation: share of the prompts in the held-out part if ``folds`` is 1.
        seed: random seed of the shuffle.

    Returns:
        Fold of each row, int64, [N]; -1 for a row without labels.
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
