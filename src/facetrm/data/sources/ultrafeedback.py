"""UltraFeedback: four answers per instruction, rated by GPT-4 overall (1 to 10) and in four aspects (1 to 5)."""

from __future__ import annotations

from facetrm.core.errors import DataError
from facetrm.data.objectives import Objective
from facetrm.data.read.columns import Row, short
from facetrm.data.sources.raw import items, number, pairs_by_score, rated, text, user, value
from facetrm.data.sources.registry import Records, source

_HUB = "openbmb/UltraFeedback"
_LICENCE = "MIT"
_CITATION = "Cui et al. 2024, UltraFeedback: Boosting Language Models with Scaled AI Feedback (arXiv 2310.01377)"

_ASPECTS = {
    "instruction_following": "whether the answer does what was asked",
    "truthfulness": "whether what it says is true, without invention",
    "honesty": "whether its confidence matches what it knows",
    "helpfulness": "how informative and useful it is",
}
OBJECTIVES = (
    Objective(
        name="ultrafeedback-overall_score",
        low=1,
        high=10,
        meaning="how good the answer is overall",
        rater="GPT-4",
        source="ultrafeedback",
    ),
    *(
        Objective(name=f"ultrafeedback-{key}", low=1, high=5, meaning=meaning, rater="GPT-4", source="ultrafeedback")
        for key, meaning in _ASPECTS.items()
    ),
)


def _aspects(completion: Row) -> dict[str, float | None]:
    annotations = value(completion, "annotations")
    if not isinstance(annotations, dict):
        raise DataError(f"'annotations' is {short(annotations)}", fix="give an object with one entry per aspect")
    return {key: number(annotations[key], "Rating") if annotations.get(key) else None for key in _ASPECTS}


@source("ultrafeedback", hub=_HUB, kind="rating", objectives=OBJECTIVES, licence=_LICENCE, citation=_CITATION)
def ultrafeedback(row: Row) -> Records:
    """One rating per completion: ``overall_score`` and ``annotations.<aspect>.Rating`` (text, ``N/A`` is missing)."""
    for completion in items(row, "completions"):
        ratings = {"ultrafeedback-overall_score": number(completion, "overall_score")}
        ratings |= {f"ultrafeedback-{key}": rating for key, rating in _aspects(completion).items()}
        side = {"subset": row.get("source"), "meta": {"model": completion.get("model")}}
        yield rated(user(text(row, "instruction")), text(completion, "response"), ratings, OBJECTIVES, **side)


@source("ultrafeedback-preferences", hub=_HUB, kind="preference", licence=_LICENCE, citation=_CITATION)
def ultrafeedback_preferences(row: Row) -> Records:
    """All pairs of completions, ranked by the mean of the four aspects; equal means are dropped.

    That the published pairs rank by this mean is an inference from their number.
    """
    answers: list[tuple[str, float | None]] = []
    for completion in items(row, "completions"):
        known = [rating for rating in _aspects(completion).values() if rating is not None]
        answers.append((text(completion, "response"), sum(known) / len(known) if known else None))
    yield from pairs_by_score(user(text(row, "instruction")), answers, width=4.0, subset=row.get("source"))
