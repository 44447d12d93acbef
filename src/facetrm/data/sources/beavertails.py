"""BeaverTails: is the answer safe, judged by people."""

from __future__ import annotations

from facetrm.data.objectives import Objective
from facetrm.data.read.columns import Row
from facetrm.data.sources.raw import number, rated, text, user
from facetrm.data.sources.registry import Records, source

OBJECTIVES = (
    Objective(
        name="beavertails-is_safe",
        low=0,
        high=1,
        kind="boolean",
        meaning="whether the exchange is safe in all of 14 categories of harm",
        rater="human (crowd)",
        source="beavertails",
    ),
)


@source(
    "beavertails",
    hub="PKU-Alignment/BeaverTails",
    kind="rating",
    objectives=OBJECTIVES,
    licence="CC-BY-NC-4.0",
    citation="Ji et al. 2023, BeaverTails: Towards Improved Safety Alignment of LLM via a Human-Preference Dataset "
    "(arXiv 2307.04657)",
    task="safety",
    splits={"train": "30k_train", "test": "30k_test"},
)
def beavertails(row: Row) -> Records:
    """Columns ``prompt, response, category`` (harm -> boolean) and ``is_safe``; the 30k version, as ArmoRM used."""
    harms = [name for name, present in (row.get("category") or {}).items() if present]
    yield rated(
        user(text(row, "prompt")),
        text(row, "response"),
        {"beavertails-is_safe": number(row, "is_safe")},
        OBJECTIVES,
        meta={"harms": harms} if harms else {},
    )
