"""Keys of servers: read from the environment, sent in one header, and taken out of every text that comes back."""

from __future__ import annotations

import json
import os
import re
from typing import Final, final
from urllib.parse import quote

from facetrm.core.errors import ConfigError

_NAME: Final = re.compile(r"[A-Z_][A-Z0-9_]*")
_SECRETS: Final = re.compile(r"(?i:bearer)\s+[^\s\"']+|\bsk-[\w*.-]+")
# Shorter ones are the dummies that servers without keys are given; a word like that may stand in any text.
_SHORTEST: Final = 8


@final
class ServerKey:
    """A key that no ``repr`` shows.

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
        """Return ``text`` without the key, in whatever form."""
        if len(self._value) >= _SHORTEST:
            for form in {self._value, quote(self._value, safe=""), json.dumps(self._value)[1:-1]}:
                text = text.replace(form, "***")
        return text


def hide_secrets(text: str, key: ServerKey | None) -> str:
    """Return ``text`` without ``key`` and without anything else that looks like a key."""
    return _SECRETS.sub("***", text if key is None else key.hide(text))


def read_server_key(name: str, *, place: object, needed: bool = True) -> ServerKey | None:
    """Return the key that the environment variable ``name`` holds, None where there is none and none is ``needed``.

    Args:
        name: of the variable, in capitals.
        place: the setting or option that names it, for messages.
        needed: whether a missing key is an error.

    Raises:
        ConfigError: it is not the name of a variable, the variable is not set, or its value cannot be sent. Values are
            never shown.
    """
    if not _NAME.fullmatch(name):
        fix = "give the NAME of an environment variable in capitals; the key itself must stand nowhere"
        raise ConfigError("it is not the name of a variable", place=place, fix=fix)
    value = os.environ.get(name, "").strip()
    if not value:
        if not needed:
            return None
        fix = f"export {name}=...; a server that wants no key takes any word"
        raise ConfigError(f"the environment variable {name} is not set", place=place, fix=fix)
    if not value.isascii() or not value.isprintable() or " " in value:
        fix = "copy it again, without quotes and blanks"
        raise ConfigError(f"the key in {name} holds characters that no key has", place=place, fix=fix)
    return ServerKey(value)
