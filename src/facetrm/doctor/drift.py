"""How far one list of rewards is from another: drift relative to the spread, pairs that flip, pairs that tie.

    spread     = standard deviation of the compared rewards      drift = |reward - compared|
    resolution = 32 float32 steps at the size of the rewards: summing in another order can change this much

Shapes: N conversations, P pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from facetrm.doctor.findings import Drift

_STEPS: Final = 32 * 2.0**-23


def answer_pairs(sizes: Sequence[int]) -> NDArray[np.int64]:
    """Return the pairs of rows to compare, [P, 2]: every two responses to one prompt.

    Args:
        sizes: the number of responses to each prompt, in the order of the rows. If no prompt has two responses, every
            two rows form a pair.
    """
    starts = np.cumsum([0, *sizes])
    if max(sizes, default=0) < 2:
        starts = np.array([0, starts[-1]])
    pairs = [np.stack(np.triu_indices(int(end - start), k=1), axis=1) + start for start, end in pairwise(starts)]
    return np.concatenate(pairs).astype(np.int64) if pairs else np.zeros((0, 2), dtype=np.int64)


def resolution(rewards: Sequence[float]) -> float:
    """Return the difference up to which two rewards count as equal: 32 float32 steps at their size.

    Args:
        rewards: the rewards. Values that are not finite are ignored.
    """
    values = np.asarray(rewards, dtype=np.float64)
    return _STEPS * float(np.abs(values[np.isfinite(values)]).max(initial=0.0))


def has_spread(rewards: Sequence[float]) -> bool:
    """Return whether ``rewards`` differ by more than rounding.

    Args:
        rewards: the rewards of several conversations.
    """
    values = np.asarray(rewards, dtype=np.float64)
    return not np.isfinite(values).all() or float(np.ptp(values)) > resolution(rewards) if len(values) else False


def equal_rewards(rewards: Sequence[float]) -> str:
    """Return how many ``rewards`` there are and what each is, where they are several and all equal; else nothing.

    Args:
        rewards: of several conversations.
    """
    if len(rewards) < 2 or has_spread(rewards):
        return ""
    return f"{len(rewards)} conversations, each {rewards[0]:g}, to within {resolution(rewards):.1g}"


def spread(rewards: Sequence[float]) -> float:
    """Return the standard deviation of ``rewards``. If they are all equal, return their size, so it is never zero.

    Args:
        rewards: the rewards of several conversations.
    """
    values = np.asarray(rewards, dtype=np.float64)
    return float(values.std()) if has_spread(rewards) else max(float(np.abs(values).max(initial=0.0)), 1e-6)


def drift(rewards: Sequence[float], compared: Sequence[float], *, pairs_P2: NDArray[np.int64]) -> Drift:
    """Measure how far ``rewards`` are from ``compared``. A reward that is not finite counts as infinitely far.

    Args:
        rewards: the rewards of the reading under test, [N].
        compared: the rewards of the reading that it is compared with, [N].
        pairs_P2: the pairs from :func:`answer_pairs`.
    """
    a, b = np.asarray(rewards, dtype=np.float64), np.asarray(compared, dtype=np.float64)
    unit, step = spread(compared), resolution(compared)
    moved = np.abs(a - b)
    moved[~np.isfinite(moved)] = np.inf
    before, after = (x[pairs_P2[:, 0]] - x[pairs_P2[:, 1]] for x in (b, a))
    apart_before, apart_after = np.abs(before) > step, ~(np.abs(after) <= step)
    largest, mean = float(moved.max(initial=0.0)), float(moved.mean()) if len(moved) else 0.0
    return Drift(
        largest=largest,
        mean=mean,
        spread=unit,
        largest_spreads=largest / unit,
        mean_spreads=mean / unit,
        pairs=len(pairs_P2),
        flips=int(((before * after < 0) & apart_before & apart_after).sum()),
        ties=int((apart_before & ~apart_after).sum()),
        spreads=has_spread(compared),
    )


def in_bf16(rewards: Sequence[float]) -> list[float]:
    """Return the rewards rounded to bfloat16, the best that a head in bfloat16 could give."""
    rounded: list[float] = torch.tensor(rewards, dtype=torch.float64).to(torch.bfloat16).to(torch.float64).tolist()
    return rounded


def bf16_step(rewards: Sequence[float]) -> float:
    """Return the gap between neighbouring bfloat16 numbers at the mean size of ``rewards``: 2^(exponent - 7)."""
    size = float(np.abs(np.asarray(rewards, dtype=np.float64)).mean())
    return float(2.0 ** (np.floor(np.log2(size)) - 7)) if size > 0 else 0.0
