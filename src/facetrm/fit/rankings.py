"""Weights for pairs from rankings: in every fit, a ranking has the weight of one pair, split evenly over its pairs.

A ranking of nine answers gives 36 pairs. They hold less information than 36 independent judgements, so each pair has
weight 1/36.

Shapes: N pairs.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from facetrm.core.statistics import Floats
from facetrm.data.records import Preference
from facetrm.data.views import RANKING
from facetrm.fit.pairs import pair_weights


def ranking_of(pair: Preference) -> tuple[str, int, int] | None:
    """Return the name of the ranking that a pair comes from, and the ranks of its better and its worse answer.

    Args:
        pair: a pair from :func:`facetrm.data.views.as_pairs`.

    Returns:
        Name, rank of the better answer and rank of the worse answer; None for a pair that comes from no ranking.
    """
    cut = pair.meta.get(RANKING)
    if not isinstance(cut, dict):
        return None
    better, worse = cut["places"]
    return str(cut["name"]), int(better), int(worse)


def ranking_shares(pairs: Sequence[Preference]) -> Floats:
    """Return the weight of each pair, [N]: 1 for a pair from no ranking; the pairs of one ranking sum to 1.

    Args:
        pairs: N pairs from :func:`facetrm.data.views.as_pairs`; a ranking may be incomplete.
    """
    cuts = [ranking_of(pair) for pair in pairs]
    places: dict[str, Counter[tuple[int, int]]] = defaultdict(Counter)
    for cut in cuts:
        if cut is not None:
            places[cut[0]][cut[1:]] += 1
    # a ranking that occurs twice in the data counts twice
    share = {name: max(counts.values()) / counts.total() for name, counts in places.items()}
    return np.array([1.0 if cut is None else share[cut[0]] for cut in cuts], dtype=np.float64)


def preference_weights(pairs: Sequence[Preference], *, balance: float = 0.0, strength: bool = False) -> Floats:
    """Return the weight of each pair in a fit, [N], with mean 1.

        weight = share of its ranking * clearness * (number of rankings and pairs of its source) ** -balance

    Args:
        pairs: N pairs from :func:`facetrm.data.views.as_pairs`.
        balance: 0 gives every ranking the same weight, 1 every source the same total weight.
        strength: whether to weight a pair by the strength of its preference, if the data gives one.

    Raises:
        FitError: balance outside [0, 1].
    """
    sources = [pair.source for pair in pairs]
    shares = ranking_shares(pairs)
    if bool((shares == 1.0).all()):
        return pair_weights(sources, balance=balance, strengths=[p.strength for p in pairs] if strength else None)
    clear = pair_weights(sources, strengths=[p.strength for p in pairs] if strength else None)
    pair_weights(sources[:1], balance=balance)  # checks the balance
    _, codes = np.unique(np.asarray(sources), return_inverse=True)
    weights = shares * clear * np.bincount(codes, weights=shares)[codes] ** -balance
    return np.asarray(weights / weights.mean(), dtype=np.float64)
