"""Returning freed memory to the system, which the C library would otherwise keep in fragments between passes."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache


def give_back() -> None:
    """Return the process's freed memory to the system if the C library supports it (glibc); takes milliseconds.

    Small tensors that are kept lie between large ones that are freed, so the heap would grow with every pass.
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
