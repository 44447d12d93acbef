"""Argilla Capybara-Preferences: multi-turn conversations with two final responses, rated 1 to 5 by GPT-4."""

from __future__ import annotations

from facetrm.data.objectives import Objective
from facetrm.data.read.columns import Row
from facetrm.data.sources.raw import RawTurns, chat_turns, number, pairs_by_score, rated
from facetrm.data.sources.registry import Dropped, Records, source

_HUB = "argilla/Capybara-Preferences-Filtered"
_LICENCE = "Apache-2.0"
_CITATION = "Argilla 2024, Capybara-Preferences, made with distilabel, on LDJnr/Capybara"

OBJECTIVES = (
    Objective(
        name="argilla-overall_quality",
        low=1,
        high=5,
        meaning="how good the answer is overall",
        rater="GPT-4",
        source="argilla-capybara",
    ),
)


def _answers(row: Row) -> list[tuple[RawTurns, float | None]]:
    return [(chat_turns(row, side), number(row, f"{side}_rating")) for side in ("chosen", "rejected")]


@source("argilla-capybara", hub=_HUB, kind="rating", objectives=OBJECTIVES, licence=_LICENCE, citation=_CITATION)
def argilla_capybara(row: Row) -> Records:
    """Columns ``chosen, chosen_rating`` and ``rejected, rejected_rating``; both whole conversations are rated."""
    for messages, rating in _answers(row):
        if not messages or messages[-1]["role"] != "assistant":
            yield Dropped("the last turn is not from the assistant")
            continue
        yield rated(
            messages[:-1],
            messages[-1]["content"],
            {"argilla-overall_quality": rating},
            OBJECTIVES,
            subset=row.get("source"),
        )


@source("argilla-capybara-preferences", hub=_HUB, kind="preference", licence=_LICENCE, citation=_CITATION)
def argilla_capybara_preferences(row: Row) -> Records:
    """The pair, ranked by the two ratings; equal ratings are dropped."""
    (chosen, chosen_rating), (rejected, rejected_rating) = _answers(row)
    if chosen[:-1] != rejected[:-1] or not chosen or not rejected:
        yield Dropped("chosen and rejected differ before the last turn")
        return
    answers = [(chosen[-1]["content"], chosen_rating), (rejected[-1]["content"], rejected_rating)]
    yield from pairs_by_score(chosen[:-1], answers, width=4.0, subset=row.get("source"))
