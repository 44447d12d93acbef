"""What own data hold, before anything is trained: rows, labels, duplicates, shared prompts, and what was left out."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from facetrm.core.statistics import pearson
from facetrm.data.objectives import Objective
from facetrm.data.read.columns import is_number, is_quoted_number
from facetrm.data.read.files import FileRead
from facetrm.data.records import Preference, Rating, conversation_key
from facetrm.data.views import as_pairs

_LEAST_SHARED = 3


@final
@dataclass(frozen=True)
class RatingsAudit:
    """What the rated rows hold.

    Attributes:
        rows: Number of rated conversations.
        prompts: Number of distinct prompts.
        copies: Number of rows with the conversation and the labels of an earlier row.
        rated: Number of ratings of each objective.
        constant: Objectives whose ratings are all equal, with that rating.
        alike: Pairs of objectives that say the same, with ``identical``, ``r = 1`` or ``r = -1``, and the number of
            rows that have both.
        unnamed: Number of ratings of objectives that are not declared, by name.
    """

    rows: int
    prompts: int
    copies: int
    rated: dict[str, int]
    constant: dict[str, float]
    alike: list[tuple[str, str, str, int]]
    unnamed: dict[str, int]


@final
@dataclass(frozen=True)
class PairsAudit:
    """What the preferences hold. A ranking counts as all pairs of its answers.

    Attributes:
        pairs: Number of pairs.
        prompts: Number of distinct prompts.
        copies: Number of preferences that repeat an earlier one.
        equal: Number of pairs with the same text twice.
        contrary: Number of pairs that are labelled in both orders.
        against_scores: Number of pairs whose own ``score_chosen`` is below their ``score_rejected``.
        longer: Number of pairs whose better answer has more characters.
        shorter: Number of pairs whose better answer has fewer characters.
        other_aspects: Number of preferences about another aspect than ``overall``, which a gate does not use.
    """

    pairs: int
    prompts: int
    copies: int
    equal: int
    contrary: int
    against_scores: int
    longer: int
    shorter: int
    other_aspects: int


def audit_ratings(ratings: Sequence[Rating], objectives: Sequence[Objective]) -> RatingsAudit:
    """Return what the rated rows hold.

    Args:
        ratings: Rated conversations.
        objectives: Declared objectives.
    """
    names = [objective.name for objective in objectives]
    columns = {name: np.full(len(ratings), np.nan) for name in names}
    unnamed: Counter[str] = Counter()
    for n, rating in enumerate(ratings):
        for name, value in rating.ratings.items():
            if name in columns:
                columns[name][n] = value
            else:
                unnamed[name] += 1
    seen = Counter((conversation_key(r.messages), tuple(sorted(r.ratings.items()))) for r in ratings)
    return RatingsAudit(
        rows=len(ratings),
        prompts=len({r.prompt_key for r in ratings}),
        copies=len(ratings) - len(seen),
        rated={name: int(np.isfinite(column).sum()) for name, column in columns.items()},
        constant={
            name: float(found[0])
            for name, column in columns.items()
            if len(found := column[np.isfinite(column)]) and np.ptp(found) == 0
        },
        alike=_alike(columns),
        unnamed=dict(unnamed),
    )


def _alike(columns: dict[str, np.ndarray[tuple[int], np.dtype[np.float64]]]) -> list[tuple[str, str, str, int]]:
    """Return the pairs of columns that are identical, or a linear function of each other, on the rows that share."""
    found = []
    for (name, x), (other, y) in itertools.combinations(columns.items(), 2):
        both = np.isfinite(x) & np.isfinite(y)
        a, b, count = x[both], y[both], int(both.sum())
        if count < _LEAST_SHARED or np.ptp(a) == 0 or np.ptp(b) == 0:
            continue
        if np.array_equal(a, b):
            found.append((name, other, "identical", count))
        elif abs(r := pearson(a, b)) > 1 - 1e-9:
            found.append((name, other, f"r = {r:.0f}", count))
    return found


def audit_pairs(preferences: Sequence[Preference]) -> PairsAudit:
    """Return what the preferences hold.

    Args:
        preferences: Pairs and rankings.
    """
    overall = [p for p in preferences if p.aspect == "overall"]
    pairs = [pair for preference in overall for pair in as_pairs(preference)]
    texts = [(pair.prompt_key, *(answer.content for answer in pair.responses)) for pair in pairs]
    orders = set(texts)
    lengths = [(len(better), len(worse)) for _, better, worse in texts]
    again = Counter(tuple(conversation_key((*p.prompt, answer)) for answer in p.responses) for p in overall)
    return PairsAudit(
        pairs=len(pairs),
        prompts=len({pair.prompt_key for pair in pairs}),
        copies=len(overall) - len(again),
        equal=sum(better == worse for _, better, worse in texts),
        contrary=sum((prompt, b, a) in orders for prompt, a, b in orders if a < b),
        against_scores=sum(_against_scores(pair) for pair in pairs),
        longer=sum(better > worse for better, worse in lengths),
        shorter=sum(better < worse for better, worse in lengths),
        other_aspects=len(preferences) - len(overall),
    )


def _against_scores(pair: Preference) -> bool:
    scores = [pair.meta.get(name) for name in ("score_chosen", "score_rejected")]
    return is_number(scores[0]) and is_number(scores[1]) and scores[0] < scores[1]


def shared_prompts(ratings: Sequence[Rating], preferences: Sequence[Preference]) -> int:
    """Return the number of prompts that are in both.

    Args:
        ratings: Rated conversations.
        preferences: Pairs and rankings.
    """
    return len({r.prompt_key for r in ratings} & {p.prompt_key for p in preferences})


def quoted_columns(file: FileRead[Rating]) -> list[str]:
    """Return the columns that were not read because their numbers are written as text.

    Args:
        file: A file of ratings.
    """
    return [
        name
        for name in file.unread
        if (given := [record.meta[name] for record in file.records if name in record.meta])
        and all(is_quoted_number(value) for value in given)
    ]
