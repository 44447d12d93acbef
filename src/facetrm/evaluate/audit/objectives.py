"""Are the objectives different from each other, and which of them decide pairs?

    effective rank  exp(entropy of the shares of the eigenvalues of the correlation matrix): from 1 (all the same) to K
    decides         an objective whose |difference| is more than half of all |differences| of a pair decides it

Shapes: N answers of one task, K objectives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from facetrm.core.statistics import Floats
from facetrm.evaluate.audit.scored import Compared, contribution_change
from facetrm.evaluate.audit.settings import AuditConfig
from facetrm.model.output import Score


@dataclass(frozen=True)
class Correlated:
    """How alike the objectives of a task are. Objectives without variation are left out.

    Attributes:
        names: names of the objectives.
        correlation: Pearson correlation of each two, in the order of ``names``.
        clusters: groups of two or more objectives linked by an absolute correlation above the limit.
        effective_rank: effective number of different objectives; None without any.
        constant: names of the objectives without variation.
    """

    names: tuple[str, ...]
    correlation: tuple[tuple[float, ...], ...]
    clusters: tuple[tuple[str, ...], ...]
    effective_rank: float | None
    constant: tuple[str, ...]


@dataclass(frozen=True)
class ObjectiveUse:
    """The use of the objectives within a task.

    Attributes:
        pairs: number of pairs.
        contributions: how alike the contributions are.
        scores: how alike the ratings are; None if the model has none.
        decided: share of pairs that each objective decides, 0 to 1.
        never: names of the objectives that decide no pair.
        weight: mean share of each objective in the absolute weights; empty if the model has none.
    """

    pairs: int
    contributions: Correlated
    scores: Correlated | None
    decided: dict[str, float]
    never: tuple[str, ...]
    weight: dict[str, float]


def objective_use(compared: Sequence[Compared], *, config: AuditConfig) -> dict[str, ObjectiveUse]:
    """Return the use of the objectives by task, for tasks with two objectives or more.

    Args:
        compared: the scored pairs; the task of a pair is that of its first answer.
        config: the settings.
    """
    by_task: dict[str, list[Compared]] = {}
    for pair in compared:
        if pair.first.task == pair.second.task and len(pair.first.contributions) > 1:
            by_task.setdefault(pair.first.task, []).append(pair)
    return {task: _use(by_task[task], config) for task in sorted(by_task)}


def _use(pairs: Sequence[Compared], config: AuditConfig) -> ObjectiveUse:
    scores = [score for pair in pairs for score in (pair.first, pair.second)]
    names = list(dict.fromkeys(name for score in scores for name in score.contributions))
    decided = dict.fromkeys(names, 0.0)
    for pair in pairs:
        gaps = {name: abs(gap) for name, gap in contribution_change(pair.first, pair.second).items() if name in decided}
        most, total = max(gaps, key=lambda name: gaps[name]), sum(gaps.values())
        if gaps[most] > total / 2:
            decided[most] += 1 / len(pairs)
    rated = all(score.scores for score in scores)
    return ObjectiveUse(
        len(pairs),
        correlated([score.contributions for score in scores], limit=config.redundant),
        correlated([score.scores for score in scores], limit=config.redundant) if rated else None,
        decided,
        tuple(name for name in names if not decided[name]),
        _weights(scores),
    )


def correlated(rows: Sequence[Mapping[str, float]], *, limit: float) -> Correlated:
    """Return how alike the columns of a table are; an absent value counts as 0.

    Args:
        rows: values by objective, one mapping per answer.
        limit: absolute correlation above which two objectives are linked.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    values_NK = np.array([[row.get(name, 0.0) for name in names] for row in rows], dtype=np.float64)
    size_K = np.abs(values_NK).max(axis=0, initial=0.0)
    varied_K = values_NK.std(axis=0) > 1e-9 * np.maximum(size_K, 1e-30)
    kept = [name for name, varied in zip(names, varied_K.tolist(), strict=True) if varied]
    constant = tuple(name for name in names if name not in kept)
    if not kept:
        return Correlated((), (), (), None, constant)
    matrix_KK = np.atleast_2d(np.corrcoef(values_NK[:, varied_K], rowvar=False)).clip(-1.0, 1.0)
    share_K = np.linalg.eigvalsh(matrix_KK).clip(min=0.0) / len(kept)
    share_K = share_K[share_K > 0]
    rank = float(np.exp(-(share_K * np.log(share_K)).sum()))
    table = tuple(tuple(float(value) for value in row) for row in matrix_KK)
    return Correlated(tuple(kept), table, _clusters(kept, matrix_KK, limit), rank, constant)


def _clusters(names: Sequence[str], matrix_KK: Floats, limit: float) -> tuple[tuple[str, ...], ...]:
    if len(names) < 2:
        return ()
    distance_KK = 1.0 - np.abs(matrix_KK)
    np.fill_diagonal(distance_KK, 0.0)
    links = linkage(squareform(distance_KK, checks=False), method="single")
    label_K = fcluster(links, t=1.0 - limit, criterion="distance").tolist()
    groups = [
        tuple(n for n, label in zip(names, label_K, strict=True) if label == each) for each in sorted(set(label_K))
    ]
    return tuple(group for group in groups if len(group) > 1)


def _weights(scores: Sequence[Score]) -> dict[str, float]:
    weighted = [score.weights for score in scores if score.weights]
    totals: dict[str, float] = {}
    for weights in weighted:
        size = sum(abs(value) for value in weights.values()) or 1.0
        for name, value in weights.items():
            totals[name] = totals.get(name, 0.0) + abs(value) / size / len(weighted)
    return totals
