"""Threads of the linear algebra behind NumPy and SciPy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from threading import Lock
from typing import Final

from threadpoolctl import ThreadpoolController

_SMALL: Final = 1 << 24  # numbers; a larger matrix is worth several threads
_LOCK: Final = Lock()
_OPEN: Final = ExitStack()
_depth = 0


@contextmanager
def few_blas_threads(size: int) -> Iterator[None]:
    """Run products with small matrices on one thread inside the context.

    A fit multiplies the same small matrix thousands of times. With several threads, those of OpenBLAS wait for each
    other and for those of PyTorch between any two products, which makes the fit many times slower. The limit holds for
    the whole process while any such context is open, in whichever thread.

    Args:
        size: number of entries of the matrix; with many, nothing changes.
    """
    if size > _SMALL:
        yield
        return
    _enter()
    try:
        yield
    finally:
        _leave()


def _enter() -> None:
    global _depth
    with _LOCK:
        if _depth == 0:
            _OPEN.enter_context(_controller().limit(limits=1, user_api="blas"))
        _depth += 1


def _leave() -> None:
    global _depth
    with _LOCK:
        _depth -= 1
        if _depth == 0:
            _OPEN.close()


@cache
def _controller() -> ThreadpoolController:
    """Return the libraries that are loaded; NumPy's and SciPy's are by the time of the first fit."""
    import scipy.linalg  # noqa: F401 - loads the library whose threads are limited

    return ThreadpoolController()
