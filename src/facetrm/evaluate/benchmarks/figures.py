"""Figures of a benchmark: weighted sums of means over strata, with bootstrap intervals over prompts.

    figure = sum_l w_l * mean of a column over the rows of leaf l

A leaf is one stratum or several pooled ones. Whole prompts are resampled within each leaf. If a leaf has fewer than
FEW_CLUSTERS prompts, the interval is Student's t with the degrees of freedom of Welch and Satterthwaite instead.

Shapes: N rows, S systems, B bootstrap samples, C prompts.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from facetrm.core.statistics import FEW_CLUSTERS, Floats, Interval

CREDIT: Final = "credit"
Columns: TypeAlias = Mapping[str, Floats]
"""Credit of each row by column, [N] each; NaN where a column has no meaning for a row."""
_BLOCK: Final = 100


@final
@dataclass(frozen=True)
class Term:
    """The mean of a column over some strata, times a weight."""

    strata: frozenset[str]
    column: str
    weight: float


@final
@dataclass(frozen=True)
class Figure:
    """A weighted sum of means.

    Attributes:
        parts: The means and their weights.
        level: ``total``, ``section`` or ``subset``.
        within: Least and greatest value that it can have.
    """

    parts: tuple[Term, ...]
    level: Literal["total", "section", "subset"]
    within: tuple[float, float] = (0.0, 1.0)

    @property
    def strata(self) -> frozenset[str]:
        """All strata of the figure."""
        return frozenset().union(*(part.strata for part in self.parts))


def mean_over(
    strata: Iterable[str], *, column: str = CREDIT, level: Literal["total", "section", "subset"] = "subset"
) -> Figure:
    """Return the figure that is the mean of a column over the rows of the strata.

    Args:
        strata: Names of the strata, pooled.
        column: Name of the column.
        level: ``total``, ``section`` or ``subset``.
    """
    return Figure((Term(frozenset(strata), column, 1.0),), level)


def combined(
    figures: Sequence[tuple[Figure, float]],
    *,
    level: Literal["total", "section", "subset"],
    within: tuple[float, float] = (0.0, 1.0),
) -> Figure:
    """Return the weighted mean of figures.

    Args:
        figures: Figures with their weights; the weights are divided by their sum.
        level: ``total``, ``section`` or ``subset``.
        within: Least and greatest value that the result can have.
    """
    total = sum(weight for _, weight in figures)
    parts = [Term(p.strata, p.column, p.weight * weight / total) for figure, weight in figures for p in figure.parts]
    return Figure(tuple(parts), level, within)


def measure_figures(
    systems: Mapping[str, Columns],
    figures: Mapping[str, Figure],
    *,
    strata: Sequence[str],
    groups: Sequence[str],
    samples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, dict[str, Interval]]:
    """Return each figure of each system, with an interval.

    All systems share the resamples, so the figures of a difference of two systems' credits have the intervals of the
    paired difference.

    Args:
        systems: Credits by column, by name of the system.
        figures: Figures by name.
        strata: Stratum of each row, [N].
        groups: Prompt key of each row, [N].
        samples: Number of bootstrap samples B.
        seed: Seed of the bootstrap.
        level: Confidence level of the intervals, 0 to 1.

    Returns:
        Interval by figure, then by system; NaN if a figure has no rows.
    """
    names, codes = np.unique(np.asarray(strata, dtype=np.str_), return_inverse=True)
    prompts = np.unique(np.asarray(groups, dtype=np.str_), return_inverse=True)[1].ravel()
    leaves = _Leaves(names.tolist(), codes.ravel(), prompts, samples, seed)
    return {
        name: dict(zip(systems, _intervals(figure, list(systems.values()), leaves, level), strict=True))
        for name, figure in figures.items()
    }


@final
class _Leaves:
    """The rows, prompts and resamples of each leaf, computed once."""

    def __init__(self, names: list[str], codes: NDArray[np.intp], prompts: NDArray[np.intp], samples: int, seed: int):
        self._names, self._codes, self._prompts = names, codes, prompts
        self._samples, self._seed = samples, seed
        self._rows: dict[frozenset[str], tuple[NDArray[np.intp], NDArray[np.intp], int]] = {}
        self._counts: dict[frozenset[str], NDArray[np.float32]] = {}

    def rows(self, strata: frozenset[str]) -> tuple[NDArray[np.intp], NDArray[np.intp], int]:
        """Return the rows of a leaf, the prompt of each, and the number of prompts."""
        if strata not in self._rows:
            wanted = np.array([name in strata for name in self._names], dtype=bool)
            rows = np.flatnonzero(wanted[self._codes]) if len(self._codes) else np.zeros(0, dtype=np.intp)
            found, prompt = np.unique(self._prompts[rows], return_inverse=True)
            self._rows[strata] = rows, prompt.ravel(), len(found)
        return self._rows[strata]

    def draws(self, strata: frozenset[str], values_RS: Floats) -> Floats:
        """Return the mean of the values over the leaf's rows in each resample, [B, S]."""
        _, prompt, clusters = self.rows(strata)
        sums_CS = np.zeros((clusters, values_RS.shape[1]))
        np.add.at(sums_CS, prompt, values_RS)
        sizes_C = np.bincount(prompt, minlength=clusters).astype(np.float64)
        rng = np.random.default_rng([self._seed, zlib.crc32("\x1f".join(sorted(strata)).encode())])
        means = np.empty((self._samples, values_RS.shape[1]))
        for start in range(0, self._samples, _BLOCK):
            size = min(_BLOCK, self._samples - start)
            drawn = rng.integers(clusters, size=(size, clusters)) + clusters * np.arange(size)[:, None]
            counts_BC = np.bincount(drawn.ravel(), minlength=size * clusters).reshape(size, clusters).astype(np.float64)
            means[start : start + size] = (counts_BC @ sums_CS) / np.maximum(counts_BC @ sizes_C, 1e-12)[:, None]
        return means


