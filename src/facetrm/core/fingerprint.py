"""Names for content: a fingerprint is the sha256 of what a thing is, not of where it lies."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def fingerprint(value: Any) -> str:
    """Return the sha256 (64 hex digits) of a JSON value's canonical form.

    Canonical: sorted keys, no blanks, UTF-8, floats as Python prints them.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).hexdigest()
