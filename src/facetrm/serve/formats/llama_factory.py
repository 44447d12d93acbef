"""LLaMA-Factory's ``POST /v1/score/evaluation``: rendered texts in, scores out.

Read in its source of August 2026: PPO with ``reward_model_type: api`` posts ``{"model", "messages": [str]}``
to whatever address ``reward_model`` holds and reads ``scores``. Its texts may have padding before and after.
"""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from facetrm.serve.formats.reading import LooseBody, rendered_conversations
from facetrm.serve.served import REFUSED, request_id, score_all, service_of

llama_factory_router: Final = APIRouter(tags=["formats of other servers"])


class ScoreEvaluationRequest(LooseBody):
    """Rendered texts; the name of the model is always ``model`` there, so it is not checked."""

    messages: Annotated[list[str], Field(min_length=1)]


class ScoreEvaluationResponse(BaseModel):
    """The raw rewards, in order."""

    id: str
    object: str = "score.evaluation"
    model: str
    scores: list[float]


@llama_factory_router.post("/v1/score/evaluation", responses=REFUSED)
async def evaluate_scores(body: ScoreEvaluationRequest, request: Request) -> ScoreEvaluationResponse:
    """Give raw rewards to LLaMA-Factory."""
    scores = await score_all(request, await rendered_conversations(request, body.messages))
    return ScoreEvaluationResponse(
        id=f"scoreeval-{request_id(request)}",
        model=service_of(request).name,
        scores=[score.reward for score in scores],
    )
