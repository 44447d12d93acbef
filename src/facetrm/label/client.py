"""The judge behind an OpenAI-compatible API: one request in, a :class:`Reply` or a :class:`Fault` out; no retries here.

The key is read from the environment and is taken out of every text that comes back.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol, final
from urllib.parse import quote, urlsplit

from facetrm.core.errors import ConfigError
from facetrm.label.settings import LabelConfig
from facetrm.label.verdicts import VERDICT_SCHEMA

_NAME: Final = re.compile(r"[A-Z_][A-Z0-9_]*")
_SECRETS: Final = re.compile(r"(?i:bearer)\s+[^\s\"']+|\bsk-[\w*.-]+")
_LONGEST_TEXT: Final = 300
# Shorter ones are the dummies that servers without keys are given; a word like that may stand in any text.
_SHORTEST_KEY: Final = 8
_AGAIN: Final = frozenset({408, 409, 425, 429})
_STOP: Final = frozenset({401, 402, 403, 404, 405})


@final
@dataclass(frozen=True)
class Reply:
    """What a judge said: ``text`` to be read, perhaps ``cut``, or ``refused``; its name of itself and its tokens."""

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
    """

    kind: Literal["again", "refused", "stop"]
    reason: str
    wait: float = 0.0


class Judge(Protocol):
    """Whoever answers a question: the seam between the run and the API."""

    async def ask(self, messages: Sequence[Mapping[str, str]], *, schema: bool) -> Reply | Fault:
        """Ask once. ``schema``: let the server enforce the JSON schema of a verdict."""


@final
class OpenAIJudge:
    """A model behind an OpenAI-compatible API; to be closed with ``await close()``.

    Args:
        config: the model, its address, and the name of the variable that holds the key.

    Raises:
        ConfigError: ``openai`` is not installed, the address is none or holds a secret, or there is no key.
    """

    def __init__(self, config: LabelConfig) -> None:
        self._openai = _openai()
        check_address(config.base_url)
        self._config, self._key = config, read_key(config)
        self._client = self._openai.AsyncOpenAI(
            api_key=self._key, base_url=config.base_url, max_retries=0, timeout=config.timeout
        )
        self._fields: dict[str, Any] = {config.max_tokens_field: config.max_tokens}
        self._fields |= {
            name: value for name in ("temperature", "seed") if (value := getattr(config, name)) is not None
        }

    async def ask(self, messages: Sequence[Mapping[str, str]], *, schema: bool) -> Reply | Fault:
        """Send ``messages`` once and return the reply, or what went wrong; ``schema`` is sent along if wanted."""
        fields = dict(self._fields)
        if schema:
            form = {"name": "verdict", "strict": True, "schema": VERDICT_SCHEMA}
            fields["response_format"] = {"type": "json_schema", "json_schema": form}
        openai = self._openai
        try:
            raw = await self._client.chat.completions.with_raw_response.create(
                model=self._config.model, messages=list(messages), extra_body=self._config.extra, **fields
            )
            content = raw.content
        except openai.APITimeoutError:
            return Fault("again", f"no answer within {self._config.timeout:g} s")
        except openai.APIConnectionError as exc:
            cause = exc.__cause__
            detail = "" if cause is None else f" ({type(cause).__name__}: {cause})"
            return Fault("again", self._clean(f"the connection failed{detail}"))
        except openai.APIStatusError as exc:
            return self._status(exc.status_code, exc.response.headers, exc.response.text, schema=schema)
        except openai.OpenAIError as exc:
            return Fault("stop", self._clean(f"{type(exc).__name__}: {exc}"))
        return self._read(content)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    def _status(self, status: int, headers: Mapping[str, str], text: str, *, schema: bool) -> Fault:
        reason = self._clean(f"HTTP {status}: {text}")
        if schema and status == 404:
            # Routers of many models say so where none of them knows schemas.
            return Fault("refused", reason)
        if status in _STOP or "insufficient_quota" in text:
            return Fault("stop", reason)
        if status in _AGAIN or (status >= 500 and status != 501):
            return Fault("again", reason, retry_after(headers))
        return Fault("refused", reason)

    def _read(self, content: bytes) -> Reply | Fault:
        try:
            body = json.loads(content)
            choice = body["choices"][0]
            message, usage = choice["message"], body.get("usage") or {}
            text, refusal = message.get("content"), message.get("refusal")
            model = self._clean(str(body.get("model") or self._config.model))
            sent, received = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
        except (ValueError, RecursionError, TypeError, KeyError, IndexError, AttributeError):
            shown = content[:200].decode("utf-8", errors="replace")
            return Fault("again", self._clean(f"the body is no chat completion: {shown!r}"))
        if refusal or (choice.get("finish_reason") == "content_filter" and not text):
            return Reply(self._clean(str(refusal or "content filter")), model, sent, received, refused=True)
        if text is None or isinstance(text, str):
            cut = choice.get("finish_reason") == "length"
            return Reply(self._clean(text or "", cut=False), model, sent, received, cut=cut)
        return Fault("again", self._clean(f"the body is no chat completion: its content is {text!r}"))

    def _clean(self, text: str, *, cut: bool = True) -> str:
        """Return ``text`` without the key, in whatever form, and on one short line if it is to be ``cut``."""
        if len(self._key) >= _SHORTEST_KEY:
            for form in {self._key, quote(self._key, safe=""), json.dumps(self._key)[1:-1]}:
                text = text.replace(form, "***")
        text = _SECRETS.sub("***", text)
        if not cut:
            return text
        line = " ".join(text.split())
        return line if len(line) <= _LONGEST_TEXT else line[: _LONGEST_TEXT - 1] + "…"


def _count(value: object) -> int:
    return value if isinstance(value, int) and value >= 0 else 0


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


def check_address(base_url: str | None) -> None:
    """Raise ConfigError where ``base_url`` is no http address, or holds a user, a password or a query."""
    if base_url is None:
        return
    try:
        parts = urlsplit(base_url)
        held = "@" in parts.netloc or bool(parts.query or parts.fragment)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        held = sound = False
    if held:
        fix = "give the bare address; the key comes from the environment"
        raise ConfigError("it holds a user, a password or a query", place="base_url", fix=fix)
    if not sound:
        raise ConfigError("it is no http address", place="base_url", fix="write http://localhost:8000/v1")


def read_key(config: LabelConfig) -> str:
    """Return the key that the environment holds for ``config``; a server on this machine needs none.

    Raises:
        ConfigError: the variable's name is none, it is not set, or its value cannot be sent. Values are never shown.
    """
    name = config.api_key_env
    if not _NAME.fullmatch(name):
        fix = "give the NAME of an environment variable in capitals; the key itself must stand nowhere"
        raise ConfigError("it is not the name of a variable", place="api_key_env", fix=fix)
    key = os.environ.get(name, "").strip()
    if not key:
        if config.base_url is not None and _is_here(config.base_url):
            return "none"
        fix = f"export {name}=...; a server that wants no key takes any word"
        raise ConfigError(f"the environment variable {name} is not set", place="api_key_env", fix=fix)
    if not key.isascii() or not key.isprintable() or " " in key:
        fix = "copy it again, without quotes and blanks"
        raise ConfigError(f"the key in {name} holds characters that no key has", place="api_key_env", fix=fix)
    return key


def _is_here(base_url: str) -> bool:
    host = urlsplit(base_url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _openai() -> Any:
    """Return the client's package, which is imported only where it is needed.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import openai
    except ImportError:
        fix = 'pip install "facetrm[label]"'
        raise ConfigError("labelling needs openai, which is not installed", place="label", fix=fix) from None
    return openai
