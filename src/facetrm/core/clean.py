"""Text of users made safe for a terminal: an escape sequence could repaint it."""

from __future__ import annotations

import unicodedata
from typing import Final

_TURNED: Final = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def clean(text: str) -> str:
    """Return ``text`` with control characters (except newlines and tabs) and direction marks replaced by U+FFFD."""
    return "".join(
        "\ufffd" if c in _TURNED or (unicodedata.category(c) == "Cc" and c not in "\n\t") else c for c in text
    )
