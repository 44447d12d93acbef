"""Credit: every rule against a loop over the answers, ties included."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from facetrm.evaluate.benchmarks.credit import HALF, LOSS, best_credit, padded, pair_credit, tied_pairs


def samples(count: int = 200) -> tuple[list[list[float]], list[int]]:
    rng = np.random.default_rng(0)
    scores, right = [], []
    for _ in range(count):
        size = int(rng.integers(2, 7))
        scores.append(rng.integers(0, 4, size=size).astype(float).tolist())
        right.append(int(rng.integers(0, size + 1)))
    return scores, right


@pytest.mark.parametrize("tie", [HALF, LOSS])
def test_pair_credit_is_the_share_of_ordered_pairs(tie: float) -> None:
    scores, right = samples()
    found = pair_credit(padded(scores), np.array(right), tie=tie)
    for n, row in enumerate(scores):
        pairs = list(itertools.product(row[: right[n]], row[right[n] :]))
        if not pairs:
            assert np.isnan(found[n])
            continue
        assert found[n] == pytest.approx(np.mean([1.0 if a > b else tie if a == b else 0.0 for a, b in pairs]))


def test_best_credit_is_shared_by_the_best() -> None:
    scores, right = samples()
    found = best_credit(padded(scores), np.array(right))
    for n, row in enumerate(scores):
        best = [i for i, x in enumerate(row) if x == max(row)]
        assert found[n] == pytest.approx(sum(i < right[n] for i in best) / len(best))
    assert best_credit(padded([[1.0, 1.0, 1.0, 1.0]]), np.array([1])).tolist() == [0.25]


def test_ties_are_counted_pair_by_pair() -> None:
    scores, right = samples()
    ties, pairs = tied_pairs(padded(scores), np.array(right))
    for n, row in enumerate(scores):
        both = list(itertools.product(row[: right[n]], row[right[n] :]))
        assert (ties[n], pairs[n]) == (sum(a == b for a, b in both), len(both))


def test_no_question_is_no_credit() -> None:
    empty = padded([])
    assert empty.shape == (0, 0)
    assert len(pair_credit(empty, np.zeros(0, dtype=int))) == len(best_credit(empty, np.zeros(0, dtype=int))) == 0
