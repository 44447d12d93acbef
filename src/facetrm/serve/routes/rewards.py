"""``POST /v1/rewards``: the scores of conversations, each with everything it is made of."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter, Request

from facetrm.model.output import Score
from facetrm.serve.refusals import refusal_of
from facetrm.serve.schema.asked import RewardsRequest
from facetrm.serve.schema.given import RewardsResponse, Usage
from facetrm.serve.served import (
    REFUSED,
    all_readable,
    edit_record,
    edited,
    provenance,
    request_id,
    row_score,
    score_each,
    service_of,
)

rewards_router: Final = APIRouter(tags=["rewards"])


@rewards_router.post("/v1/rewards", responses=REFUSED)
async def give_rewards(body: RewardsRequest, request: Request) -> RewardsResponse:
    """Score conversations: the reward of each, and how it is made up.

    A conversation that cannot be scored never gets the reward 0: the request is refused with the reason, or, with
    `on_error: skip`, its reward is null beside the reason.
    """
    asked, model = await edited(request, body)
    conversations = body.asked if body.on_error == "skip" else all_readable(body.asked)
    found = await score_each(request, conversations, model=model)
    failed = next(((n, one) for n, one in enumerate(found) if isinstance(one, Exception)), None)
    if failed is not None and body.on_error == "stop":
        raise refusal_of(failed[1], row=failed[0])
    service = service_of(request)
    return RewardsResponse(
        id=f"rewards-{request_id(request)}",
        scores=[row_score(n, one) for n, one in enumerate(found)],
        provenance=provenance(service, model),
        edit=edit_record(service, asked),
        usage=Usage(tokens=sum(one.tokens for one in found if isinstance(one, Score))),
    )
