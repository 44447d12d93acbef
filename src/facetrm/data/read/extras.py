"""Unused columns: any content is kept as JSON in the record's ``meta``."""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

from facetrm.core.errors import short
from facetrm.data.read.unreadable import Unreadable

DEEPEST: Final = 100
"""Maximum depth of nesting; deeper values are cut off."""


def as_json(value: object, depth: int = 0) -> Any:
    """Return ``value`` as a JSON value.

    Dates become ISO text, decimals and durations text, bytes their length, non-finite numbers null, and lone surrogates
    escapes.

    Args:
        value: any Python value.
        depth: nesting depth of the value.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return value.encode("utf-8", errors="backslashreplace").decode("utf-8")
    if isinstance(value, int):
        return int(value) if value.bit_length() <= 1024 else None
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if depth >= DEEPEST:
        return "..."
    if isinstance(value, Mapping):
        return {as_json(str(key)): as_json(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [as_json(item, depth + 1) for item in value]
    return _text(value, depth)


def _text(value: object, depth: int) -> Any:
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, (Decimal, datetime.timedelta)):
        return str(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"{len(value)} bytes"
    if isinstance(value, Unreadable):
        return f"unreadable ({as_json(value.reason)})"
    if hasattr(value, "tolist"):
        return as_json(value.tolist(), depth + 1)
    return as_json(short(value))


def too_deep(value: object) -> bool:
    """Return whether lists and objects are nested more than :data:`DEEPEST` levels deep."""
    waiting = [(value, 0)]
    while waiting:
        one, depth = waiting.pop()
        if depth > DEEPEST:
            return True
        inner = one.values() if isinstance(one, Mapping) else one if isinstance(one, (list, tuple)) else ()
        waiting += [(item, depth + 1) for item in inner if isinstance(item, (Mapping, list, tuple))]
    return False
