"""API keys: read from the environment, sent in one header, and removed from every text that comes back."""

from __future__ import annotations

import json
import os
import re
from typing import Final, final
from urllib.parse import quote

from facetrm.core.errors import ConfigError

_NAME: Final = re.compile(r"[A-Z_][A-Z0-9_]*")
_SECRETS: Final = re.compile(r"(?i:bearer)\s+[^\s\"']+|\bsk-[\w*.-]+")
# Shorter keys are placeholders for servers that need no key; such a word may occur in any text.
_SHORTEST: Final = 8


@final
class ServerKey:
    """An API key that is hidden from ``repr``.

    Args:
        value: the key.
    """

    def __init__(self, value: str) -> None:
        self._value = value

    def __repr__(self) -> str:
        return "ServerKey(***)"

    def header(self) -> str:
        """Return the value of the ``Authorization`` header."""
        return f"Bearer {self._value}"

    def hide(self, text: str) -> str:
        """Return ``text`` with the key removed, whether plain, URL-quoted or JSON-escaped."""
        if len(self._value) >= _SHORTEST:
            for form in {self._value, quote(self._value, safe=""), json.dumps(self._value)[1:-1]}:
                text = text.replace(form, "***")
        return text


def hide_secrets(text: str, key: ServerKey | None) -> str:
    """Return ``text`` with ``key`` and anything else that looks like an API key removed."""
    return _SECRETS.sub("***", text if key is None else key.hide(text))


def read_server_key(name: str, *, place: object, needed: bool = True) -> ServerKey | None:
    """Return the API key in the environment variable ``name``, or None if it is unset and not ``needed``.

    Args:
        name: name of the environment variable, in capitals.
        place: setting or option that names the variable, for error messages.
        needed: whether a missing key is an error.

    Raises:
        ConfigError: ``name`` is not a variable name, the variable is not set, or its value cannot be sent. The message
            never shows the value.
    """
    if not _NAME.fullmatch(name):
        fix = "give the NAME of an environment variable in capitals; do not write the key itself"
        raise ConfigError("not the name of an environment variable", place=place, fix=fix)
    value = os.environ.get(name, "").strip()
    if not value:
        if not needed:
            return None
        fix = f"export {name}=...; if the server needs no key, use any word"
        raise ConfigError(f"the environment variable {name} is not set", place=place, fix=fix)
    if not value.isascii() or not value.isprintable() or " " in value:
        fix = "copy it again, without quotes and spaces"
        raise ConfigError(f"the key in {name} contains characters that cannot be in a key", place=place, fix=fix)
    return ServerKey(value)
