"""What the formats of other servers share: texts in, conversations out; raw rewards unless a sigmoid is asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

from fastapi import Request
from pydantic import BaseModel, ConfigDict

from facetrm.backbone.text.parsed import messages_of
from facetrm.core.errors import BackboneError
from facetrm.data.records import Conversation, Message
from facetrm.serve.refusals import RefusalError
from facetrm.serve.schema.asked import check_conversation
from facetrm.serve.served import service_of

T = TypeVar("T")


class LooseBody(BaseModel):
    """The body of a request of another program: keys that have no meaning here are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class TextPart(LooseBody):
    """One part of a message in OpenAI's format."""

    type: str
    text: str


class LooseTurn(LooseBody):
    """One message in OpenAI's format, whose content may come in parts of text."""

    role: str
    content: str | list[TextPart]

    @property
    def text(self) -> str:
        """The text of all parts."""
        return self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)


async def rendered_conversations(request: Request, texts: Sequence[str]) -> list[Conversation]:
    """Return the conversations of texts that were rendered with the model's chat template.

    Args:
        request: the request.
        texts: the rendered texts.

    Raises:
        RefusalError: the template does not render a conversation like one of them.
    """
    parser = service_of(request).parser
    if parser is None:
        raise RefusalError(
            422,
            "the model reads plain text and has no chat template, so a rendered text cannot be told apart",
            code="unreadable",
            fix="send a prompt and answers to /v1/rewards",
        )
    return await _beside(request, [lambda text=text: parser.parse(text) for text in texts])  # type: ignore[misc]


async def joined_conversations(
    request: Request, pairs: Sequence[tuple[str | Sequence[LooseTurn], str]]
) -> list[Conversation]:
    """Return the conversations of prompts and answers.

    Args:
        request: the request.
        pairs: prompts, each with its answer. A prompt is rendered with the model's chat template up to the answer, the
            plain text of one user turn, or a list of messages.

    Raises:
        RefusalError: a prompt holds control tokens, but the template does not render it, or a turn is empty.
    """
    parser = service_of(request).parser

    def joined(prompt: str | Sequence[LooseTurn], response: str) -> Conversation:
        if not isinstance(prompt, str):
            answer = response if parser is None else parser.answer_of(response)
            return checked_turns([*prompt, LooseTurn(role="assistant", content=answer)])
        if parser is None:
            return (Message(role="user", content=prompt), Message(role="assistant", content=response))
        return parser.converse(prompt, response)

    return await _beside(request, [lambda p=p, r=r: joined(p, r) for p, r in pairs])  # type: ignore[misc]


def checked_turns(turns: Sequence[LooseTurn]) -> Conversation:
    """Return messages as a conversation.

    Args:
        turns: the messages, which end with the answer.

    Raises:
        BackboneError: a role is unknown, a text is empty, or it does not end with an answer.
    """
    found = messages_of([{"role": turn.role, "content": turn.text} for turn in turns])
    try:
        check_conversation(found)
    except ValueError as exc:
        raise BackboneError(str(exc), place="messages") from None
    return found


def activated(reward: float, *, sigmoid: bool) -> float:
    """Return a reward as it is, or its sigmoid.

    Args:
        reward: the reward.
        sigmoid: whether the client asked for the activation that its own server applies.
    """
    return 0.5 * (1.0 + math.tanh(0.5 * reward)) if sigmoid else reward


async def _beside(request: Request, calls: Sequence[Callable[[], T]]) -> list[T]:
    """Run calls beside the event loop; the first that fails is named by its number."""
    service = service_of(request)
    service.check_number(len(calls))

    def run() -> list[T]:
        results = []
        for n, call in enumerate(calls):
            try:
                results.append(call())
            except (BackboneError, ValueError) as exc:
                reason, fix = (exc.problem, exc.fix) if isinstance(exc, BackboneError) else ("a turn is empty", None)
                raise RefusalError(422, reason, code="unreadable", fix=fix, row=n) from None
        return results

    return await service.aside(run)
