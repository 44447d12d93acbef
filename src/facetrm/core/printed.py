"""Writing to standard output with any encoding."""

from __future__ import annotations

import io
import json
import sys
from typing import Any


def tolerant_streams() -> None:
    """Make standard output and error escape characters that their encoding lacks (in UTF-8, only lone surrogates)."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def print_json(value: Any, *, indent: int | None = None) -> None:
    """Print a value as JSON, escaping characters if the encoding of standard output lacks some.

    Args:
        value: JSON value made of numbers, strings, lists and mappings.
        indent: spaces per level; None prints one line.
    """
    text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value, indent=indent, allow_nan=False)
    print(text)
