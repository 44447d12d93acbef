"""Fingerprints: sha256 hashes of content, independent of where the content is stored."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any


def fingerprint(value: Any) -> str:
    """Return the sha256 (64 hex digits) of a JSON value's canonical form.

    The canonical form has sorted keys, no spaces, UTF-8 text, and floats as Python prints them.
    """
    return hashlib.sha256(_canonical(value)).hexdigest()


def fingerprint_of_all(values: Iterable[Any]) -> str:
    """Return the fingerprint of ``values`` as a list, with only one value in memory at a time."""
    digest = hashlib.sha256(b"[")
    for number, value in enumerate(values):
        digest.update((b"," if number else b"") + _canonical(value))
    digest.update(b"]")
    return digest.hexdigest()


def _canonical(value: Any) -> bytes:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", errors="surrogatepass")
