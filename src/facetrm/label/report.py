"""The report on labels: how many were kept, the judge's position bias, and how far capabilities and ratings agree."""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, get_args

from facetrm.core.statistics import bootstrap_mean
from facetrm.label.outcomes import KEPT, Judged, Outcome


def summarise(judged: Sequence[Judged]) -> dict[str, Any]:
    """Summarise all judgements, in total and per capability.

    Args:
        judged: every judgement, answered or not.

    Returns:
        A dictionary with ``all`` (the :func:`figures` of all judgements), ``capabilities`` (the same figures by
        capability), ``between_capabilities`` and ``with_given`` (from the functions of those names).
    """
    by_aspect: dict[str, list[Judged]] = defaultdict(list)
    for one in judged:
        by_aspect[one.judgement.aspect].append(one)
    return {
        "all": figures(judged),
        "capabilities": {aspect: figures(group) for aspect, group in by_aspect.items()},
        "between_capabilities": between_capabilities(judged),
        "with_given": with_given(judged),
    }


def figures(judged: Sequence[Judged]) -> dict[str, Any]:
    """Count the outcomes of some judgements and compute their rates. A rate with a zero denominator is None.

    ``keep_rate`` is the share of answered judgements that were kept. ``position_bias_rate`` is, among judgements with a
    winner in both orders, the share where the judge picked the same position twice. ``first_share`` is the share of
    those position-biased judgements where it picked the first position.

    Args:
        judged: the judgements to count.
    """
    counts = Counter(one.outcome for one in judged)
    kept = sum(counts[name] for name in KEPT)
    answered = len(judged) - counts["unanswered"]
    biased = counts["first_twice"] + counts["second_twice"]
    return {
        "judgements": len(judged),
        "answered": answered,
        "kept": kept,
        "keep_rate": _rate(kept, answered),
        "position_bias_rate": _rate(biased, kept + biased),
        "first_share": _rate(counts["first_twice"], biased),
        "outcomes": {name: counts[name] for name in get_args(Outcome)},
    }


def between_capabilities(judged: Sequence[Judged]) -> list[dict[str, Any]]:
    """Measure how often two capabilities of one task get the same label.

    Args:
        judged: the judgements to compare.

    Returns:
        One row for every two capabilities: the number of pairs where both labels were kept, and the share that agrees.
    """
    winners: dict[int, list[Judged]] = defaultdict(list)
    for one in judged:
        if one.outcome in KEPT:
            winners[id(one.judgement.pair)].append(one)
    same: Counter[tuple[str, str]] = Counter()
    both: Counter[tuple[str, str]] = Counter()
    for group in winners.values():
        for a, b in itertools.combinations(group, 2):
            names = (a.judgement.aspect, b.judgement.aspect)
            both[names] += 1
            same[names] += a.outcome == b.outcome
    return [{"capabilities": list(n), "pairs": both[n], "agreement": same[n] / both[n]} for n in sorted(both)]


def with_given(judged: Sequence[Judged]) -> dict[str, dict[str, Any]]:
    """Measure how often the kept labels agree with the labels that the data already has (:attr:`Pair.given`).

    For ratings, the reply with the higher number counts as the better one. If low ratings are good, expect an agreement
    below one half.

    Args:
        judged: the judgements to compare.

    Returns:
        By capability and by name of the given label: the number of pairs and the share that agrees, with a bootstrap
        interval over prompts.
    """
    hits: dict[str, dict[str, list[tuple[float, str]]]] = defaultdict(lambda: defaultdict(list))
    for one in judged:
        if one.outcome in KEPT:
            sign, prompt = (1 if one.outcome == "first" else -1), one.judgement.pair.prompt_key
            for name, given in one.judgement.pair.given.items():
                hits[one.judgement.aspect][name].append((float(given == sign), prompt))
    return {aspect: {name: _agreement(rows) for name, rows in sorted(found.items())} for aspect, found in hits.items()}


def _agreement(rows: Sequence[tuple[float, str]]) -> dict[str, Any]:
    interval: Mapping[str, Any] = asdict(
        bootstrap_mean([hit for hit, _ in rows], [prompt for _, prompt in rows], within=(0.0, 1.0))
    )
    shown = {name: None if math.isnan(value) else value for name, value in interval.items()}
    return {"pairs": len(rows), "agreement": shown["value"], **{n: shown[n] for n in ("low", "high", "level")}}


def _rate(part: int, whole: int) -> float | None:
    return part / whole if whole else None
