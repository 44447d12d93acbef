from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from facetrm.backbone.passes.batching import pad_right, token_batches


@given(st.lists(st.integers(1, 100), max_size=60), st.integers(1, 300))
def test_every_row_once_and_within_the_budget(lengths, budget):
    batches = token_batches(lengths, token_budget=budget)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[row] for row in batch) <= budget
    flat = [lengths[row] for batch in batches for row in batch]
    assert flat == sorted(flat, reverse=True)


def test_batches_are_filled():
    assert token_batches([5, 1, 5, 1, 20, 5], token_budget=10) == [[4], [0, 2], [5, 1], [3]]
    assert len(token_batches([7] * 100, token_budget=70)) == 10


def test_padding_on_the_right_with_a_token_in_use():
    ids, mask = pad_right([[4, 2], [2, 5, 2]], pad=2)
    assert ids.tolist() == [[4, 2, 2], [2, 5, 2]]
    assert mask.tolist() == [[1, 1, 0], [1, 1, 1]]
    assert ids.dtype == torch.int64
