"""``POST /get_reward``, which two trainers send with different bodies.

OpenRLHF 0.11 (remote reward model): ``{query, prompts, labels}`` -> ``{rewards, scores, extra_logs}``. A query is the
whole text as the policy's template renders it. If ``prompts`` is given and begins the query, the rest is the answer.
``scores`` lie in [0, 1] as its filters expect: the sigmoid of the reward. ``extra_logs`` has the base and each
objective's contribution, so that their sum is the reward. Every reply has the same keys: an objective of another task
contributes 0.

align-anything (November 2025): ``{prompts, responses, golden_responses}`` -> ``{rewards}``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final, TypeAlias

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from facetrm.model.output import Score
from facetrm.model.reward_model import RewardModel
from facetrm.serve.formats.reading import LooseBody, activated, joined_conversations, rendered_conversations
from facetrm.serve.schema.asked import ANSWERS_EXAMPLE, PROMPT_EXAMPLE
from facetrm.serve.served import REFUSED, score_all, service_of

remote_reward_router: Final = APIRouter(tags=["formats of other servers"])


class OpenRlhfRequest(LooseBody):
    """Whole texts, as OpenRLHF sends them."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"query": [f"{PROMPT_EXAMPLE} {ANSWERS_EXAMPLE[0]}"], "prompts": [f"{PROMPT_EXAMPLE} "], "labels": [""]}
            ]
        }
    )

    query: Annotated[list[str], Field(min_length=1)] | str
    prompts: list[str] | str | None = None

    @model_validator(mode="after")
    def _one_prompt_each(self) -> OpenRlhfRequest:
        if self.starts and len(self.starts) != len(self.texts):
            raise ValueError(f"{len(self.texts)} queries, but {len(self.starts)} prompts")
        return self

    @property
    def texts(self) -> list[str]:
        """The queries."""
        return [self.query] if isinstance(self.query, str) else list(self.query)

    @property
    def starts(self) -> list[str]:
        """The prompts; empty if there are none."""
        return [self.prompts] if isinstance(self.prompts, str) else list(self.prompts or [])


class AlignAnythingRequest(LooseBody):
    """Prompts and answers, as align-anything sends them."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"prompts": [PROMPT_EXAMPLE], "responses": [ANSWERS_EXAMPLE[0]]}]}
    )

    prompts: Annotated[list[str], Field(min_length=1)]
    responses: list[str]

    @model_validator(mode="after")
    def _one_answer_each(self) -> AlignAnythingRequest:
        if len(self.prompts) != len(self.responses):
            raise ValueError(f"{len(self.prompts)} prompts, but {len(self.responses)} responses")
        return self


def _sender(body: Any) -> str:
    """Return which trainer sends a body: only align-anything has answers apart from the whole texts."""
    return "align-anything" if isinstance(body, dict) and "query" not in body and "responses" in body else "OpenRLHF"


RemoteRequest: TypeAlias = Annotated[
    Annotated[OpenRlhfRequest, Tag("OpenRLHF")] | Annotated[AlignAnythingRequest, Tag("align-anything")],
    Discriminator(_sender),
]


class RemoteRewards(BaseModel):
    """The rewards; the other fields are there for OpenRLHF."""

    rewards: list[float]
    scores: list[float] | None = None
    extra_logs: dict[str, list[float]] | None = None


@remote_reward_router.post("/get_reward", responses=REFUSED, response_model_exclude_none=True)
async def give_remote_rewards(body: RemoteRequest, request: Request) -> RemoteRewards:
    """Give raw rewards to OpenRLHF or align-anything."""
    if isinstance(body, AlignAnythingRequest):
        pairs = list(zip(body.prompts, body.responses, strict=True))
        scores = await score_all(request, await joined_conversations(request, pairs))
        return RemoteRewards(rewards=[score.reward for score in scores])
    starts = body.starts or [""] * len(body.texts)
    if all(start and text.startswith(start) for text, start in zip(body.texts, starts, strict=True)):
        pairs = [(start, text[len(start) :]) for text, start in zip(body.texts, starts, strict=True)]
        conversations = await joined_conversations(request, pairs)
    else:
        conversations = await rendered_conversations(request, body.texts)
    scores = await score_all(request, conversations)
    rewards = [score.reward for score in scores]
    return RemoteRewards(
        rewards=rewards,
        scores=[activated(reward, sigmoid=True) for reward in rewards],
        extra_logs=_parts(scores, service_of(request).model),
    )


def _parts(scores: Sequence[Score], model: RewardModel) -> dict[str, list[float]]:
    """Return the base and the contribution of each objective of any task, for each score: every reply has all keys."""
    names = dict.fromkeys(one.name for mixture in model.mixtures.values() for one in mixture.objectives)
    parts = {name: [score.contributions.get(name, 0.0) for score in scores] for name in names}
    return {"base": [score.base for score in scores], **parts}
