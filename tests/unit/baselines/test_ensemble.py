"""Ensembles: members that count alike, the three ways to join them, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from facetrm.baselines.ensemble import ensemble_rewards
from facetrm.core.errors import FitError

DRAW = np.random.default_rng(0)
REWARDS, REFERENCE = DRAW.normal(size=(4, 30)), DRAW.normal(size=(4, 200))


def standardised(rewards: np.ndarray, reference: np.ndarray) -> np.ndarray:
    rows = zip(rewards, reference, strict=True)
    return np.array([[(x - sum(r) / len(r)) / np.std(list(r)) for x in m] for m, r in rows])


@pytest.mark.parametrize("kind", ["mean", "worst", "uncertainty"])
def test_members_are_joined_as_stated(kind: str) -> None:
    z = standardised(REWARDS, REFERENCE)
    expected = {
        "mean": z.sum(axis=0) / 4,
        "worst": np.array([min(column) for column in z.T]),
        "uncertainty": z.sum(axis=0) / 4 - 0.7 * ((z - z.sum(axis=0) / 4) ** 2).sum(axis=0) / 4,
    }[kind]
    found = ensemble_rewards(REWARDS, reference_MR=REFERENCE, kind=kind, penalty=0.7)
    assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("kind", ["mean", "worst", "uncertainty"])
def test_the_scale_of_a_member_does_not_count(kind: str) -> None:
    scale, shift = np.array([[1.0], [50.0], [0.01], [3.0]]), np.array([[0.0], [7.0], [-2.0], [100.0]])
    plain = ensemble_rewards(REWARDS, reference_MR=REFERENCE, kind=kind)
    moved = ensemble_rewards(scale * REWARDS + shift, reference_MR=scale * REFERENCE + shift, kind=kind)
    assert moved == pytest.approx(plain, abs=1e-9)


def test_where_members_disagree_the_careful_ones_give_less() -> None:
    reference = np.tile(np.array([-1.0, 1.0]), (2, 1))
    agreed, doubted = np.array([[1.0], [1.0]]), np.array([[3.0], [-1.0]])
    both = np.concatenate([agreed, doubted], axis=1)
    assert ensemble_rewards(both, reference_MR=reference) == pytest.approx([1.0, 1.0])
    assert ensemble_rewards(both, reference_MR=reference, kind="worst") == pytest.approx([1.0, -1.0])
    assert ensemble_rewards(both, reference_MR=reference, kind="uncertainty", penalty=0.5) == pytest.approx([1.0, -1.0])


def test_what_is_no_ensemble_is_refused() -> None:
    with pytest.raises(FitError, match="at least two members"):
        ensemble_rewards(REWARDS[:1], reference_MR=REFERENCE[:1])
    with pytest.raises(FitError, match="one row per member"):
        ensemble_rewards(REWARDS, reference_MR=REFERENCE[:3])
    constant = REFERENCE.copy()
    constant[2] = 5.0
    with pytest.raises(FitError, match="member 2 gives all answers the same reward"):
        ensemble_rewards(REWARDS, reference_MR=constant)
