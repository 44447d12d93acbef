"""Measure whether longer answers win within a prompt. A pooled correlation of zero does not rule that out.

tau = mean over prompts of  Spearman(reward, length)   over the prompt's responses
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata

from facetrm.core.errors import FitError
from facetrm.core.statistics import Interval, bootstrap_mean


def within_prompt_rank_correlation(
    reward_N: ArrayLike,
    length_N: ArrayLike,
    groups_N: ArrayLike,
    *,
    clusters: ArrayLike | None = None,
    samples: int = 1000,
    seed: int = 0,
) -> Interval:
    """Return the mean rank correlation of reward and response length within prompts, -1 to 1.

    For two responses, it is 1 if the longer one wins, -1 if the shorter one wins and 0 for a tie. Prompts with a single
    response, or with responses of equal length, are left out. Equal rewards count as 0.

    Args:
        reward_N: final reward of each response, [N].
        length_N: length of each response, [N], in any unit.
        groups_N: prompt key of each row, [N]. To count each pair separately, pass the index of its pair.
        clusters: prompt key of each row for the bootstrap, [N]; None if ``groups_N`` are already prompts.
        samples: number of bootstrap samples over prompts.
        seed: random seed of the bootstrap.

    Returns:
        The mean with its 95% interval; NaN if no prompt has responses of different lengths.

    Raises:
        FitError: arrays with different numbers of rows, or a reward or length that is not finite.
    """
    reward, length = np.asarray(reward_N, dtype=np.float64), np.asarray(length_N, dtype=np.float64)
    groups = np.asarray(groups_N)
    prompts = groups if clusters is None else np.asarray(clusters)
    if not (reward.ndim == 1 and reward.shape == length.shape == groups.shape == prompts.shape):
        raise FitError(
            f"the shapes differ: rewards {list(reward.shape)}, lengths {list(length.shape)}, "
            f"groups {list(groups.shape)}, clusters {list(prompts.shape)}",
            place="length audit",
            fix="give one of each per row",
        )
    if not (np.isfinite(reward).all() and np.isfinite(length).all()):
        row = int(np.flatnonzero(~(np.isfinite(reward) & np.isfinite(length)))[0])
        raise FitError("a reward or length is not finite", place=f"length audit row {row}", fix="score that row again")
    _, code = np.unique(groups, return_inverse=True)
    order = np.argsort(code, kind="stable")
    sizes = np.bincount(code)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    values: list[np.ndarray[tuple[int], np.dtype[np.float64]]] = []
    of_prompt: list[np.ndarray[tuple[int], np.dtype[np.generic]]] = []
    for size in np.unique(sizes[sizes > 1]):
        rows = order[starts[sizes == size][:, None] + np.arange(size)]
        r = rankdata(reward[rows], axis=1) - (size + 1) / 2
        v = rankdata(length[rows], axis=1) - (size + 1) / 2
        measured = (v != 0).any(axis=1)
        r, v = r[measured], v[measured]
        norm = np.sqrt((r * r).sum(axis=1) * (v * v).sum(axis=1))
        values.append(np.divide((r * v).sum(axis=1), norm, out=np.zeros(len(r)), where=norm > 0))
        of_prompt.append(prompts[rows[measured, 0]])
    found = np.concatenate(values) if values else np.zeros(0)
    clusters = np.concatenate(of_prompt) if of_prompt else found
    return bootstrap_mean(found, clusters, samples=samples, seed=seed, within=(-1.0, 1.0))
