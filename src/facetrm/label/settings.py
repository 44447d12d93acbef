"""The settings of labelling: the judge, the request, retries, rate limits and budgets."""

from __future__ import annotations

import json
import random
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
        api_key_env: the name of the environment variable that holds the key. The key itself is never written down.
        task: the rubric's task for rows that name none.
        tasks: the rubric's task by the row's task, for rows that use other names.
        unknown_task: ``raise`` refuses a row whose task is not in the rubric; ``skip`` leaves it out and counts it.
        answer_format: ``schema`` asks the server to enforce the JSON schema of a verdict, ``text`` does not, ``auto``
            uses the schema unless the server refuses it. The same strict parser reads all replies.
        system_message: whether the instructions are a system message. Turn it off for chat templates without one.
        temperature: the sampling temperature; null leaves it out of the request, for servers that refuse it.
        seed: the sampling seed; null leaves it out of the request.
        max_tokens: the most tokens of one reply. A reasoning model needs more.
        max_tokens_field: the name of that field in the server's API.
        extra: further fields of the request, such as ``{chat_template_kwargs: {enable_thinking: false}}``.
        in_flight: the number of concurrent requests.
        requests_per_minute: the most requests per minute; null sets no limit.
        timeout: the seconds allowed for one request, from the connection to the last byte of the response.
        tries: the most requests for one question. After that it is given up and listed in ``failures.jsonl``.
        readings: the most replies to one question that hold no valid verdict. After that it is given up.
        first_wait: the seconds before the second try. Each further wait is twice as long, with jitter.
        longest_wait: the longest wait between tries, in seconds. If a server asks for more, the question is given up.
        give_up_after: the number of questions that may fail in a row before the run stops.
        max_requests: the most requests of one run, including retries; null sets no limit.
        max_cost: the most that this folder may cost, in the currency of the prices. Requests in flight can exceed it.
        price_in: the price of a million prompt tokens. Without prices only tokens are counted.
        price_out: the price of a million completion tokens.
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
            raise ValueError("it holds a value that JSON cannot express, such as a date or .nan: quote it") from None
        return extra

    def sampling(self) -> dict[str, Any]:
        """Return the settings that affect the answer. They are part of a question's key."""
        fixed = {"temperature": self.temperature, "seed": self.seed, "max_tokens": self.max_tokens}
        return {"model": self.model, **fixed, "extra": self.extra}

    def backoff(self, tries: int) -> float:
        """Return the seconds to wait after a number of tries: they double up to ``longest_wait``, with a random part.

        Args:
            tries: the number of tries so far.
        """
        return min(self.longest_wait, self.first_wait * 2.0 ** min(tries - 1, 60)) * random.uniform(0.5, 1.0)

    def cost(self, tokens_in: int, tokens_out: int) -> float | None:
        """Return the cost of a number of tokens, or None if the prices are unknown.

        Args:
            tokens_in: the number of prompt tokens.
            tokens_out: the number of completion tokens.
        """
        if self.price_in is None or self.price_out is None:
            return None
        return (tokens_in * self.price_in + tokens_out * self.price_out) / 1e6
