"""The ledger of biases: does the reward follow a feature that should not matter, before and after debiasing?

    correlation  mean over pairs of sign(margin) * sign(difference of the feature): more of it wins (1) or loses (-1)
    matched      accuracy on pairs whose two answers have about the same of the feature
    less, more   accuracy on the other pairs, where the better answer has less, or more, of the feature

Shapes: P pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from facetrm.core.statistics import Floats, Interval, bootstrap_mean, pair_accuracy
from facetrm.data.records import Preference
from facetrm.evaluate.audit.features import FEATURES
from facetrm.evaluate.audit.scored import Compared, Mover, contribution_change, movers
from facetrm.evaluate.audit.settings import AuditConfig
from facetrm.evaluate.length_audit import within_prompt_rank_correlation


@dataclass(frozen=True)
class BiasFigures:
    """The figures of one model for one feature; an accuracy is None without such pairs.

    Attributes:
        correlation: rank correlation of the reward with the feature within pairs, -1 to 1; None if no pair differs.
        matched: accuracy on pairs that match in the feature.
        unmatched: accuracy on all other pairs.
        less: accuracy on the other pairs where the better answer has less of the feature.
        more: accuracy on the other pairs where the better answer has more of it.
    """

    correlation: Interval | None
    matched: Interval | None
    unmatched: Interval | None
    less: Interval | None
    more: Interval | None


@dataclass(frozen=True)
class Bias:
    """The entry of one feature.

    Attributes:
        feature: name of the feature.
        pairs: number of pairs by kind: ``matched``, ``less``, ``more``.
        now: figures of the model.
        before: figures of the same model without debiasing; None if it was not given.
        change: correlation now minus before, on the same pairs; None without ``before``.
        movers: the objectives that pay most for more of the feature, largest first: mean difference of a contribution,
            the answer with more of the feature minus the other.
    """

    feature: str
    pairs: dict[str, int]
    now: BiasFigures
    before: BiasFigures | None
    change: Interval | None
    movers: tuple[Mover, ...]


@dataclass(frozen=True)
class Position:
    """What the order of presentation does to a scorer that compares answers.

    Attributes:
        advantage: mean gain of the margin from being presented first.
        flips: share of pairs whose order depends on the order of presentation.
        first: accuracy if the better answer comes first.
        second: accuracy if the better answer comes second.
    """

    advantage: Interval
    flips: Interval
    first: Interval
    second: Interval


def bias_ledger(
    pairs: Sequence[Preference],
    compared: Sequence[Compared],
    *,
    before: Sequence[Compared] | None,
    config: AuditConfig,
) -> list[Bias]:
    """Return one entry per feature that differs in some pair.

    Args:
        pairs: the pairs.
        compared: their scores, chosen first.
        before: their scores without debiasing; None to leave that out.
        config: the settings.
    """
    groups = [pair.prompt_key for pair in pairs]
    found = []
    for name, values_P2 in _features(pairs, compared).items():
        if not (values_P2[:, 0] != values_P2[:, 1]).any():
            continue
        found.append(_entry(name, values_P2, compared, before, groups=groups, config=config))
    return found


def position_of(compared: Sequence[Compared], groups: Sequence[str], *, config: AuditConfig) -> Position | None:
    """Return what the order of presentation does; None if the scorer scores each answer by itself.

    Args:
        compared: the scored pairs, the better answer first.
        groups: prompt key of each pair.
        config: the settings.
    """
    if any(pair.ahead is None or pair.behind is None for pair in compared):
        return None
    first_P = np.array([pair.ahead for pair in compared], dtype=np.float64)
    second_P = np.array([pair.behind for pair in compared], dtype=np.float64)
    flipped_P = (np.sign(first_P) != np.sign(second_P)).astype(np.float64)
    return Position(
        bootstrap_mean((first_P - second_P) / 2, groups, samples=config.samples, seed=config.seed),
        bootstrap_mean(flipped_P, groups, samples=config.samples, seed=config.seed, within=(0.0, 1.0)),
        pair_accuracy(first_P, groups, samples=config.samples, seed=config.seed),
        pair_accuracy(second_P, groups, samples=config.samples, seed=config.seed),
    )


def _features(pairs: Sequence[Preference], compared: Sequence[Compared]) -> dict[str, Floats]:
    """Return the two values of each pair by feature: of the texts, of the tokens, and of a verbosity objective."""
    texts = [(pair.responses[0].content, pair.responses[-1].content) for pair in pairs]
    found: dict[str, Floats] = {
        name: np.array([[read(a), read(b)] for a, b in texts], dtype=np.float64) for name, read in FEATURES.items()
    }
    found["tokens"] = np.array([[pair.first.length, pair.second.length] for pair in compared], dtype=np.float64)
    names = dict.fromkeys(name for pair in compared for name in pair.first.scores if "verbos" in name.lower())
    for name in names:
        if all(name in score.scores for pair in compared for score in (pair.first, pair.second)):
            found[f"objective {name}"] = np.array([[p.first.scores[name], p.second.scores[name]] for p in compared])
    return found


def _entry(
    name: str,
    values_P2: Floats,
    compared: Sequence[Compared],
    before: Sequence[Compared] | None,
    *,
    groups: Sequence[str],
    config: AuditConfig,
) -> Bias:
    more_P = values_P2[:, 0] - values_P2[:, 1]
    matched_P = np.abs(more_P) <= config.caliper * np.abs(values_P2).max(axis=1)
    kinds = {"matched": matched_P, "less": ~matched_P & (more_P < 0), "more": ~matched_P & (more_P > 0)}
    now = _side(values_P2, compared, kinds, groups=groups, config=config)
    earlier = None if before is None else _side(values_P2, before, kinds, groups=groups, config=config)
    change = None
    if before is not None:
        rows = np.flatnonzero(more_P)
        signs = np.sign(_margins(compared)[rows]) - np.sign(_margins(before)[rows])
        prompts = np.asarray(groups)[rows]
        change = bootstrap_mean(
            signs * np.sign(more_P[rows]), prompts, samples=config.samples, seed=config.seed, within=(-2.0, 2.0)
        )
    pull = [
        contribution_change(pair.first, pair.second, sign=float(np.sign(more)))
        for pair, more in zip(compared, more_P, strict=True)
        if more
    ]
    return Bias(name, {kind: int(rows.sum()) for kind, rows in kinds.items()}, now, earlier, change, movers(pull))


def _side(
    values_P2: Floats,
    compared: Sequence[Compared],
    kinds: Mapping[str, NDArray[np.bool_]],
    *,
    groups: Sequence[str],
    config: AuditConfig,
) -> BiasFigures:
    margin_P, prompt_P = _margins(compared), np.asarray(groups)
    rewards = [reward for pair in compared for reward in (pair.first.reward, pair.second.reward)]
    correlation = within_prompt_rank_correlation(
        rewards,
        values_P2.ravel(),
        np.repeat(np.arange(len(compared)), 2),
        clusters=np.repeat(prompt_P, 2),
        samples=config.samples,
        seed=config.seed,
    )

    def accuracy(rows: NDArray[np.bool_]) -> Interval | None:
        if not rows.any():
            return None
        return pair_accuracy(margin_P[rows], prompt_P[rows], samples=config.samples, seed=config.seed)

    other = ~kinds["matched"]
    return BiasFigures(
        correlation, accuracy(kinds["matched"]), accuracy(other), accuracy(kinds["less"]), accuracy(kinds["more"])
    )


def _margins(compared: Sequence[Compared]) -> Floats:
    return np.array([pair.margin for pair in compared], dtype=np.float64)
