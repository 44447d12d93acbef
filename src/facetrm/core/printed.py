"""What goes to standard output, whatever encoding it has."""

from __future__ import annotations

import io
import json
import sys
from typing import Any


def tolerant_streams() -> None:
    """Let standard output and error write what their encoding lacks as escapes; UTF-8 lacks lone surrogates alone."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def print_json(value: Any, *, indent: int | None = None) -> None:
    """Print a value as JSON, with escapes for letters where the encoding of standard output lacks some.

    Args:
        value: of numbers, texts, lists and mappings.
        indent: blanks of each level; one line by default.
    """
    text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value, indent=indent, allow_nan=False)
    print(text)
