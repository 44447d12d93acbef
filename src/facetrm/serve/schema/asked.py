"""The bodies of requests to the native routes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator

from facetrm.data.records import Conversation, Message, Role
from facetrm.serve.refusals import RefusalError

PROMPT_EXAMPLE: Final = "How can I sleep better?"
ANSWERS_EXAMPLE: Final = ["Go to bed at the same time every day.", "What a stupid question."]
PAIR_EXAMPLE: Final[dict[str, Any]] = {"prompt": PROMPT_EXAMPLE, "responses": ANSWERS_EXAMPLE}
TALK_EXAMPLE: Final[Any] = [
    {"role": "user", "content": PROMPT_EXAMPLE},
    {"role": "assistant", "content": ANSWERS_EXAMPLE[0]},
]


class Body(BaseModel):
    """The body of a request: frozen, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class AskedTurn(Body):
    """One message. A blank one makes its own conversation unreadable, not the request."""

    role: Role
    content: str


Text = Annotated[str, Field(min_length=1)]
Talk = Annotated[list[AskedTurn], Field(min_length=1, max_length=1000)]
Answers = Annotated[list[str], Field(min_length=1)]
Factor = Annotated[float, Field(ge=0.0, le=1e6, allow_inf_nan=False)]
Asked: TypeAlias = Conversation | RefusalError
"""A conversation, or why it cannot be read."""


class EditedBody(Body):
    """A request that may change the weights of the objectives."""

    model: str | None = Field(default=None, description="The served model's name; only it is accepted.")
    objective_weights: dict[str, Factor] = Field(
        default_factory=dict, description="Factors for the weights of objectives, by name."
    )
    mask: list[str] = Field(default_factory=list, description="Objectives that are dropped, by name.")


class TalksBody(EditedBody):
    """Conversations in one of three forms: ``messages``, ``conversations``, or ``prompt`` and ``responses``."""

    messages: Talk | None = Field(default=None, description="One conversation, which ends with the answer.")
    conversations: Annotated[list[Talk], Field(min_length=1)] | None = Field(
        default=None, description="Several conversations."
    )
    prompt: Text | Talk | None = Field(default=None, description="A prompt: its text, or its messages.")
    responses: Answers | None = Field(default=None, description="Answers to the prompt.")

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        check_form(self)
        return self

    @property
    def asked(self) -> list[Asked]:
        """The conversations, in order."""
        return asked_in(self)


class RewardsRequest(TalksBody):
    """Conversations to score: give ``messages``, ``conversations``, or ``prompt`` and ``responses``."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                PAIR_EXAMPLE,
                {"messages": TALK_EXAMPLE},
                {"conversations": [TALK_EXAMPLE], "on_error": "skip"},
                {**PAIR_EXAMPLE, "objective_weights": {}, "mask": []},
            ]
        }
    )

    on_error: Literal["stop", "skip"] = Field(
        default="stop",
        description="A conversation that cannot be scored: refuse the request, or give null and the reason.",
    )


class ExplainRequest(TalksBody):
    """One answer, or two answers to compare: ``messages``, ``conversations``, or ``prompt`` and ``responses``."""

    model_config = ConfigDict(json_schema_extra={"examples": [PAIR_EXAMPLE, {"messages": TALK_EXAMPLE}]})

    conversations: Annotated[list[Talk], Field(min_length=1, max_length=2)] | None = Field(
        default=None, description="One conversation, or two to compare."
    )
    responses: Annotated[list[str], Field(min_length=1, max_length=2)] | None = Field(
        default=None, description="One answer to the prompt, or two to compare."
    )
    preferred: Literal["A", "B"] | None = Field(default=None, description="The answer that people prefer, if known.")


class BestOfRequest(EditedBody):
    """Answers to one prompt, which are ranked."""

    model_config = ConfigDict(json_schema_extra={"examples": [PAIR_EXAMPLE]})

    prompt: Text | Talk = Field(description="The prompt: its text, or its messages.")
    responses: Answers = Field(description="The answers.")

    @property
    def asked(self) -> list[Asked]:
        """The conversations, in order."""
        return answered(self.prompt, self.responses)


def answered(prompt: str | list[AskedTurn], responses: list[str]) -> list[Asked]:
    """Return one conversation per answer to a prompt.

    Args:
        prompt: text of the prompt, or its messages.
        responses: the answers.
    """
    turns = [AskedTurn(role="user", content=prompt)] if isinstance(prompt, str) else prompt
    return [_read([*turns, AskedTurn(role="assistant", content=text)], row) for row, text in enumerate(responses)]


def asked_in(body: TalksBody) -> list[Asked]:
    """Return the conversations of a request, in order.

    Args:
        body: the body, in one of its forms.
    """
    if body.messages is not None:
        return [_read(body.messages, 0)]
    if body.conversations is not None:
        return [_read(turns, row) for row, turns in enumerate(body.conversations)]
    return answered(body.prompt or [], body.responses or [])


def check_form(body: TalksBody) -> None:
    """Check that a request has one of its forms.

    Args:
        body: the body.

    Raises:
        ValueError: it has none of them, or several.
    """
    given = [name for name in ("messages", "conversations", "prompt", "responses") if getattr(body, name) is not None]
    if given not in (["messages"], ["conversations"], ["prompt", "responses"]):
        found = f"found {' and '.join(given)}" if given else "found none of them"
        raise ValueError(f"give messages, or conversations, or prompt and responses ({found})")


def check_conversation(turns: Sequence[Message | AskedTurn]) -> None:
    """Check that a conversation has a prompt, ends with an answer, and has no blank message.

    Args:
        turns: the messages.

    Raises:
        ValueError: it does not.
    """
    if turns[-1].role != "assistant":
        raise ValueError(f"end with the assistant message that is scored, not with '{turns[-1].role}'")
    if len(turns) < 2:
        raise ValueError("give the prompt before the assistant message")
    blank = next((n for n, turn in enumerate(turns) if not turn.content.strip()), None)
    if blank is not None:
        what = "the answer" if blank == len(turns) - 1 else f"message {blank} ({turns[blank].role})"
        raise ValueError(f"{what} is blank")


def _read(turns: Sequence[AskedTurn], row: int) -> Asked:
    try:
        check_conversation(turns)
    except ValueError as exc:
        return RefusalError(422, str(exc), code="unreadable", row=row)
    return tuple(Message(role=turn.role, content=turn.content) for turn in turns)
