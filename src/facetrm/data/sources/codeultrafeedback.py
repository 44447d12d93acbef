"""CodeUltraFeedback: four answers per coding instruction, rated 1 to 5 by GPT-3.5 on one of five preferences."""

from __future__ import annotations

from facetrm.core.errors import DataError
from facetrm.data.objectives import Objective
from facetrm.data.read.columns import Row
from facetrm.data.sources.raw import items, number, pairs_by_score, rated, text, user
from facetrm.data.sources.registry import Records, source

_HUB = "coseal/CodeUltraFeedback"
_LICENCE = "MIT"
_CITATION = (
    "Weyssow et al. 2024, CodeUltraFeedback: An LLM-as-a-Judge Dataset for Aligning Large Language Models to Coding "
    "Preferences (arXiv 2403.09032)"
)

_MEANINGS = {
    "complexity": "how efficient the code is in time and memory",
    "style": "how well the code follows good style",
    "explanation": "how well the code is explained",
    "instruction-following": "whether the code does what was asked",
    "readability": "how easy the code is to read",
}
OBJECTIVES = tuple(
    Objective(name=f"code-{key}", low=1, high=5, meaning=meaning, rater="GPT-3.5", source="codeultrafeedback")
    for key, meaning in _MEANINGS.items()
)


def _answers(row: Row) -> tuple[str, list[tuple[str, float | None]]]:
    """Return the preference and the answers with their ratings, matched by model."""
    preference = text(row, "preference")
    preference = preference.removeprefix("code-")
    if preference not in _MEANINGS:
        raise DataError(f"'preference' is '{preference}'", fix=f"one of {', '.join(_MEANINGS)}")
    ratings = {text(note, "model"): number(note, "rating") for note in items(row, "annotations")}
    answers = [(text(r, "response"), ratings.get(text(r, "model"))) for r in items(row, "responses")]
    return preference, answers


@source(
    "codeultrafeedback",
    hub=_HUB,
    kind="rating",
    objectives=OBJECTIVES,
    licence=_LICENCE,
    citation=_CITATION,
    task="code",
)
def codeultrafeedback(row: Row) -> Records:
    """``responses`` and ``annotations`` matched by ``model``; ``preference`` names the objective."""
    preference, answers = _answers(row)
    for response, rating in answers:
        ratings = {f"code-{preference}": rating}
        yield rated(user(text(row, "instruction")), response, ratings, OBJECTIVES, subset=preference)


@source("codeultrafeedback-preferences", hub=_HUB, kind="preference", licence=_LICENCE, citation=_CITATION, task="code")
def codeultrafeedback_preferences(row: Row) -> Records:
    """All pairs of answers with unequal ratings (as the published pairs were made); ``subset`` names the preference."""
    preference, answers = _answers(row)
    yield from pairs_by_score(user(text(row, "instruction")), answers, width=4.0, subset=preference)
