"""Group advantages of several objectives: one that keeps a gate, and the two usual ones to compare it with.

    ours   A_n = sum_k w_nk z_nk        z_nk = (r_nk - mean_k) / max(s_k, floor)
    GDPO   A_n = sum_k z_nk             z_nk = (r_nk - mean_k) / (s_k + epsilon)
    GRPO   A_n = (r_n - mean) / (s + epsilon)      r_n the reward of the answer

Mean and deviation are those of one group: the answers sampled for one prompt. ``s`` is the sample deviation (divisor
n - 1), as in the trainers. If the columns are contributions w_k(x) r_k of a gate, all of GDPO's columns are divided by
w_k(x) again: it cancels the gate. Trainers shift and scale GDPO's sum over the whole batch, which changes no order.

Shapes: N answers, K objectives.

Reference: GDPO, arXiv 2601.05242; GRPO, arXiv 2402.03300.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any, Final, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from facetrm.core.errors import ConfigError, DataError, short

FLOOR: Final = 0.01
"""Deviation below which a column counts as constant, as a share of the scale of the ratings."""


Values = TypeVar("Values", Tensor, NDArray[Any])
_Values = NDArray[np.float64]


def grouped_advantages(
    ratings_NK: Values, weights_NK: Tensor | ArrayLike, groups: Iterable[Hashable], *, floor: float = FLOOR
) -> Values:
    """Return ``sum_k w_k z_k``, the advantage of each answer that keeps the weights of its prompt's gate.

    A rating or weight that is not a finite number counts as absent: it enters no mean and no deviation, and adds 0. So
    an answer without any gets 0 and changes no other answer of its group. A column that is constant in a group adds 0,
    and so does a group of one answer.

    Args:
        ratings_NK: ratings on comparable scales, such as those of :attr:`facetrm.Score.scores`.
        weights_NK: the weight of each rating, such as :attr:`facetrm.Score.coefficients`; [K] if all answers share it.
        groups: the group of each answer: the prompt or its number.
        floor: the least deviation that a column is divided by.

    Returns:
        The advantages [N]: a tensor like ``ratings_NK`` if that is one, else an array.

    Raises:
        ConfigError: the floor is not above 0.
        DataError: the shapes do not fit.

    Example:
        >>> from facetrm.policy import grouped_advantages
        >>> ratings = [[0.2, 0.9], [0.8, 0.1]]  # two answers to one prompt, rated by two objectives
        >>> grouped_advantages(ratings, [0.9, 0.1], ["prompt", "prompt"]).round(2).tolist()
        [-0.57, 0.57]
        >>> grouped_advantages(ratings, [0.1, 0.9], ["prompt", "prompt"]).round(2).tolist()
        [0.57, -0.57]
    """
    if not (np.isfinite(floor) and floor > 0):
        raise ConfigError(f"floor is {short(floor)}", place="grouped_advantages", fix="give a number above 0")
    ratings = _matrix(ratings_NK, "ratings")
    weights = _array(weights_NK)
    if weights.shape not in (ratings.shape, ratings.shape[1:]):
        raise DataError(
            f"weights have shape {list(weights.shape)}, ratings {list(ratings.shape)}",
            place="grouped_advantages",
            fix="give one weight per rating, or one per objective",
        )
    weights = np.broadcast_to(weights, ratings.shape)
    present = np.isfinite(weights) & np.isfinite(ratings)
    ratings, weights = np.where(present, ratings, np.nan), np.where(present, weights, 0.0)
    centred, deviation = _within(ratings, group_numbers(groups, len(ratings)))
    z = centred / np.maximum(deviation, floor)
    return _like((weights * z).sum(axis=1), ratings_NK)


def gdpo_advantages(columns_NK: Values, groups: Iterable[Hashable], *, epsilon: float = 1e-4) -> Values:
    """Return ``sum_k z_k``, the advantages of GDPO with equal column weights, before the batch is standardised.

    Values that are not finite are absent, as in TRL.

    Args:
        columns_NK: reward columns, such as contributions.
        groups: the group of each answer.
        epsilon: what is added to each deviation; 1e-4 in TRL, 1e-6 in verl.

    Returns:
        The advantages [N], of the kind of ``columns_NK``.

    Raises:
        DataError: the shapes do not fit.
    """
    columns = _matrix(columns_NK, "columns")
    centred, deviation = _within(columns, group_numbers(groups, len(columns)))
    return _like((centred / (deviation + epsilon)).sum(axis=1), columns_NK)


def grpo_advantages(rewards_N: Values, groups: Iterable[Hashable], *, epsilon: float = 1e-4) -> Values:
    """Return the z-scores of the rewards within each group, the advantages of GRPO.

    Args:
        rewards_N: rewards; one that is not finite is absent and gets 0.
        groups: the group of each answer.
        epsilon: what is added to the deviation; 1e-4 in TRL, 1e-6 in verl.

    Returns:
        The advantages [N], of the kind of ``rewards_N``.

    Raises:
        DataError: the shapes do not fit.
    """
    rewards = _array(rewards_N)
    if rewards.ndim != 1:
        raise DataError(f"rewards have shape {list(rewards.shape)}", place="grpo_advantages", fix="give one per answer")
    centred, deviation = _within(rewards[:, None], group_numbers(groups, len(rewards)))
    return _like((centred / (deviation + epsilon))[:, 0], rewards_N)


def group_numbers(groups: Iterable[Hashable], size: int) -> NDArray[np.int64]:
    """Return the number of each answer's group, counted from 0 in order of appearance, [N].

    Args:
        groups: group of each answer: any hashable values, an array or a tensor.
        size: number N of answers.

    Raises:
        DataError: There is not one group per answer.
    """
    known: dict[Hashable, int] = {}
    values = groups.tolist() if isinstance(groups, Tensor | np.ndarray) else list(groups)
    if len(values) != size:
        raise DataError(f"{len(values)} groups for {size} answers", place="groups", fix="give one group per answer")
    return np.array([known.setdefault(value, len(known)) for value in values], dtype=np.int64)


def _within(values: _Values, numbers: NDArray[np.int64]) -> tuple[_Values, _Values]:
    """Return the distance of each value from its group's mean, and the group's sample deviation, both [N, K].

    Absent values have distance 0. So have those of a column whose values are all equal, whatever the mean rounds to.
    """
    present = np.isfinite(values)
    filled = np.where(present, values, 0.0)
    shape = (int(numbers.max(initial=-1)) + 1, values.shape[1])
    count, total, squares = (np.zeros(shape) for _ in range(3))
    low, high = np.full(shape, np.inf), np.full(shape, -np.inf)
    np.add.at(count, numbers, present)
    np.add.at(total, numbers, filled)
    np.minimum.at(low, numbers, np.where(present, values, np.inf))
    np.maximum.at(high, numbers, np.where(present, values, -np.inf))
    mean = total / np.maximum(count, 1)
    varies = (high > low)[numbers]
    centred = np.where(present & varies, filled - mean[numbers], 0.0)
    np.add.at(squares, numbers, centred**2)
    return centred, np.sqrt(squares / np.maximum(count - 1, 1))[numbers]


def _array(values: Any) -> _Values:
    if isinstance(values, Tensor):
        return values.detach().cpu().double().numpy()
    return np.asarray(values, dtype=np.float64)


def _matrix(values: Any, name: str) -> _Values:
    array = _array(values)
    if array.ndim != 2:
        raise DataError(f"{name} have shape {list(array.shape)}", place="advantages", fix="give [answers, objectives]")
    return array


def _like(found: _Values, given: Values) -> Values:
    """Return the advantages as the kind, dtype and device of what was given; whole numbers give floats."""
    if isinstance(given, Tensor):
        dtype = given.dtype if given.is_floating_point() else torch.float32
        return torch.from_numpy(found).to(dtype=dtype, device=given.device)
    kept = given.dtype if isinstance(given, np.ndarray) and given.dtype.kind == "f" else np.float64
    return found.astype(kept)
