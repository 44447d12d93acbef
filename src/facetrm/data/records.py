"""The two kinds of records: an absolute :class:`Rating` and a :class:`Preference`."""

from __future__ import annotations

import hashlib
import math
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from facetrm.core.fingerprint import fingerprint

Role = Literal["system", "user", "assistant"]


class Record(BaseModel):
    """Base class of records: frozen, and unknown keys are rejected."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Message(Record):
    """One message of a conversation in OpenAI's format.

    Example:
        >>> from facetrm import Message
        >>> Message(role="user", content="how are you ?").content
        'how are you ?'
    """

    role: Role
    content: str

    @field_validator("content")
    @classmethod
    def _not_blank(cls, content: str) -> str:
        if not content.strip():
            raise ValueError("write the text of the turn, or drop the row")
        try:
            content.encode("utf-8")
        except UnicodeEncodeError as exc:
            raise ValueError(f"fix the lone surrogate (half a character) at position {exc.start}") from None
        return content


Conversation = tuple[Message, ...]


def conversation(messages: Iterable[dict[str, str] | Message]) -> Conversation:
    """Return a validated conversation from OpenAI message dicts; the last message must be from the assistant.

    Args:
        messages: dicts with ``role`` and ``content``, or messages, oldest first.

    Raises:
        pydantic.ValidationError: A message is malformed, or the conversation does not end with a response.

    Example:
        >>> from facetrm import conversation
        >>> asked = {"role": "user", "content": "two plus two ?"}
        >>> turns = conversation([asked, {"role": "assistant", "content": "four"}])
        >>> turns[-1].role
        'assistant'
    """
    return Rating(messages=tuple(_message(m) for m in messages), ratings={}).messages


def _message(value: dict[str, str] | Message) -> Message:
    return value if isinstance(value, Message) else Message.model_validate(value)


def prompt_key(prompt: Sequence[Message]) -> str:
    """Return the key of a prompt (64 hex digits). Equal keys must never be on both sides of a split.

    Case, character width (NFKC) and runs of white space are normalised, so trivial variants count as the same prompt.
    """
    digest = hashlib.sha256()
    for message in prompt:
        text = " ".join(unicodedata.normalize("NFKC", message.content).casefold().split())
        digest.update(f"{message.role}\x1f{text}\x1e".encode())
    return digest.hexdigest()


def conversation_key(messages: Sequence[Message]) -> str:
    """Return the fingerprint (64 hex digits) of a conversation's exact text, without normalisation."""
    return fingerprint([[m.role, m.content] for m in messages])


class _Sourced(Record):
    """Fields of both records that describe their origin."""

    id: str = ""
    source: str = "local"
    subset: str | None = None
    task: str | None = None
    split: str | None = None
    meta: dict[str, Any] = Field(default_factory=dict)


class Rating(_Sourced):
    """A rated conversation: ``ratings`` maps each objective's name to its value on the source's scale.

    An absent objective was not rated; it does not count as 0.

    Example:
        >>> from facetrm import Rating, conversation
        >>> turns = [{"role": "user", "content": "two plus two ?"}, {"role": "assistant", "content": "four"}]
        >>> Rating(messages=conversation(turns), ratings={"correct": 4}).ratings
        {'correct': 4.0}
    """

    messages: tuple[Message, ...] = Field(min_length=1)
    ratings: dict[str, float]

    @field_validator("messages")
    @classmethod
    def _ends_with_answer(cls, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        if messages[-1].role != "assistant":
            raise ValueError(f"end with the assistant message that is rated, not with '{messages[-1].role}'")
        if len(messages) < 2:
            raise ValueError("give the prompt before the assistant message")
        return messages

    @field_validator("ratings")
    @classmethod
    def _finite(cls, ratings: dict[str, float]) -> dict[str, float]:
        for name, value in ratings.items():
            if not math.isfinite(value):
                raise ValueError(f"'{name}' is {value}; leave a missing rating out")
        return ratings

    @property
    def prompt(self) -> Conversation:
        """The messages before the rated one."""
        return self.messages[:-1]

    @property
    def prompt_key(self) -> str:
        """The key of the prompt, for splits."""
        return prompt_key(self.prompt)


class Preference(_Sourced):
    """Responses to one prompt, ordered best first, about one ``aspect``.

    ``strength`` in [0, 1] is how clear the preference is, or None if the source does not say.

    Example:
        >>> from facetrm import Message, Preference
        >>> answers = [Message(role="assistant", content=text) for text in ("four", "five")]
        >>> pair = Preference(prompt=[Message(role="user", content="two plus two ?")], responses=answers)
        >>> pair.chosen[-1].content
        'four'
    """

    prompt: tuple[Message, ...] = Field(min_length=1)
    responses: tuple[Message, ...] = Field(min_length=2)
    aspect: str = "overall"
    strength: float | None = Field(default=None, ge=0.0, le=1.0)

    @field_validator("prompt")
    @classmethod
    def _ends_with_question(cls, prompt: tuple[Message, ...]) -> tuple[Message, ...]:
        if prompt[-1].role != "user":
            raise ValueError(f"end the prompt with a user message, not with '{prompt[-1].role}'")
        return prompt

    @model_validator(mode="after")
    def _answers(self) -> Preference:
        for response in self.responses:
            if response.role != "assistant":
                raise ValueError(f"every response must be an assistant message, not '{response.role}'")
        return self

    @property
    def chosen(self) -> Conversation:
        """The prompt with the best response."""
        return (*self.prompt, self.responses[0])

    @property
    def rejected(self) -> Conversation:
        """The prompt with the worst response."""
        return (*self.prompt, self.responses[-1])

    @property
    def prompt_key(self) -> str:
        """The key of the prompt, for splits."""
        return prompt_key(self.prompt)