def _intervals(figure: Figure, systems: Sequence[Columns], leaves: _Leaves, level: float) -> list[Interval]:
    """Return the interval of one figure for each system."""
    strata = dict.fromkeys(part.strata for part in figure.parts)
    if not systems or not all(leaves.rows(leaf)[2] for leaf in strata):
        return [Interval(float("nan"), float("nan"), float("nan"), level) for _ in systems]
    values = {
        leaf: np.stack([_leaf_values(figure, leaf, columns, leaves.rows(leaf)[0]) for columns in systems], axis=1)
        for leaf in strata
    }
    point_S = np.sum([values[leaf].mean(axis=0) for leaf in strata], axis=0)
    if min(leaves.rows(leaf)[2] for leaf in strata) < FEW_CLUSTERS:
        half_S = _half_widths([(values[leaf], *leaves.rows(leaf)[1:]) for leaf in strata], level)
        low_S, high_S = point_S - half_S, point_S + half_S
    else:
        draws_BS = np.sum([leaves.draws(leaf, values[leaf]) for leaf in strata], axis=0)
        tail = (1.0 - level) / 2.0
        low_S, high_S = np.quantile(draws_BS, [tail, 1.0 - tail], axis=0)
    least, most = figure.within
    return [
        Interval(float(p), float(max(low, min(least, p))), float(min(high, max(most, p))), level)
        for p, low, high in zip(point_S, low_S, high_S, strict=True)
    ]


def _leaf_values(figure: Figure, leaf: frozenset[str], columns: Columns, rows: NDArray[np.intp]) -> Floats:
    """Return one value per row of a leaf whose mean is the leaf's share of the figure.

    A column without meaning for some rows is averaged over the others: those rows count 0, the others more.
    """
    total = np.zeros(len(rows))
    for part in figure.parts:
        if part.strata != leaf:
            continue
        column = columns[part.column][rows]
        known = ~np.isnan(column)
        scale = len(rows) / known.sum() if known.any() else float("nan")
        total += part.weight * scale * np.where(known, column, 0.0)
    return total


def _half_widths(leaves: Sequence[tuple[Floats, NDArray[np.intp], int]], level: float) -> Floats:
    """Return half the width of Student's t interval of a sum of leaf means, for each system, [S]."""
    variances, freedoms = [], []
    for values_RS, prompt, clusters in leaves:
        sums_CS = np.zeros((clusters, values_RS.shape[1]))
        np.add.at(sums_CS, prompt, values_RS)
        sizes_C = np.bincount(prompt, minlength=clusters).astype(np.float64)
        rest_C = np.maximum(sizes_C.sum() - sizes_C, 1.0)
        left_CS = (sums_CS - values_RS.mean(axis=0) * sizes_C[:, None]) / rest_C[:, None]
        variances.append((left_CS**2).sum(axis=0) * (clusters - 1) / clusters)
        freedoms.append(max(clusters - 1, 1))
    variance_LS = np.array(variances)
    total_S = variance_LS.sum(axis=0)
    spread_S = (variance_LS**2 / np.array(freedoms)[:, None]).sum(axis=0)
    freedom_S = np.divide(total_S**2, spread_S, out=np.ones_like(total_S), where=spread_S > 0)
    half: Floats = student.ppf((1.0 + level) / 2.0, freedom_S) * np.sqrt(total_S)
    return half
