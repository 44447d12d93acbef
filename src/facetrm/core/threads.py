"""Threads of the linear algebra behind NumPy and SciPy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Final

from threadpoolctl import ThreadpoolController

_SMALL: Final = 1 << 24  # numbers; a larger matrix is worth several threads


@contextmanager
def few_blas_threads(size: int) -> Iterator[None]:
    """Run products with small matrices on one thread inside the context.

    A fit multiplies the same small matrix thousands of times. With several threads, those of OpenBLAS wait for each
    other and for those of PyTorch between any two products, which makes the fit 10 to 30 times slower.

    Args:
        size: number of entries of the matrix; with many, nothing changes.
    """
    if size > _SMALL:
        yield
        return
    with _controller().limit(limits=1, user_api="blas"):
        yield


@cache
def _controller() -> ThreadpoolController:
    """Return the libraries that are loaded; NumPy's and SciPy's are by the time of the first fit."""
    import scipy.linalg  # noqa: F401 - loads the library whose threads are limited

    return ThreadpoolController()
