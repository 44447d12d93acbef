"""``POST /v1/best-of``: answers to one prompt from best to worst, and why the best one is ahead."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter, Request

from facetrm.explain.local import explain_scores_pair
from facetrm.serve.refusals import refusal_of
from facetrm.serve.schema.asked import BestOfRequest
from facetrm.serve.schema.given import BestOfResponse, Usage
from facetrm.serve.served import (
    REFUSED,
    all_readable,
    edit_record,
    edited,
    provenance,
    request_id,
    row_score,
    score_all,
    service_of,
)

ranked_router: Final = APIRouter(tags=["rewards"])


@ranked_router.post("/v1/best-of", responses=REFUSED)
async def rank_answers(body: BestOfRequest, request: Request) -> BestOfResponse:
    """Rank the answers to one prompt; equal rewards keep the order of the request."""
    asked, model = await edited(request, body)
    scores = await score_all(request, all_readable(body.asked), model=model)
    order = sorted(range(len(scores)), key=lambda n: -scores[n].reward)
    margin, facts = None, list[str]()
    if len(order) > 1:
        try:
            pair = explain_scores_pair(scores[order[0]], scores[order[1]], same_prompt=None)
        except Exception as exc:
            raise refusal_of(exc) from None
        margin, facts = pair.margin, list(pair.facts)
    service = service_of(request)
    return BestOfResponse(
        id=f"best-of-{request_id(request)}",
        winner=order[0],
        margin=margin,
        facts=facts,
        ranked=[row_score(n, scores[n]) for n in order],
        provenance=provenance(service, model),
        edit=edit_record(service, asked),
        usage=Usage(tokens=sum(score.tokens for score in scores)),
    )
