"""Intervals over the seeds of an experiment, and over the prompts of each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t as student

from facetrm.core.errors import FitError
from facetrm.core.statistics import Floats


@dataclass(frozen=True)
class SeedInterval:
    """A mean over seeds with its interval.

    Attributes:
        value: Mean of the seeds' means.
        low: Lower end of the interval.
        high: Upper end of the interval.
        level: Confidence level, 0 to 1.
        method: What the interval is: ``Student's t over N seeds``, and ``and their P prompts`` where seeds share any.
        seeds: Mean of each seed.
    """

    value: float
    low: float
    high: float
    level: float
    method: str
    seeds: tuple[float, ...]


def interval_over_seeds(
    values: Sequence[ArrayLike],
    groups: Sequence[ArrayLike],
    *,
    level: float = 0.95,
    within: tuple[float, float] = (-math.inf, math.inf),
) -> SeedInterval:
    """Return the mean over seeds of the mean of ``values``, with an interval over seeds and prompts.

    ``variance = seeds + prompts - cells``: that of the seeds' means, plus that of the prompts, minus that of each
    prompt in each seed, which the first two both contain. It is never below that of the seeds. Where every seed has
    its own prompts, the last two cancel: the spread of the means then contains the prompts. Where seeds share their
    prompts, that spread alone would leave the prompts out. Student's t has the degrees of freedom of Welch and
    Satterthwaite. A hierarchical bootstrap of five seeds is too narrow: it takes the spread of five values as known.

    Args:
        values: For each seed, the value of each row, such as the credit of each pair or the difference of two
            systems' credits, [N].
        groups: For each seed, the prompt of each row, [N]. One name in two seeds is one prompt.
        level: Confidence level, 0 to 1.
        within: Least and greatest value that a row can have; the interval is cut there.

    Raises:
        FitError: Fewer than two seeds, a seed without a row, or groups of other length.

    Example:
        >>> from facetrm.core import interval_over_seeds
        >>> credit = [[1, 1, 0, 1], [1, 0, 0, 1], [1, 1, 1, 1]]
        >>> own = [[f"{seed}-a", f"{seed}-a", f"{seed}-b", f"{seed}-b"] for seed in range(3)]
        >>> found = interval_over_seeds(credit, own, within=(0.0, 1.0))
        >>> found.value, round(found.low, 2), found.method
        (0.75, 0.13, "Student's t over 3 seeds")
        >>> interval_over_seeds(credit, [["a", "a", "b", "b"]] * 3).method
        "Student's t over 3 seeds and their 2 prompts"

    Reference: Cameron, Gelbach and Miller (2011), "Robust Inference with Multiway Clustering".
    """
    rows = [np.asarray(part, dtype=np.float64) for part in values]
    names = [np.asarray(part) for part in groups]
    if len(rows) < 2 or [len(x) for x in rows] != [len(g) for g in names] or not all(map(len, rows)):
        raise FitError(
            f"rows {[len(x) for x in rows]} and groups {[len(g) for g in names]} by seed",
            place="interval over seeds",
            fix="give two seeds or more, each with rows and one group per row",
        )
    means, count = np.array([x.mean() for x in rows]), len(rows)
    value, of_seeds = float(means.mean()), float(means.var(ddof=1)) / count
    share_N = np.concatenate([(x - x.mean()) / (len(x) * count) for x in rows])
    seed_N = np.repeat(np.arange(count), [len(x) for x in rows])
    _, prompt_N = np.unique(np.concatenate(names), return_inverse=True)
    prompts = int(prompt_N.max()) + 1
    _, cell_N = np.unique(prompt_N.ravel() * count + seed_N, return_inverse=True)
    shared = int(cell_N.max()) + 1 > prompts
    of_prompts = max(_spread(share_N, prompt_N) - _spread(share_N, cell_N), 0.0) if shared else 0.0
    variance = of_seeds + of_prompts
    half = 0.0
    if variance > 0:
        freedom = variance**2 / (of_seeds**2 / (count - 1) + of_prompts**2 / max(prompts - 1, 1))
        half = float(student.ppf((1.0 + level) / 2.0, freedom)) * variance**0.5
    method = f"Student's t over {count} seeds" + (f" and their {prompts} prompts" if shared else "")
    low, high = max(value - half, within[0]), min(value + half, within[1])
    return SeedInterval(value, low, high, level, method, tuple(means.tolist()))


def _spread(share_N: Floats, code_N: NDArray[np.integer]) -> float:
    """Return the variance of a sum of rows whose clusters are drawn anew."""
    sums = np.bincount(code_N.ravel(), weights=share_N)
    return float(sums @ sums) * len(sums) / max(len(sums) - 1, 1)
