"""``POST /slime``: one sample of slime in, one number out.

Read in slime's source of August 2026: with ``--rm-type remote_rm`` it posts ``{prompt, response, label}`` to the whole
address in ``--rm-url``, and the JSON of the answer is the reward.
"""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Request
from pydantic import ConfigDict, Field

from facetrm.serve.formats.reading import LooseBody, LooseTurn, joined_conversations
from facetrm.serve.schema.asked import ANSWERS_EXAMPLE, PROMPT_EXAMPLE
from facetrm.serve.served import REFUSED, score_all

slime_router: Final = APIRouter(tags=["formats of other servers"])


class SlimeRequest(LooseBody):
    """A prompt (rendered, plain, or messages) and its answer; the label is not used."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"prompt": PROMPT_EXAMPLE, "response": ANSWERS_EXAMPLE[0], "label": None}]}
    )

    prompt: str | Annotated[list[LooseTurn], Field(min_length=1)]
    response: str


@slime_router.post("/slime", responses=REFUSED)
async def reward_sample(body: SlimeRequest, request: Request) -> float:
    """Give the raw reward of one sample of slime."""
    [score] = await score_all(request, await joined_conversations(request, [(body.prompt, body.response)]))
    return score.reward
