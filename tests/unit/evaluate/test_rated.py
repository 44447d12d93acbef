"""Rank correlations with ratings: figures by objective, and means whose resamples draw prompts once for all of them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from facetrm.core.statistics import cluster_counts, kendall, spearman
from facetrm.data.records import Message, Rating
from facetrm.evaluate.rated import rank_agreement, rated_figures


def rated(n: int, **ratings: float) -> Rating:
    """One answer to a prompt that it shares with another one."""
    asked, said = Message(role="user", content=f"ask {n // 2}"), Message(role="assistant", content=f"say {n}")
    return Rating(messages=(asked, said), ratings=ratings)


@pytest.fixture
def rows() -> tuple[list[Rating], list[Mapping[str, float] | None]]:
    """Sixty answers: all rated for ``kind``, two thirds for ``true``, four for ``rare``; scores with one own rating."""
    rng = np.random.default_rng(0)
    ratings, scores = [], []
    for n in range(60):
        good = rng.normal()
        given = {"kind": good + rng.normal()} | ({"true": good} if n % 3 else {}) | ({"rare": 1.0} if n < 4 else {})
        ratings.append(rated(n, **given))
        scores.append({"reward": good + rng.normal(), "kind": good + 0.5 * rng.normal()})
    return ratings, scores


def test_the_mean_is_resampled_once_for_all_objectives(
    rows: tuple[list[Rating], list[Mapping[str, float] | None]],
) -> None:
    ratings, scores = rows
    found = rank_agreement(ratings, scores, samples=80, seed=3).figures
    codes, counts = cluster_counts([one.prompt_key for one in ratings], samples=80, seed=3)
    sides = {"kind": "kind", "true": "reward"}
    for name, measure in (("spearman", spearman), ("kendall", kendall)):

        def value(times: np.ndarray, *, columns: Mapping[str, str]) -> float:
            each = []
            for objective, column in columns.items():
                kept = [n for n, one in enumerate(ratings) if objective in one.ratings]
                drawn = np.repeat(kept, times[kept])
                x = [(scores[n] or {})[column] for n in drawn]
                each.append(measure(x, [ratings[n].ratings[objective] for n in drawn]))  # noqa: B023
            return float(np.mean(each))

        once = np.ones(len(ratings), dtype=int)
        for figure, columns in ((name, sides), (f"reward-{name}", dict.fromkeys(sides, "reward"))):
            ends = np.quantile([value(row[codes], columns=columns) for row in counts], [0.025, 0.975])
            assert found[figure]["value"] == pytest.approx(value(once, columns=columns))
            assert (found[figure]["low"], found[figure]["high"]) == pytest.approx(tuple(ends))


def test_figures_by_objective_are_those_of_the_table(
    rows: tuple[list[Rating], list[Mapping[str, float] | None]],
) -> None:
    ratings, scores = rows
    found = rank_agreement(ratings, scores, samples=20)
    assert list(found.figures) == rated_figures(ratings)
    assert set(found.objectives) == {"kind", "true"}, "four rows are too few"
    assert found.figures["kind/spearman"] == found.objectives["kind"]["own"]["spearman"]
    assert found.figures["kind/reward-kendall"] == found.objectives["kind"]["reward"]["kendall"]
    assert found.figures["true/spearman"] == found.figures["true/reward-spearman"]
    assert found.figures["true/spearman"] == found.objectives["true"]["reward"]["spearman"]


def test_an_objective_without_a_correlation_is_no_part_of_the_mean() -> None:
    ratings = [rated(n, flat=1.0, long=float(n)) for n in range(30)]
    figures = rank_agreement(ratings, [{"reward": float(n)} for n in range(30)], samples=20).figures
    assert figures["flat/spearman"] == {"value": None, "low": None, "high": None}
    assert figures["spearman"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    failed = rank_agreement(ratings, [None] * 30, samples=20)
    assert failed.objectives == {}
    assert set(failed.figures) == set(figures), "every figure that a bound can name"
    assert failed.figures["spearman"]["value"] is None
    assert rated_figures(ratings[:4]) == []
