"""``POST /v1/explain``: why an answer has its reward, or why one of two answers is ahead."""

from __future__ import annotations

from typing import Any, Final

from fastapi import APIRouter, Request

from facetrm.explain.ask import explain_local_score, explain_pair_scores, flip_explained
from facetrm.model.output import Score
from facetrm.serve.refusals import refusal_of
from facetrm.serve.schema.asked import ExplainRequest
from facetrm.serve.schema.given import ExplainResponse
from facetrm.serve.served import (
    REFUSED,
    all_readable,
    edit_record,
    edited,
    provenance,
    request_id,
    score_by,
    service_of,
)

explained_router: Final = APIRouter(tags=["rewards"])


@explained_router.post("/v1/explain", responses=REFUSED)
async def give_explanation(body: ExplainRequest, request: Request) -> ExplainResponse:
    """Explain one answer, or compare two: contributions by size, ratings on their scales, what would flip the pair."""
    asked, model = await edited(request, body)
    service, conversations = service_of(request), all_readable(body.asked)
    plain = service.variants.unedited(model)
    found = await score_by(request, conversations, [model] if plain is model else [model, plain])
    rows = list[list[Score]]()
    for n, one in enumerate(found):
        if isinstance(one, Exception):
            raise refusal_of(one, row=n)
        rows.append(one)
    scores, before = [row[0] for row in rows], None if plain is model else [row[1] for row in rows]

    def explained() -> tuple[dict[str, Any], dict[str, Any] | None]:
        if len(conversations) == 1:
            return explain_local_score(model, scores[0], before=before[0] if before else None).to_dict(), None
        a, b = conversations
        pair = explain_pair_scores(model, a, b, scores=scores, before=before, preferred=body.preferred)
        flip = flip_explained(model, pair)
        return pair.to_dict(), None if flip is None else flip.to_dict()

    try:
        explanation, flip = await service.aside(explained)
    except Exception as exc:
        raise refusal_of(exc) from None
    return ExplainResponse(
        id=f"explain-{request_id(request)}",
        kind="answer" if len(conversations) == 1 else "pair",
        explanation=explanation,
        flip=flip,
        provenance=provenance(service, model),
        edit=edit_record(service, asked),
    )
