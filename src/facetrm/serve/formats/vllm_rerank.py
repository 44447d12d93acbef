"""vLLM's ``POST /rerank`` (Jina's and Cohere's format): the query is a prompt, the documents are its answers.

Read in vLLM's source and documentation of August 2026. The relevance score is the raw reward.
"""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from facetrm.serve.formats.reading import LooseBody, activated, joined_conversations
from facetrm.serve.formats.vllm_classify import VllmUsage, vllm_head, vllm_usage
from facetrm.serve.schema.asked import ANSWERS_EXAMPLE, PROMPT_EXAMPLE
from facetrm.serve.served import REFUSED, check_name, score_all, service_of

vllm_rerank_router: Final = APIRouter(tags=["formats of other servers"])


class RerankRequest(LooseBody):
    """Answers to one prompt."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"query": PROMPT_EXAMPLE, "documents": [*ANSWERS_EXAMPLE]}]}
    )

    model: str | None = None
    query: str = Field(description="The prompt: plain, or rendered up to the answer.")
    documents: Annotated[list[str], Field(min_length=1)] = Field(description="The answers.")
    top_n: int | None = Field(default=None, ge=0, description="How many to return; 0 or nothing returns all.")
    use_activation: bool | None = Field(default=None, description="true: the sigmoid of the reward.")


class RankedText(BaseModel):
    """The text of an answer."""

    text: str


class RankedDocument(BaseModel):
    """One answer with its reward."""

    index: int
    document: RankedText
    relevance_score: float


class RerankResponse(BaseModel):
    """The answers from best to worst."""

    id: str
    model: str
    usage: VllmUsage
    results: list[RankedDocument]


@vllm_rerank_router.post("/rerank", responses=REFUSED)
@vllm_rerank_router.post("/v1/rerank", responses=REFUSED)
@vllm_rerank_router.post("/v2/rerank", responses=REFUSED)
async def rerank_documents(body: RerankRequest, request: Request) -> RerankResponse:
    """Rank answers to a prompt as vLLM's `/rerank` does; equal rewards keep their order."""
    check_name(service_of(request), body.model)
    conversations = await joined_conversations(request, [(body.query, text) for text in body.documents])
    scores = await score_all(request, conversations)
    order = sorted(range(len(scores)), key=lambda n: -scores[n].reward)[: body.top_n or None]
    head = vllm_head(request, "rerank")
    return RerankResponse(
        id=head["id"],
        model=head["model"],
        usage=vllm_usage(scores),
        results=[
            RankedDocument(
                index=n,
                document=RankedText(text=body.documents[n]),
                relevance_score=activated(scores[n].reward, sigmoid=body.use_activation is True),
            )
            for n in order
        ],
    )
