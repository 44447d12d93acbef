"""Argilla distilabel Orca pairs: two answers per OpenOrca instruction, rated 1 to 10 by a JudgeLM-style prompt."""

from __future__ import annotations

from facetrm.core.errors import DataError
from facetrm.data.objectives import Objective
from facetrm.data.read.columns import Row
from facetrm.data.sources.raw import items, number, rated, text, user, value
from facetrm.data.sources.registry import Dropped, Records, source

OBJECTIVES = (
    Objective(
        name="argilla-judge_lm",
        low=1,
        high=10,
        meaning="how helpful, relevant, accurate and detailed the answer is",
        rater="GPT-4",
        source="argilla-openorca",
    ),
)


@source(
    "argilla-openorca",
    hub="argilla/distilabel-intel-orca-dpo-pairs",
    kind="rating",
    objectives=OBJECTIVES,
    licence="Apache-2.0",
    citation="Argilla 2024, distilabel Orca Pairs, on Intel/orca_dpo_pairs",
)
def argilla_openorca(row: Row) -> Records:
    """``rating[i]`` belongs to ``generations[i]``; ``system``, if present, goes before ``input``.

    Some rows were never rated (``rating`` null) and are dropped. The range 1 to 10 is an inference.
    """
    if value(row, "rating") is None:
        yield Dropped("not rated")
        return
    generations, ratings = items(row, "generations"), items(row, "rating")
    if len(generations) != len(ratings):
        raise DataError(f"{len(ratings)} ratings of {len(generations)} generations", fix="fix the row")
    system = row.get("system") or ""
    prompt = ([{"role": "system", "content": system}] if system.strip() else []) + user(text(row, "input"))
    for n in range(len(generations)):
        answer = {"response": generations[n], "rating": ratings[n]}
        yield rated(prompt, text(answer, "response"), {"argilla-judge_lm": number(answer, "rating")}, OBJECTIVES)
