"""Settings of labelling: whom to ask, how, how often, and for how much."""

from __future__ import annotations

import json
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field, field_validator

from facetrm.core.config import Section, Seed

_DAY: Final = 86_400.0
_MOST: Final = 1e12


def _encodable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("write printable characters only")
    return text


_Text = Annotated[str, AfterValidator(_encodable)]


class LabelConfig(Section):
    """Settings of ``facetrm label``.

    Attributes:
        model: the judge's name, as the server knows it.
        base_url: the address of an OpenAI-compatible API, up to ``/v1``.
        api_key_env: the name of the environment variable that holds the key. The key itself stands nowhere.
        task: the rubric's task for rows that name none.
        tasks: from a row's own name of a task to the rubric's, where they differ.
        unknown_task: ``raise`` refuses a row whose task the rubric does not have; ``skip`` leaves it out and counts it.
        answer_format: ``schema`` asks the server to enforce the JSON schema of a verdict, ``text`` does not, ``auto``
            tries the first and takes the second where the server refuses. One strict parser reads all replies.
        system_message: the instructions are a message of their own; off for models whose template has no such role.
        temperature: sent with each request; null leaves it out, for servers that refuse it.
        seed: sent with each request; null leaves it out.
        max_tokens: the longest answer, in tokens; a model that thinks aloud needs more.
        max_tokens_field: what the server calls it.
        extra: further fields of the request, such as ``{chat_template_kwargs: {enable_thinking: false}}``.
        in_flight: requests at once.
        requests_per_minute: the most that is sent; null sets no limit.
        timeout: seconds for one request, from the connection to the last byte of the answer.
        tries: requests for one question, until it is given up and named in the list of failures.
        readings: replies to one question that are not a verdict, until it is given up.
        first_wait: seconds before the second try; doubled for each further one, with jitter.
        longest_wait: the longest such wait, in seconds; a server that asks for more ends the question.
        give_up_after: questions that fail in a row, with no answer in between, until the run stops.
        max_requests: the most requests of one run, repeated ones included; null sets no limit.
        max_cost: the most that this folder may cost, in the unit of the prices; requests in flight are paid beyond it.
        price_in: the price of a million tokens sent; without prices only tokens are counted.
        price_out: the price of a million tokens received.
    """

    model: _Text = Field(min_length=1)
    base_url: str | None = None
    api_key_env: str = "OPENAI_API_KEY"
    task: _Text | None = None
    tasks: dict[str, str] = Field(default_factory=dict)
    unknown_task: Literal["raise", "skip"] = "raise"
    answer_format: Literal["auto", "schema", "text"] = "auto"
    system_message: bool = True
    temperature: float | None = Field(default=0.0, ge=0.0, le=100.0)
    seed: Seed | None = 0
    max_tokens: int = Field(default=64, ge=1, le=10**7)
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    extra: dict[str, Any] = Field(default_factory=dict)
    in_flight: int = Field(default=16, ge=1, le=1000)
    requests_per_minute: float | None = Field(default=None, ge=0.01, le=1e6)
    timeout: float = Field(default=120.0, gt=0.0, le=_DAY)
    tries: int = Field(default=8, ge=1, le=1000)
    readings: int = Field(default=2, ge=1, le=1000)
    first_wait: float = Field(default=0.5, gt=0.0, le=_DAY)
    longest_wait: float = Field(default=60.0, gt=0.0, le=_DAY)
    give_up_after: int = Field(default=20, ge=1)
    max_requests: int | None = Field(default=None, ge=1)
    max_cost: float | None = Field(default=None, gt=0.0, le=_MOST)
    price_in: float | None = Field(default=None, ge=0.0, le=_MOST)
    price_out: float | None = Field(default=None, ge=0.0, le=_MOST)

    @field_validator("extra")
    @classmethod
    def _sendable(cls, extra: dict[str, Any]) -> dict[str, Any]:
        taken = sorted({"model", "messages", "stream", "n"} & extra.keys())
        if taken:
            raise ValueError(f"'{taken[0]}' is not a field that can be set here")
        try:
            json.dumps(extra, allow_nan=False, ensure_ascii=False).encode()
        except (TypeError, ValueError, RecursionError):
            raise ValueError("it holds what JSON cannot, such as a date or .nan: quote it") from None
        return extra

    def sampling(self) -> dict[str, Any]:
        """Return what, beside the messages, decides the answer: part of a question's key."""
        fixed = {"temperature": self.temperature, "seed": self.seed, "max_tokens": self.max_tokens}
        return {"model": self.model, **fixed, "extra": self.extra}

    def cost(self, tokens_in: int, tokens_out: int) -> float | None:
        """Return the price of so many tokens sent (``tokens_in``) and received (``tokens_out``); None if unknown."""
        if self.price_in is None or self.price_out is None:
            return None
        return (tokens_in * self.price_in + tokens_out * self.price_out) / 1e6
