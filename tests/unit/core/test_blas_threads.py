from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import scipy.linalg  # noqa: F401 - loads the library whose threads are limited
from threadpoolctl import threadpool_info, threadpool_limits

from facetrm.core.threads import few_blas_threads


def threads() -> set[int]:
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


@pytest.fixture
def two() -> Iterator[None]:
    """Let the linear algebra use two threads, on a machine with one core as well."""
    with threadpool_limits(2, user_api="blas"):
        yield


def test_products_with_small_matrices_run_on_one_thread(two: None) -> None:
    assert threads() == {2}
    with few_blas_threads(1000):
        assert threads() == {1}
        np.ones((10, 10)) @ np.ones(10)
    assert threads() == {2}


def test_large_matrices_keep_their_threads(two: None) -> None:
    with few_blas_threads(10**9):
        assert threads() == {2}


def test_contexts_that_overlap_in_two_threads_leave_nothing_behind(two: None) -> None:
    first, second = few_blas_threads(10), few_blas_threads(10)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert threads() == {1}, "the second is still open"
    second.__exit__(None, None, None)
    assert threads() == {2}


def test_the_threads_come_back_after_an_error(two: None) -> None:
    with pytest.raises(ValueError, match="no"), few_blas_threads(10):
        raise ValueError("no")
    assert threads() == {2}
