"""The judge behind an OpenAI-compatible API. One request gives a :class:`Reply` or a :class:`Fault`, without retries.

The key is read from the environment and is removed from every text that the server returns.
"""

from __future__ import annotations

import math
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
_CERTAIN: Final = 1e-3  # the largest log-probability, with room for rounding
_NO_MODEL: Final = re.compile(
    r"(?i)model_not_found|invalid_model|(?:unknown|invalid|no such) model"
    r"|\bmodel\b.{0,100}?(?:not found|does not exist|not exist|not supported|not available|is not loaded)"
)
_LONE: Final = re.compile(r"[\x00\ud800-\udfff]")


@final
@dataclass(frozen=True)
class TokenChoice:
    """One token of a reply, and the most probable tokens at its place.

    Attributes:
        token: the token's text.
        top: the most probable tokens at this place and their log-probabilities, as the server reports them.
    """

    token: str
    top: tuple[tuple[str, float], ...]


@final
@dataclass(frozen=True)
class ReplyForm:
    """A JSON schema that the server is asked to enforce.

    Attributes:
        name: the name of the schema.
        schema: the schema.
    """

    name: str
    schema: Mapping[str, Any]


VERDICT_FORM: Final = ReplyForm("verdict", VERDICT_SCHEMA)


@final
@dataclass(frozen=True)
class Reply:
    """A judge's reply to one question.

    Attributes:
        text: the text of the reply.
        model: the model name in the response.
        tokens_in: the number of prompt tokens that the server reports; 0 if it reports none.
        tokens_out: the number of completion tokens that the server reports; 0 if it reports none.
        refused: whether the model refused to answer.
        cut: whether the reply was cut off at ``max_tokens``.
        tokens: the tokens of the reply with their alternatives; empty if they were not asked for or not given.
    """

    text: str
    model: str
    tokens_in: int
    tokens_out: int
    refused: bool = False
    cut: bool = False
    tokens: tuple[TokenChoice, ...] = ()


@final
@dataclass(frozen=True)
class Fault:
    """Why a request has no reply.

    Attributes:
        kind: ``again`` if a retry may succeed, ``refused`` if the server refuses this question or its format, ``stop``
            if the server would refuse every question.
        reason: the reason to show to the user. It holds no secrets.
        wait: the seconds that the server asks to wait; 0 if it asks for none.
        cause: ``status`` for an HTTP error status, ``unreachable`` if there was no connection, ``silent`` for a
            timeout, ``garbage`` if the response does not follow the OpenAI API.
        fix: what the user can do about a ``stop``.
    """

    kind: Literal["again", "refused", "stop"]
    reason: str
    wait: float = 0.0
    cause: Literal["status", "unreachable", "silent", "garbage"] = "status"
    fix: str = ""


class Judge(Protocol):
    """The interface between a labelling run and whatever answers its questions."""

    async def ask(self, messages: Sequence[Mapping[str, str]], *, schema: bool) -> Reply | Fault:
        """Ask one question once.

        Args:
            messages: the chat messages of the question, with ``role`` and ``content``.
            schema: whether to let the server enforce the JSON schema of a verdict.
        """


