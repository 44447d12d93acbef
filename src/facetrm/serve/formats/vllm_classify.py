"""vLLM's ``POST /classify``: one label per conversation, whose value is the reward.

Read in vLLM's source and documentation of August 2026. Two deliberate differences: the value is the raw reward, where
vLLM applies a sigmoid to a model with one label unless its config says otherwise (``use_activation: true`` asks for
it), and a rendered text never gets a second beginning-of-text token. verl's disRM client takes ``probs[-1]``, SGLang's
and vLLM's take ``probs[0]``: there is one number, so both are right.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, model_validator

from facetrm.core.errors import BackboneError
from facetrm.data.records import Conversation
from facetrm.model.output import Score
from facetrm.serve.formats.reading import LooseBody, LooseTurn, activated, checked_turns, rendered_conversations
from facetrm.serve.refusals import RefusalError
from facetrm.serve.schema.asked import TALK_EXAMPLE
from facetrm.serve.served import REFUSED, check_name, request_id, score_all, service_of

vllm_classify_router: Final = APIRouter(tags=["formats of other servers"])


class VllmRequest(LooseBody):
    """Rendered texts (``input``) or one conversation (``messages``)."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"messages": TALK_EXAMPLE, "use_activation": False}]})

    model: str | None = None
    input: str | list[str] | None = Field(default=None, description="One or several texts, rendered with the template.")
    messages: list[LooseTurn] | None = Field(default=None, min_length=1)
    use_activation: bool | None = Field(default=None, description="true: the sigmoid of the reward.")
    add_generation_prompt: bool = False
    continue_final_message: bool = False
    chat_template: str | None = None
    truncate_prompt_tokens: int | None = None

    @model_validator(mode="after")
    def _possible(self) -> VllmRequest:
        if (self.input is None) == (self.messages is None):
            raise ValueError("give input or messages")
        if self.input == []:
            raise ValueError("input is empty")
        if self.add_generation_prompt or self.continue_final_message:
            raise ValueError("a conversation is scored as it ends: leave out add_generation_prompt")
        if self.chat_template is not None:
            raise ValueError("the model's own chat template is used: leave chat_template out")
        if self.truncate_prompt_tokens not in (None, -1):
            raise ValueError("truncation is set when the server starts: leave truncate_prompt_tokens out")
        return self


class VllmUsage(BaseModel):
    """The tokens that were read."""

    prompt_tokens: int
    total_tokens: int
    completion_tokens: int = 0
    prompt_tokens_details: None = None


class ClassifiedRow(BaseModel):
    """The reward of one conversation."""

    index: int
    label: str = "LABEL_0"
    probs: list[float]
    num_classes: int = 1


class ClassifyResponse(BaseModel):
    """The rewards in vLLM's form."""

    id: str
    object: str = "list"
    created: int
    model: str
    data: list[ClassifiedRow]
    usage: VllmUsage


@vllm_classify_router.post(
    "/classify",
    responses=REFUSED,
)
async def classify_texts(body: VllmRequest, request: Request) -> ClassifyResponse:
    """Give rewards as vLLM's `/classify` does, raw unless `use_activation` is true."""
    scores = await vllm_scores(request, body)
    rewards = [activated(score.reward, sigmoid=body.use_activation is True) for score in scores]
    return ClassifyResponse(
        **vllm_head(request, "classify"),
        data=[ClassifiedRow(index=n, probs=[reward]) for n, reward in enumerate(rewards)],
        usage=vllm_usage(scores),
    )


async def vllm_scores(request: Request, body: VllmRequest) -> list[Score]:
    """Return the scores of the conversations in a request.

    Args:
        request: the request.
        body: its body.

    Raises:
        RefusalError: the model has another name, or a text cannot be read.
    """
    check_name(service_of(request), body.model)
    conversations: Sequence[Conversation]
    if body.messages is not None:
        try:
            conversations = [checked_turns(body.messages)]
        except BackboneError as exc:
            raise RefusalError(422, exc.problem, code="unreadable", fix=exc.fix) from None
    else:
        texts = [body.input] if isinstance(body.input, str) else list(body.input or [])
        conversations = await rendered_conversations(request, texts)
    return await score_all(request, conversations)


def vllm_head(request: Request, kind: str) -> dict[str, Any]:
    """Return the fields that begin a response of vLLM.

    Args:
        request: the request.
        kind: what the id begins with.
    """
    return {"id": f"{kind}-{request_id(request)}", "created": int(time.time()), "model": service_of(request).name}


def vllm_usage(scores: Sequence[Score]) -> VllmUsage:
    """Return the number of tokens of all scores.

    Args:
        scores: the scores.
    """
    tokens = sum(score.tokens for score in scores)
    return VllmUsage(prompt_tokens=tokens, total_tokens=tokens)
