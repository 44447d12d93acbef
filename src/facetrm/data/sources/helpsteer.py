"""HelpSteer: five human ratings of 0 to 4 per answer."""

from __future__ import annotations

from facetrm.data.objectives import Objective
from facetrm.data.read.columns import Row
from facetrm.data.sources.raw import number, pairs_by_score, rated, text, user
from facetrm.data.sources.registry import Records, source

_HUB = "nvidia/HelpSteer"
_LICENCE = "CC-BY-4.0"
_CITATION = "Wang et al. 2023, HelpSteer: Multi-attribute Helpfulness Dataset for SteerLM (arXiv 2311.09528)"

_MEANINGS = {
    "helpfulness": "how helpful the answer is overall",
    "correctness": "whether the pertinent facts are there, without errors",
    "coherence": "how consistent and clear the answer is",
    "complexity": "how much expertise it takes to write the answer",
    "verbosity": "how much detail there is, relative to what was asked",
}
OBJECTIVES = tuple(
    Objective(name=f"helpsteer-{key}", low=0, high=4, meaning=meaning, rater="human (crowd)", source="helpsteer")
    for key, meaning in _MEANINGS.items()
)


@source("helpsteer", hub=_HUB, kind="rating", objectives=OBJECTIVES, licence=_LICENCE, citation=_CITATION)
def helpsteer(row: Row) -> Records:
    """Columns ``prompt, response`` and one per attribute, integers 0 to 4."""
    ratings = {f"helpsteer-{key}": number(row, key) for key in _MEANINGS}
    yield rated(user(text(row, "prompt")), text(row, "response"), ratings, OBJECTIVES)


@source(
    "helpsteer-preferences",
    hub=_HUB,
    kind="preference",
    licence=_LICENCE,
    citation=_CITATION,
    group_by=lambda row: text(row, "prompt"),
)
def helpsteer_preferences(rows: list[Row]) -> Records:
    """All pairs of answers to a prompt, ranked by mean(helpfulness, correctness); equal means are dropped."""
    answers = []
    for row in rows:
        scores = [number(row, key) for key in ("helpfulness", "correctness")]
        known = [score for score in scores if score is not None]
        answers.append((text(row, "response"), sum(known) / 2 if len(known) == 2 else None))
    yield from pairs_by_score(user(text(rows[0], "prompt")), answers, width=4.0)