@final
class OpenAIJudge:
    """A model behind an OpenAI-compatible API.

    Args:
        config: the model, its address, and the name of the environment variable that holds the key.
        form: the JSON schema of a reply, for questions that are asked with one.
        top_logprobs: the number of most probable tokens to ask for at each place; 0 asks for none. If the server
            refuses a question with them but answers it without, they are left out from then on.

    Raises:
        ConfigError: the address is invalid or contains a secret, or a public server has no key.
    """

    def __init__(self, config: LabelConfig, *, form: ReplyForm = VERDICT_FORM, top_logprobs: int = 0) -> None:
        address = read_address(judge_address(config), place="base_url", error=ConfigError)
        key = read_server_key(config.api_key_env, place="api_key_env", needed=zone_of(address.host) == "public")
        warn_of_plain_http(address, key)
        self._config = config
        self._client = HttpClient(address, key=key, timeout=config.timeout)
        fields: dict[str, Any] = {"model": config.model, config.max_tokens_field: config.max_tokens}
        fields |= {name: value for name in ("temperature", "seed") if (value := getattr(config, name)) is not None}
        self._fields, self._form = fields, form
        self._chances = {"logprobs": True, "top_logprobs": top_logprobs} if top_logprobs else {}

    async def ask(self, messages: Sequence[Mapping[str, str]], *, schema: bool) -> Reply | Fault:
        """Send one question once.

        Args:
            messages: the chat messages of the question, with ``role`` and ``content``.
            schema: whether to send the JSON schema of a reply with it.
        """
        asked = self._chances
        said = await self._send(messages, asked, schema=schema)
        if asked and isinstance(said, Fault) and said.kind == "refused":
            # The server may be refusing log-probabilities. Only the same question without them can tell.
            plain = await self._send(messages, {}, schema=schema)
            if isinstance(plain, Reply):
                self._chances = {}
                return plain
        return said

    async def _send(
        self, messages: Sequence[Mapping[str, str]], chances: Mapping[str, Any], *, schema: bool
    ) -> Reply | Fault:
        value = {**self._fields, **chances, "messages": list(messages)}
        if schema:
            form = {"name": self._form.name, "strict": True, "schema": self._form.schema}
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
            reason = self._clean(f"HTTP {status}: the server redirects to '{to}', and redirects are not followed")
            return Fault("stop", reason, fix="if that address is the right one, give it as base_url")
        if schema and status == 404 and not _NO_MODEL.search(text):
            # A router in front of several models answers 404 if none of them supports schemas.
            return Fault("refused", reason)
        if status in (401, 403):
            return Fault("stop", reason, fix=f"check the key in {self._config.api_key_env}")
        if status < 500 and _NO_MODEL.search(text):
            return Fault(
                "stop", reason, fix=f"the server has no model '{self._config.model}': give the name of one that it has"
            )
        if status in _STOP or "insufficient_quota" in text:
            fix = "check base_url: most addresses end in /v1" if status in (404, 405) else ""
            return Fault("stop", reason, fix=fix)
        if status in _AGAIN or (status >= 500 and status != 501):
            return Fault("again", reason, retry_after(reply.headers))
        if status < 300:
            return Fault("again", self._clean(f"HTTP {status} instead of 200: {text}"), cause="garbage")
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
            return Fault("again", self._clean(f"the body is not a chat completion: {shown!r}"), cause="garbage")
        try:
            sent, received = map(_count, counts)
        except ValueError as exc:
            return Fault("again", f"the body is not a chat completion: {exc}", cause="garbage")
        model = self._clean(model)
        if refusal or (finish == "content_filter" and not text):
            said = refusal if isinstance(refusal, str) else "content filter" if not refusal else "refused"
            return Reply(self._clean(said), model, sent, received, refused=True)
        if text is None or isinstance(text, str):
            said = _LONE.sub("�", self._clean(text or "", cut=False))
            tokens = self._tokens(choice) if self._chances else ()
            return Reply(said, model, sent, received, cut=finish == "length", tokens=tokens)
        kind = type(text).__name__
        reason = f"the body is not a chat completion: its content has the type {kind}, not text"
        return Fault("again", reason, cause="garbage")

    def _tokens(self, choice: Mapping[str, Any]) -> tuple[TokenChoice, ...]:
        """Return the tokens of a choice with their alternatives; empty if the server gives none that can be read."""
        found = []
        try:
            for one in choice["logprobs"]["content"]:
                top = tuple((str(other["token"]), float(other["logprob"])) for other in one["top_logprobs"])
                if any(math.isnan(chance) or chance > _CERTAIN for _, chance in top):
                    return ()
                found.append(TokenChoice(str(one["token"]), top))
        except (TypeError, KeyError, ValueError, AttributeError, OverflowError):
            return ()
        return tuple(found)

    def _clean(self, text: str, *, cut: bool = True) -> str:
        return self._client.clean(text, cut=cut)


def judge_address(config: LabelConfig) -> str:
    """Return the address of the API: ``config.base_url``, else ``OPENAI_BASE_URL``, else that of OpenAI."""
    return config.base_url or os.environ.get(_ADDRESS_VARIABLE, "").strip() or DEFAULT_ADDRESS


def _no_response(exc: RequestError) -> Fault:
    if exc.kind == "untrusted":
        fix = "use a server with a valid certificate, or set SSL_CERT_FILE to a file of certificates to trust"
        return Fault("stop", exc.reason, cause="unreachable", fix=fix)
    cause: Literal["unreachable", "silent", "garbage"] = "garbage" if exc.kind == "broken" else exc.kind
    return Fault("again", exc.reason, cause=cause)


def _count(value: object) -> int:
    """Return the number of tokens in a ``usage`` field; 0 if it is not an integer.

    Raises:
        ValueError: it is negative or impossibly large.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        return 0
    if not 0 <= value <= _MOST_TOKENS:
        raise ValueError(f"it reports {value:.3g} tokens" if abs(value) < 10**100 else "its token count is too large")
    return value


def retry_after(headers: Mapping[str, str]) -> float:
    """Return the seconds that a response's ``headers`` ask the client to wait; 0 if they ask for none."""
    for name, factor in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) * factor
        except ValueError:
            continue
        if 0.0 < seconds < float("inf"):
            return seconds
    return 0.0
