"""Group advantages: the equations, what is absent, and that only one of them keeps a gate."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from facetrm.core.errors import ConfigError, DataError
from facetrm.core.statistics import pearson, spearman
from facetrm.policy.advantages import gdpo_advantages, group_numbers, grouped_advantages, grpo_advantages

GROUP, PROMPTS, K = 6, 40, 4


def planted(seed: int = 0):
    """Ratings of the answers to many prompts, the gate of each prompt, and the group of each answer."""
    random = np.random.default_rng(seed)
    ratings = random.uniform(size=(PROMPTS * GROUP, K))
    return ratings, gates(seed + 1), np.repeat(np.arange(PROMPTS), GROUP)


def gates(seed: int):
    """One gate per prompt, which listens mostly to one or two objectives and a little to each."""
    drawn = np.random.default_rng(seed).dirichlet(np.full(K, 0.3), size=PROMPTS)
    return np.repeat(0.9 * drawn + 0.1 / K, GROUP, axis=0)


def by_hand(ratings, weights, groups, floor):
    """The equation, group by group and column by column."""
    found = np.zeros(len(ratings))
    for group in set(groups.tolist()):
        rows = np.flatnonzero(groups == group)
        for k in range(ratings.shape[1]):
            column = ratings[rows, k]
            z = (column - column.mean()) / max(column.std(ddof=1), floor)
            found[rows] += weights[rows, k] * z
    return found


def test_the_equation() -> None:
    ratings, weights, groups = planted()
    ratings[:GROUP, 0] = 0.5 + 1e-4 * np.arange(GROUP)  # below the floor
    expected = by_hand(ratings, weights, groups, 0.01)
    np.testing.assert_allclose(grouped_advantages(ratings, weights, groups), expected, atol=1e-12)
    shuffled = np.random.default_rng(1).permutation(len(ratings))
    mixed = grouped_advantages(ratings[shuffled], weights[shuffled], groups[shuffled].astype(str))
    np.testing.assert_allclose(mixed, expected[shuffled], atol=1e-12)


def test_gdpo_cancels_the_gate_and_ours_keeps_it() -> None:
    ratings, weights, groups = planted()
    other = gates(9)
    utility = (weights * ratings).sum(axis=1)
    gdpo, ours = gdpo_advantages(weights * ratings, groups), grouped_advantages(ratings, weights, groups)
    # Another gate, another utility: GDPO gives the same advantages but for its epsilon, ours follow the gate.
    assert pearson(gdpo, gdpo_advantages(other * ratings, groups)) > 0.999
    assert pearson(ours, grouped_advantages(ratings, other, groups)) < 0.6
    within = {
        name: np.mean([spearman(found[groups == g], utility[groups == g]) for g in range(PROMPTS)])
        for name, found in {"gdpo": gdpo, "ours": ours, "grpo": grpo_advantages(utility, groups)}.items()
    }
    assert within["grpo"] == pytest.approx(1.0)
    assert within["ours"] > 0.9 > 0.75 > within["gdpo"]


def test_one_column_of_weight_one_is_grpo() -> None:
    ratings, _, groups = planted()
    ours = grouped_advantages(ratings[:, :1], [1.0], groups)
    np.testing.assert_allclose(ours, grpo_advantages(ratings[:, 0], groups, epsilon=0.0), atol=1e-12)
    np.testing.assert_allclose(ours, gdpo_advantages(ratings[:, :1], groups, epsilon=0.0), atol=1e-12)


def test_the_references_agree_with_plain_torch() -> None:
    ratings, _, groups = planted()
    grouped = torch.tensor(ratings).view(PROMPTS, GROUP, K)
    z = (grouped - grouped.mean(dim=1, keepdim=True)) / (grouped.std(dim=1, keepdim=True) + 1e-4)
    np.testing.assert_allclose(gdpo_advantages(ratings, groups), z.sum(dim=-1).flatten().numpy(), atol=1e-12)
    np.testing.assert_allclose(grpo_advantages(ratings[:, 1], groups), z[..., 1].flatten().numpy(), atol=1e-12)


@pytest.mark.parametrize("value", [0.1, 1e-30, 1 / 3, 1e9])
def test_a_constant_column_gives_nothing(value: float) -> None:
    ratings = np.full((7, 1), value, dtype=np.float32)
    for found in (grouped_advantages(ratings, [1.0], [0] * 7), gdpo_advantages(ratings, [0] * 7)):
        assert found.tolist() == [0.0] * 7


def test_the_noise_of_a_constant_column_stays_noise() -> None:
    noisy = 0.5 + 1e-6 * np.random.default_rng(0).standard_normal((8, 1))
    assert np.abs(grouped_advantages(noisy, [1.0], [0] * 8)).max() < 1e-3
    assert np.abs(gdpo_advantages(noisy, [0] * 8, epsilon=1e-8)).max() > 1.0  # what the floor is for


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_failed_answer_gets_nothing_and_changes_no_other(bad: float) -> None:
    ratings, weights, groups = planted()
    kept = np.arange(len(ratings)) != 3
    alone = grouped_advantages(ratings[kept], weights[kept], groups[kept])
    for spoiled in ("ratings", "weights", "both"):
        r, w = ratings.copy(), weights.copy()
        if spoiled != "weights":
            r[3] = bad
        if spoiled != "ratings":
            w[3] = bad
        found = grouped_advantages(r, w, groups)
        assert found[3] == 0.0
        np.testing.assert_allclose(found[kept], alone, atol=1e-12)
    columns = ratings.copy()
    columns[3] = bad
    np.testing.assert_allclose(gdpo_advantages(columns, groups)[kept], gdpo_advantages(ratings[kept], groups[kept]))


def test_an_absent_rating_leaves_the_others_of_its_answer() -> None:
    ratings, weights, groups = planted()
    ratings[2, 1] = np.nan
    found = grouped_advantages(ratings, weights, groups)
    without = np.delete(ratings, 1, axis=1), np.delete(weights, 1, axis=1)
    assert found[2] == pytest.approx(grouped_advantages(*without, groups)[2])
    assert np.isfinite(found).all()
    assert grouped_advantages(np.full((2, 2), np.nan), [1.0, 1.0], [0, 0]).tolist() == [0.0, 0.0]


def test_groups_of_one_and_no_answers_give_nothing() -> None:
    assert grouped_advantages([[0.2, 0.9]], [1.0, 1.0], ["a"]).tolist() == [0.0]
    assert grouped_advantages(np.zeros((0, 3)), np.zeros((0, 3)), []).tolist() == []
    assert grpo_advantages(np.array([]), []).tolist() == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_tensors_give_tensors_and_arrays_give_arrays(dtype: torch.dtype) -> None:
    ratings, weights, groups = planted()
    given = torch.tensor(ratings, dtype=dtype, requires_grad=dtype == torch.float32)
    found = grouped_advantages(given, torch.tensor(weights), torch.tensor(groups))
    assert found.dtype == dtype
    assert not found.requires_grad
    assert grpo_advantages(given[:, 0], groups).dtype == gdpo_advantages(given, groups).dtype == dtype
    single = grouped_advantages(ratings.astype(np.float32), weights, groups)
    assert isinstance(single, np.ndarray)
    assert single.dtype == np.float32
    if dtype == torch.float32:
        np.testing.assert_allclose(found.numpy(), single, atol=1e-6)
    assert grouped_advantages(torch.tensor([[0], [1]]), [1.0], [0, 0]).dtype == torch.float32


def test_groups_are_numbered_in_order_of_appearance() -> None:
    for groups in (["b", "a", "b"], np.array(["b", "a", "b"]), torch.tensor([7, 2, 7]), iter([(1, 2), None, (1, 2)])):
        assert group_numbers(groups, 3).tolist() == [0, 1, 0]


def test_what_does_not_fit_is_refused() -> None:
    square = np.zeros((2, 2))
    with pytest.raises(DataError, match=r"3 groups for 2 answers; give one group per answer"):
        grouped_advantages(square, square, [0, 0, 0])
    with pytest.raises(DataError, match=r"weights have shape \[3\], ratings \[2, 2\]"):
        grouped_advantages(square, [1.0, 1.0, 1.0], [0, 0])
    with pytest.raises(DataError, match=r"ratings have shape \[2\]"):
        grouped_advantages(np.zeros(2), [1.0], [0, 0])
    with pytest.raises(DataError, match=r"rewards have shape \[2, 2\]"):
        grpo_advantages(square, [0, 0])
    for floor in (0.0, -1.0, float("nan")):
        with pytest.raises(ConfigError, match="floor is"):
            grouped_advantages(square, square, [0, 0], floor=floor)


def test_the_order_of_answers_does_not_matter() -> None:
    ratings, weights, groups = planted(3)
    first = grouped_advantages(ratings[:3], weights[:3], groups[:3])
    for order in itertools.permutations(range(3)):
        rows = list(order)
        np.testing.assert_allclose(grouped_advantages(ratings[rows], weights[rows], groups[rows]), first[rows])
