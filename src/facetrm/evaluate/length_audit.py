"""Does the longer answer win inside a prompt? A pooled correlation of zero does not say so.

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
    """Return the mean rank correlation of the final reward with length inside prompts, in -1..1.

    For two responses it is 1 where the longer one wins, -1 where the shorter wins, 0 for a tie. Prompts whose responses
    all have one length (or that have one response) say nothing and are left out; equal rewards count as 0.

    Args:
        reward_N: final rewards.
        length_N: lengths of the responses, in any unit.
        groups_N: prompt key of each row; the number of its pair, where each pair is to count by itself.
        clusters: prompt key of each row for the bootstrap; None where the groups are prompts already.
        samples: bootstrap resamples over prompts.
        seed: random seed of the resampling.

    Returns:
        The mean with its 95% interval; NaN when no prompt has responses of different lengths.

    Raises:
        FitError: arrays of different lengths, or a reward or length that is not finite.
    """
    reward, length = np.asarray(reward_N, dtype=np.float64), np.asarray(length_N, dtype=np.float64)
    groups = np.asarray(groups_N)
    prompts = groups if clusters is None else np.asarray(clusters)
    if not (reward.ndim == 1 and reward.shape == length.shape == groups.shape == prompts.shape):
        raise FitError(
            f"rewards {list(reward.shape)}, lengths {list(length.shape)}, groups {list(groups.shape)}, "
            f"clusters {list(prompts.shape)}",
            place="length audit",
            fix="give one of each per row",
        )
    if not (np.isfinite(reward).all() and np.isfinite(length).all()):
        row = int(np.flatnonzero(~(np.isfinite(reward) & np.isfinite(length)))[0])
        raise FitError("a reward or length is not finite", place=f"length audit row {row}", fix="score it again")
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
