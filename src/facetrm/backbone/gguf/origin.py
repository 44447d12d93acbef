"""What ``config.json`` says about weights that were converted from another format; copies and exports keep it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from facetrm.core.errors import printable

ORIGIN: Final = "converted_from"
"""The key in ``config.json``; it is no part of a fingerprint."""
_MOST, _LONGEST = 8, 500


def origin(sha256: str, warnings: list[str]) -> dict[str, object]:
    """Return the entry for a GGUF file.

    Args:
        sha256: hash of the file.
        warnings: what is doubtful about the conversion, one sentence each.
    """
    return {"format": "gguf", "sha256": sha256, "warnings": warnings}


def origin_warnings(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what is doubtful about a converted model, one sentence each; empty if it was not converted.

    Args:
        config: parsed ``config.json``, which may be untrusted.
    """
    known = config.get(ORIGIN)
    told = known.get("warnings") if isinstance(known, Mapping) else None
    return tuple(printable(str(one), _LONGEST) for one in told[:_MOST]) if isinstance(told, list) else ()
