"""vLLM's ``POST /pooling``, the documented online route for reward models: one vector of one number per conversation.

Read in vLLM's source and documentation of August 2026: ``encoding_format: base64`` holds little-endian float32.
"""

from __future__ import annotations

import base64
import struct
from typing import Final, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel

from facetrm.serve.formats.reading import activated
from facetrm.serve.formats.vllm_classify import VllmRequest, VllmUsage, vllm_head, vllm_scores, vllm_usage
from facetrm.serve.served import REFUSED

vllm_pooling_router: Final = APIRouter(tags=["formats of other servers"])


class PoolingRequest(VllmRequest):
    """Rendered texts (``input``) or one conversation (``messages``); the only task is ``classify``."""

    task: Literal["classify"] | None = None
    encoding_format: Literal["float", "base64"] = "float"


class PooledRow(BaseModel):
    """The reward of one conversation, as a vector of one number."""

    index: int
    object: str = "pooling"
    data: list[float] | str


class PoolingResponse(BaseModel):
    """The rewards in vLLM's form."""

    id: str
    object: str = "list"
    created: int
    model: str
    data: list[PooledRow]
    usage: VllmUsage


@vllm_pooling_router.post("/pooling", responses=REFUSED)
async def pool_texts(body: PoolingRequest, request: Request) -> PoolingResponse:
    """Give rewards as vLLM's `/pooling` does, raw unless `use_activation` is true."""
    scores = await vllm_scores(request, body)
    rewards = [activated(score.reward, sigmoid=body.use_activation is True) for score in scores]
    packed = body.encoding_format == "base64"
    return PoolingResponse(
        **vllm_head(request, "pool"),
        data=[
            PooledRow(index=n, data=base64.b64encode(struct.pack("<f", reward)).decode() if packed else [reward])
            for n, reward in enumerate(rewards)
        ],
        usage=vllm_usage(scores),
    )
