"""``GET /v1/browse``: the evaluations and runs that were named when the server started. Nothing else is read."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field

from facetrm.serve.refusals import RefusalError
from facetrm.serve.served import REFUSED, Served

browsing_router: Final = APIRouter(tags=["page"])

Kind = Literal["errors", "disagreements", "all"]
_READ: Final[dict[int | str, dict[str, Any]]] = {
    **{status: REFUSED[status] for status in (401, 421, 422, 429)},
    404: {**REFUSED[404], "description": "There is no such benchmark or model."},
}


class BrowsedBody(BaseModel):
    """What there is to browse."""

    benchmarks: list[dict[str, Any]] = Field(description="Figures, slices and shares of each benchmark, by model.")
    runs: list[dict[str, Any]] = Field(description="Verdict and accuracies of each training run.")
    notes: list[str]


class QuestionsBody(BaseModel):
    """Some questions of a benchmark."""

    total: int = Field(description="Number of questions of this kind.")
    questions: list[dict[str, Any]]


@browsing_router.get("/v1/browse", responses=_READ)
async def tell_browsed(request: Request) -> BrowsedBody:
    """List the evaluations and runs, with their figures."""
    browsed = _browsed(request)
    return BrowsedBody(
        benchmarks=[
            {**{key: value for key, value in one.items() if key != "questions"}, "questions": len(one["questions"])}
            for one in browsed.get("benchmarks", [])
        ],
        runs=list(browsed.get("runs", [])),
        notes=list(browsed.get("notes", [])),
    )


@browsing_router.get("/v1/browse/questions", responses=_READ)
async def list_questions(
    request: Request,
    benchmark: str,
    model: str,
    other: str | None = None,
    kind: Kind = "errors",
    offset: Annotated[int, Query(ge=0, le=10_000_000)] = 0,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> QuestionsBody:
    """List questions, the most certain first: errors of a model, disagreements of two models, or all.

    Args:
        request: the request.
        benchmark: name of the benchmark.
        model: name of a model.
        other: name of a second model; needed for disagreements.
        kind: which questions.
        offset: number of questions to skip.
        limit: most questions to return.
    """
    found = {one["name"]: one for one in _browsed(request).get("benchmarks", [])}
    if benchmark not in found:
        raise RefusalError(404, "there is no such benchmark", fix="see /v1/browse")
    part = found[benchmark]
    for name in (model, *(() if other is None else (other,))):
        if name not in part["models"]:
            raise RefusalError(404, "the benchmark has no answers of such a model", fix="see /v1/browse")
    if kind == "disagreements" and other is None:
        raise RefusalError(422, "disagreements need a second model", code="invalid_body", fix="give other")
    chosen = select_questions(part, model, other, kind)
    return QuestionsBody(total=len(chosen), questions=chosen[offset : offset + limit])


def select_questions(part: Mapping[str, Any], model: str, other: str | None, kind: Kind) -> list[dict[str, Any]]:
    """Return the questions of one kind, the most certain first.

    The certainty of a model is its |margin| over its median |margin|; that of two models is the smaller one.

    Args:
        part: the benchmark.
        model: name of a model.
        other: name of a second model; None for none.
        kind: which questions.
    """
    names = [model] if other is None else [model, other]
    rows = [one for one in part["questions"] if all(name in one["sides"] for name in names)]
    scale = {
        name: median([abs(row["sides"][name]["margin"]) for row in rows if row["sides"][name]["margin"]] or [1.0])
        for name in names
    }

    def wanted(row: Mapping[str, Any]) -> bool:
        right = [row["sides"][name]["verdict"] == "right" for name in names]
        wrong = row["sides"][model]["verdict"] == "wrong"
        return kind == "all" or (wrong if kind == "errors" else right[0] != right[1])

    def certainty(row: Mapping[str, Any]) -> float:
        looked = [model] if kind == "errors" else names
        sizes: list[float] = [abs(row["sides"][name]["margin"] or 0.0) / scale[name] for name in looked]
        return min(sizes)

    return sorted((row for row in rows if wanted(row)), key=lambda row: -certainty(row))


def _browsed(request: Request) -> Mapping[str, Any]:
    served: Served = request.app.state.served
    return served.page.browsed
