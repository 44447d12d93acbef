"""Argilla Math-Preferences: two answers per maths instruction, rated for following it.

ArmoRM reads its ratings as ``ultrafeedback-instruction_following``, so it declares no objective. That the ratings use
that scale, 1 to 5, is an inference; a rating outside the scale is an error.
"""

from __future__ import annotations

from facetrm.data.read.columns import Row
from facetrm.data.sources import ultrafeedback
from facetrm.data.sources.raw import number, pairs_by_score, rated, text, user
from facetrm.data.sources.registry import Records, source

_HUB = "argilla/distilabel-math-preference-dpo"
_LICENCE = "Apache-2.0"
_CITATION = "Argilla 2023, distilabel-math-preference-dpo, made with distilabel"

OBJECTIVES = tuple(o for o in ultrafeedback.OBJECTIVES if o.name == "ultrafeedback-instruction_following")


@source(
    "argilla-math", hub=_HUB, kind="rating", objectives=OBJECTIVES, licence=_LICENCE, citation=_CITATION, task="math"
)
def argilla_math(row: Row) -> Records:
    """Columns ``instruction, chosen_response, chosen_rating, rejected_response, rejected_rating``; both are rated."""
    for side in ("chosen", "rejected"):
        ratings = {OBJECTIVES[0].name: number(row, f"{side}_rating")}
        yield rated(user(text(row, "instruction")), text(row, f"{side}_response"), ratings, OBJECTIVES)


@source("argilla-math-preferences", hub=_HUB, kind="preference", licence=_LICENCE, citation=_CITATION, task="math")
def argilla_math_preferences(row: Row) -> Records:
    """The pair, ranked by the two ratings; equal ratings are dropped."""
    answers = [(text(row, f"{side}_response"), number(row, f"{side}_rating")) for side in ("chosen", "rejected")]
    yield from pairs_by_score(user(text(row, "instruction")), answers, width=4.0)
