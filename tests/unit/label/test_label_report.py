"""The figures of a report, by hand on few judgements and by law on the world's noisy judge."""

from __future__ import annotations

import json
from typing import Any

import pytest

from facetrm.data.objectives import check_unique
from facetrm.data.views import ratings_to_preferences
from facetrm.data.world import TASKS, World
from facetrm.label.outcomes import Judged
from facetrm.label.pairs import Pair, preference_pairs, rating_pairs
from facetrm.label.report import figures, summarise
from facetrm.label.simulated import NoisyJudge, label_world, world_rubric
from label_samples import pairs, plan, preference

FIRST, SECOND, TIE = ("reply_1", "reply_2"), ("reply_2", "reply_1"), ("tie", "tie")


def judged(rows: list[Pair], *verdicts: Any) -> list[Judged]:
    made = plan(rows=rows)
    assert len(made.judgements) == len(verdicts)
    return [Judged(one, verdict) for one, verdict in zip(made.judgements, verdicts, strict=True)]


def test_rates_are_over_what_they_say() -> None:
    found = figures(
        judged(
            pairs(3),
            FIRST,
            SECOND,
            ("reply_1", "reply_1"),
            ("reply_2", "reply_2"),
            ("cannot_say", "tie"),
            (None, "tie"),
        )
    )
    assert (found["judgements"], found["answered"], found["kept"]) == (6, 5, 2)
    assert (found["keep_rate"], found["position_bias_rate"], found["first_share"]) == (2 / 5, 2 / 4, 1 / 2)
    nothing = figures([])
    assert (nothing["keep_rate"], nothing["position_bias_rate"], nothing["first_share"]) == (None, None, None)


def test_agreement_is_over_pairs_that_are_kept_in_both() -> None:
    rows = judged(pairs(4), FIRST, FIRST, FIRST, SECOND, SECOND, SECOND, FIRST, TIE)
    report = summarise(rows)
    (between,) = report["between_capabilities"]
    assert between == {"capabilities": ["chat/kind", "chat/clear"], "pairs": 3, "agreement": 2 / 3}
    assert report["capabilities"]["chat/clear"]["kept"] == 3
    given = report["with_given"]
    assert (given["chat/kind"]["overall"]["pairs"], given["chat/kind"]["overall"]["agreement"]) == (4, 0.75)
    assert (given["chat/clear"]["overall"]["pairs"], given["chat/clear"]["overall"]["agreement"]) == (3, 1 / 3)
    assert given["chat/kind"]["overall"]["low"] < 0.75 < given["chat/kind"]["overall"]["high"]


def test_the_order_of_a_file_and_ratings_are_what_labels_are_compared_with() -> None:
    world = World()
    pair = preference_pairs([preference(0, 1, 2, aspect="mine")])[0]
    assert dict(pair.given) == {"mine": 1}
    rated = [r for r in rating_pairs(world.ratings(40, every_rater=True)) if r.given]
    assert len(rated) > 10
    assert {sign for pair in rated for sign in pair.given.values()} == {1, -1}


# --- without an API


def test_the_worlds_rubric_is_one() -> None:
    rubric = world_rubric()
    assert [task.name for task in rubric.tasks] == list(TASKS)
    check_unique(rubric.objectives())
    for task in rubric.tasks:
        weights = [World.weights[task.name][c.name] for c in task.capabilities]
        assert weights == sorted(weights, reverse=True)
        assert min(weights) >= 0.03


def test_a_perfect_judge_gives_the_true_order() -> None:
    labelled = label_world(World(), 60, judge=NoisyJudge(noise=0.0, place_bias=0.0, tie_width=0.0))
    report = labelled.report
    assert report["all"]["outcomes"]["first_twice"] == report["all"]["outcomes"]["second_twice"] == 0
    assert labelled.preferences
    for found in labelled.preferences:
        name = found.aspect.split("/")[1]
        chosen, rejected = (World().levels(c)[name] for c in (found.chosen, found.rejected))
        assert chosen > rejected
        assert found.aspect.split("/")[0] == found.task
    for aspect, given in report["with_given"].items():
        assert given[f"true {aspect.split('/')[1]}"]["agreement"] == 1.0
    json.dumps(report, allow_nan=False)


def test_noise_costs_accuracy_and_a_liking_for_the_first_place_costs_labels() -> None:
    def look(**settings: float) -> tuple[float, float, float]:
        report = label_world(World(), 150, judge=NoisyJudge(tie_width=0.0, **settings)).report
        own = [given.get(f"true {aspect.split('/')[1]}") for aspect, given in report["with_given"].items()]
        hits = sum(row["agreement"] * row["pairs"] for row in own if row)
        right = hits / sum(row["pairs"] for row in own if row)
        return report["all"]["position_bias_rate"], right, report["all"]["first_share"]

    exact, noisy, biased = (look(noise=n, place_bias=b) for n, b in ((0.001, 0.0), (1.0, 0.0), (0.001, 0.6)))
    assert exact[1] > 0.99
    assert 0.55 < noisy[1] < 0.9
    assert biased[0] > exact[0] + 0.2
    assert biased[2] == pytest.approx(1.0)


def test_ratings_give_records_of_the_same_form() -> None:
    world = World()
    objective = next(o for o in world.objectives if o.name == "birch-richness")
    found = ratings_to_preferences(world.ratings(200, every_rater=True), objective, aspect="chat/richness")
    simulated = label_world(world, 5).preferences
    assert found
    assert {p.aspect for p in found} == {"chat/richness"}
    assert type(found[0]) is type(simulated[0])
    assert len(found[0].responses) == len(simulated[0].responses) == 2
