"""Memory that is free, back to the system: between passes of many lengths the C library keeps it, in pieces."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache


def give_back() -> None:
    """Give the free memory of this process back to the system, where the C library can (glibc); it takes milliseconds.

    The small vectors that are kept lie between large ones that are not, so that the heap would grow with every pass.
    """
    if (trim := _trimmer()) is not None:
        trim(0)


@cache
def _trimmer() -> Callable[[int], int] | None:
    try:
        found = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library, or another system
        return None
    trim: Callable[[int], int] = found
    return trim
