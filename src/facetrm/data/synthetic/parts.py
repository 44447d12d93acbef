"""The four parts of a generator; each prompt belongs to one of them."""

from __future__ import annotations

import hashlib
from typing import Final, Literal

from facetrm.core.errors import DataError, did_you_mean

Part = Literal["backbone", "heads", "gate", "test"]
_PARTS: Final[dict[str, tuple[float, float]]] = {
    "backbone": (0.0, 0.6),
    "heads": (0.6, 0.75),
    "gate": (0.75, 0.9),
    "test": (0.9, 1.0),
}


def check_part(part: str, *, of: str) -> None:
    """Raise DataError if a generator has no such part.

    Args:
        part: Name of the part.
        of: Name of the generator.
    """
    if part not in _PARTS:
        raise DataError(f"unknown part '{part}' of the {of}", fix=did_you_mean(part, _PARTS))


def in_part(part: str, key: str) -> bool:
    """Return whether a prompt belongs to a part.

    Args:
        part: Name of the part.
        key: What the prompt asks for; prompts with equal keys belong to the same part.
    """
    low, high = _PARTS[part]
    digest = hashlib.sha256(key.encode()).digest()
    return low <= int.from_bytes(digest[:6], "big") / 2**48 < high
