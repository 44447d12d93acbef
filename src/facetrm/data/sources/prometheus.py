"""Prometheus: the Feedback Collection (absolute scores 1 to 5 under a rubric) and the Preference Collection (pairs)."""

from __future__ import annotations

from facetrm.core.errors import DataError
from facetrm.data.objectives import Objective
from facetrm.data.read.columns import Row, short
from facetrm.data.sources.raw import number, preferred, rated, text, user, value
from facetrm.data.sources.registry import Dropped, Records, source

OBJECTIVES = (
    Objective(
        name="prometheus-score",
        low=1,
        high=5,
        meaning="how well the answer meets the row's own rubric",
        rater="GPT-4",
        source="prometheus",
    ),
)


@source(
    "prometheus",
    hub="prometheus-eval/Feedback-Collection",
    kind="rating",
    objectives=OBJECTIVES,
    licence="CC-BY-4.0",
    citation="Kim et al. 2023, Prometheus: Inducing Fine-grained Evaluation Capability in LMs (arXiv 2310.08491)",
)
def prometheus(row: Row) -> Records:
    """Columns ``orig_instruction, orig_response, orig_score`` (text) and ``orig_criteria`` (kept in ``meta``)."""
    yield rated(
        user(text(row, "orig_instruction")),
        text(row, "orig_response"),
        {"prometheus-score": number(row, "orig_score")},
        OBJECTIVES,
        meta={"rubric": row["orig_criteria"]} if row.get("orig_criteria") else {},
    )


@source(
    "prometheus-preferences",
    hub="prometheus-eval/Preference-Collection",
    kind="preference",
    licence="CC-BY-4.0",
    citation="Kim et al. 2024, Prometheus 2: An Open Source Language Model Specialized in Evaluating Other LMs "
    "(arXiv 2405.01535)",
)
def prometheus_preferences(row: Row) -> Records:
    """``orig_preference`` (``A`` or ``B``) says which of ``orig_response_A`` and ``orig_response_B`` is better."""
    verdict = value(row, "orig_preference")
    if verdict not in ("A", "B"):
        raise DataError(f"'orig_preference' is {short(verdict)}", fix="it must be 'A' or 'B'")
    answers = [text(row, f"orig_response_{letter}") for letter in (verdict, "A" if verdict == "B" else "B")]
    if answers[0] == answers[1]:
        yield Dropped("equal texts")
        return
    scores = [number(row, f"orig_score_{letter}") if f"orig_score_{letter}" in row else None for letter in "AB"]
    gap = abs(scores[0] - scores[1]) if scores[0] is not None and scores[1] is not None else 0.0
    meta = {"rubric": row["orig_criteria"]} if row.get("orig_criteria") else {}
    yield preferred(
        user(text(row, "orig_instruction")), *answers, strength=min(gap / 4.0, 1.0) if gap else None, meta=meta
    )
