"""The plan of Gram matrices, and folds that never share a prompt."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from facetrm.fit.heads.label_blocks import assign_folds, label_blocks

MASKS = arrays(bool, st.tuples(st.integers(1, 25), st.integers(1, 6)))


@settings(max_examples=80, deadline=None)
@given(MASKS)
def test_parts_rebuild_every_mask_once(mask: np.ndarray) -> None:
    blocks = label_blocks(mask)
    columns = [k for block in blocks for k in block.columns]
    assert sorted(columns) == np.flatnonzero(mask.any(axis=0)).tolist()
    for block in blocks:
        assert len(block.parts) <= len(np.unique(mask[:, list(block.columns)], axis=1).T)
        for k, parts in zip(block.columns, block.parts_of, strict=True):
            assert np.array_equal(np.sum([block.parts[p] for p in parts], axis=0), mask[:, k].astype(int))
        grouped = block.by_mask()
        for parts, members in grouped.items():
            assert all(block.parts_of[i] == parts for i in members)
        assert sorted(i for members in grouped.values() for i in members) == list(range(len(block.columns)))
    for i, one in enumerate(blocks):
        for other in blocks[:i]:
            rows = mask[:, list(one.columns)].any(axis=1) & mask[:, list(other.columns)].any(axis=1)
            assert not rows.any()


def test_disjoint_layout_has_one_part_per_block() -> None:
    mask = np.zeros((40, 5), dtype=bool)
    mask[:20, :3], mask[20:30, 3], mask[30:, 4] = True, True, True
    blocks = label_blocks(mask)
    assert [block.columns for block in blocks] == [(0, 1, 2), (3,), (4,)]
    assert [len(block.parts) for block in blocks] == [1, 1, 1]


def test_scattered_labels_never_need_more_parts_than_objectives() -> None:
    mask = np.random.default_rng(0).random((500, 6)) < 0.5
    (block,) = label_blocks(mask)
    assert len(block.parts) == 6


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.integers(0, 99))
def test_folds_keep_prompts_whole_and_ignore_order(folds: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, 30, 120)
    mask = rng.random((120, 3)) < 0.6
    fold = assign_folds(groups, mask, folds=folds, validation=0.3, seed=seed)
    used = mask.any(axis=1)
    assert (fold[~used] == -1).all()
    for name in np.unique(groups[used]):
        assert len(np.unique(fold[used & (groups == name)])) == 1
    order = rng.permutation(120)
    assert np.array_equal(assign_folds(groups[order], mask[order], folds=folds, validation=0.3, seed=seed), fold[order])


def test_folds_are_even_within_each_objective() -> None:
    mask = np.zeros((300, 3), dtype=bool)
    mask[:250, 0], mask[250:290, 1], mask[290:, 2] = True, True, True
    fold = assign_folds(np.arange(300), mask, folds=5, validation=0.2, seed=1)
    for k, each in enumerate((50, 8, 2)):
        assert np.bincount(fold[mask[:, k]], minlength=5).tolist() == [each] * 5
    single = assign_folds(np.arange(300), mask, folds=1, validation=0.2, seed=1)
    assert single.sum() == pytest.approx(60, abs=1)
    assert single[290:].sum() == pytest.approx(2, abs=1)


def test_seed_changes_the_folds() -> None:
    mask = np.ones((50, 1), dtype=bool)
    one, two = (assign_folds(np.arange(50), mask, folds=5, validation=0.2, seed=seed) for seed in (0, 1))
    assert not np.array_equal(one, two)
