"""The judge behind an OpenAI-compatible API: one request in, a :class:`Reply` or a :class:`Fault` out; no retries here.

The key is read from the environment and is taken out of every text that comes back.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol, final

from facetrm.core.errors import ConfigError
from facetrm.core.web.address import read_address, shown_address, zone_of
from facetrm.core.web.client import HttpClient, RequestError, warn_of_plain_http
from facetrm.core.web.key import read_server_key
from facetrm.core.web.wire import HttpReply
from facetrm.label.settings import LabelConfig
from facetrm.label.verdicts import VERDICT_SCHEMA

DEFAULT_ADDRESS: Final = "https://api.openai.com/v1"
_ADDRESS_VARIABLE: Final = "OPENAI_BASE_URL"
_AGAIN: Final = frozenset({408, 409, 425, 429})
_STOP: Final = frozenset({401, 402, 403, 404, 405})
_MOST_TOKENS: Final = 10**9
_NO_MODEL: Final = re.compile(
    r"(?i)model_not_found|invalid_model|(?:unknown|invalid|no such) model"
    r"|\bmodel\b.{0,100}?(?:not found|does not exist|not exist|not supported|not available|is not loaded)"
)
_LONE: Final = re.compile(r"[\x00\ud800-\udfff]")


@final
@dataclass(frozen=True)
class Reply:
    """What a judge said.

    Attributes:
        text: to be read.
        model: the judge's name of itself.
        tokens_in: as the server counts them; 0 where it does not.
        tokens_out: likewise.
        refused: it would not answer.
        cut: it ran into ``max_tokens``.
    """

    text: str
    model: str
    tokens_in: int
    tokens_out: int
    refused: bool = False
    cut: bool = False


@final
@dataclass(frozen=True)
class Fault:
    """Why there is no reply.

    Attributes:
        kind: ``again`` may pass, ``refused`` is about this question or the form of it, ``stop`` about every question.
        reason: for people, without secrets.
        wait: seconds that the server asks to wait; 0 where it says nothing.
        cause: ``status`` where the server itself answered so, ``unreachable`` where nothing is there, ``silent`` where
            the time was over, ``garbage`` where what came is not an answer of such an API.
        fix: what the user can do about a ``stop``.
    """

    kind: Literal["again", "refused", "stop"]
    reason: str
    wait: float = 0.0
    cause: Literal["status", "unreachable", "silent", "garbage"] = "status"
    fix: str = ""


class Judge(Protocol):
    """Whoever answers a question: the seam between the run and the API."""

    async def ask(self, messages: Sequence[Mapping[str, str]], *, schema: bool) -> Reply | Fault:
        """Ask once. ``schema``: let the server enforce the JSON schema of a verdict."""


@final
class OpenAIJudge:
    """A model behind an OpenAI-compatible API.

    Args:
        config: the model, its address, and the name of the variable that holds the key.

    Raises:
        ConfigError: the address is not one or holds a secret, or there is no key for a server beyond this network.
    """

    def __init__(self, config: LabelConfig) -> None:
        address = read_address(judge_address(config), place="base_url", error=ConfigError)
        key = read_server_key(config.api_key_env, place="api_key_env", needed=zone_of(address.host) == "public")
        warn_of_plain_http(address, key)
        self._config = config
        self._client = HttpClient(address, key=key, timeout=config.timeout)
        fields: dict[str, Any] = {"model": config.model, config.max_tokens_field: config.max_tokens}
        fields |= {name: value for name in ("temperature", "seed") if (value := getattr(config, name)) is not None}
        self._fields = fields

    async def ask(self, messages: Sequence[Mapping[str, str]], *, schema: bool) -> Reply | Fault:
        """Send ``messages`` once and return the reply, or what went wrong; ``schema`` is sent along if wanted."""
        value = {**self._fields, "messages": list(messages)}
        if schema:
            form = {"name": "verdict", "strict": True, "schema": VERDICT_SCHEMA}
            value["response_format"] = {"type": "json_schema", "json_schema": form}
        try:
            reply = await self._client.send("/chat/completions", {**value, **self._config.extra})
        except RequestError as exc:
            return _no_response(exc)
        if reply.status == 200:
            return self._read(reply)
        return self._status(reply, schema=schema)

    def _status(self, reply: HttpReply, *, schema: bool) -> Fault:
        status, text = reply.status, reply.text()
        reason = self._clean(f"HTTP {status}: {text}")
        if 300 <= status < 400:
            to = shown_address(reply.headers.get("location", ""))
            reason = self._clean(f"HTTP {status}: the server sends on to '{to}', and questions are not sent on")
            return Fault("stop", reason, fix="if that address is the right one, give it as base_url")
        if schema and status == 404 and not _NO_MODEL.search(text):
            # Routers of many models say so where none of them knows schemas.
            return Fault("refused", reason)
        if status in (401, 403):
            return Fault("stop", reason, fix=f"check the key in {self._config.api_key_env}")
        if status < 500 and _NO_MODEL.search(text):
            return Fault(
                "stop", reason, fix=f"the server does not know '{self._config.model}': give its name of a model"
            )
        if status in _STOP or "insufficient_quota" in text:
            fix = "check base_url: most end in /v1" if status in (404, 405) else ""
            return Fault("stop", reason, fix=fix)
        if status in _AGAIN or (status >= 500 and status != 501):
            return Fault("again", reason, retry_after(reply.headers))
        if status < 300:
            return Fault("again", self._clean(f"HTTP {status} is not an answer: {text}"), cause="garbage")
        return Fault("refused", reason)

    def _read(self, reply: HttpReply) -> Reply | Fault:
        try:
            body = reply.json()
            choice = body["choices"][0]
            message, usage = choice["message"], body.get("usage") or {}
            text, refusal = message.get("content"), message.get("refusal")
            model = str(body.get("model") or self._config.model)
            counts, finish = [usage.get("prompt_tokens"), usage.get("completion_tokens")], choice.get("finish_reason")
        except (ValueError, RecursionError, TypeError, KeyError, IndexError, AttributeError):
            shown = reply.text(200)
            return Fault("again", self._clean(f"the body is no chat completion: {shown!r}"), cause="garbage")
        try:
            sent, received = map(_count, counts)
        except ValueError as exc:
            return Fault("again", f"the body is no chat completion: {exc}", cause="garbage")
        model = self._clean(model)
        if refusal or (finish == "content_filter" and not text):
            said = refusal if isinstance(refusal, str) else "content filter" if not refusal else "refused"
            return Reply(self._clean(said), model, sent, received, refused=True)
        if text is None or isinstance(text, str):
            said = _LONE.sub("�", self._clean(text or "", cut=False))
            return Reply(said, model, sent, received, cut=finish == "length")
        kind = type(text).__name__
        return Fault("again", f"the body is no chat completion: its content is a {kind}, not text", cause="garbage")

    def _clean(self, text: str, *, cut: bool = True) -> str:
        return self._client.clean(text, cut=cut)


def judge_address(config: LabelConfig) -> str:
    """Return the address that ``config`` names: its own, that of the environment, or OpenAI's."""
    return config.base_url or os.environ.get(_ADDRESS_VARIABLE, "").strip() or DEFAULT_ADDRESS


def _no_response(exc: RequestError) -> Fault:
    if exc.kind == "untrusted":
        fix = "give a server whose certificate is valid; SSL_CERT_FILE names further certificates to trust"
        return Fault("stop", exc.reason, cause="unreachable", fix=fix)
    cause: Literal["unreachable", "silent", "garbage"] = "garbage" if exc.kind == "broken" else exc.kind
    return Fault("again", exc.reason, cause=cause)


def _count(value: object) -> int:
    """Return a number of tokens; what cannot be one is an answer that cannot be believed.

    Raises:
        ValueError: it is negative, or larger than any text has.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        return 0
    if not 0 <= value <= _MOST_TOKENS:
        raise ValueError(f"it counts {value:.3g} tokens" if abs(value) < 10**100 else "it counts tokens without end")
    return value


def retry_after(headers: Mapping[str, str]) -> float:
    """Return the seconds that a response's ``headers`` ask to wait; 0 where they say none."""
    for name, factor in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) * factor
        except ValueError:
            continue
        if 0.0 < seconds < float("inf"):
            return seconds
    return 0.0
