from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from typing import Any

import pytest

from facetrm.serve.batching import Batcher, BatchRead, BusyError, ClosedError


class Reader:
    """Doubles numbers; it keeps the batches, and waits while ``held`` is set."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []
        self.free = threading.Event()
        self.free.set()
        self.begun = threading.Event()

    def __call__(self, items: Sequence[Any]) -> list[Any]:
        self.batches.append(list(items))
        self.begun.set()
        assert self.free.wait(10.0)
        if any(item == "bad" for item in items):
            raise ValueError("bad")
        return [item * 2 for item in items]


@contextmanager
def batcher(read: Callable[[Sequence[Any]], Any], **settings: Any) -> Iterator[Batcher[Any, Any]]:
    made = Batcher(read, **{"token_budget": 100, "max_wait": 0.0, "most": 1000, **settings})
    try:
        yield made
    finally:
        assert made.close(10.0)


@contextmanager
def held(reader: Reader, made: Batcher[Any, Any]) -> Iterator[Future[Any]]:
    """Keep the thread busy with one item of 1 token until the block ends."""
    reader.free.clear()
    reader.begun.clear()
    first = made.put(0, 1)
    assert reader.begun.wait(10.0)
    try:
        yield first
    finally:
        reader.free.set()


def test_results_belong_to_their_items() -> None:
    with batcher(Reader()) as made:
        futures = [made.put(n, 1) for n in range(100)]
        assert [future.result(10.0) for future in futures] == [2 * n for n in range(100)]


def test_what_waits_is_read_together_up_to_the_budget_in_order() -> None:
    reader = Reader()
    with batcher(reader) as made:
        with held(reader, made):
            futures = [made.put(n, 40) for n in range(1, 6)] + [made.put(6, 500), made.put(7, 1)]
        assert [future.result(10.0) for future in futures] == [2, 4, 6, 8, 10, 12, 14]
    assert reader.batches == [[0], [1, 2], [3, 4], [5], [6], [7]]


def test_a_lone_item_waits_for_others_but_not_longer_than_allowed() -> None:
    reader = Reader()
    with batcher(reader, max_wait=0.5) as made:
        start = time.monotonic()
        first = made.put(1, 10)
        time.sleep(0.05)
        second = made.put(2, 90)  # the budget is used up, so nobody waits any longer
        assert (first.result(10.0), second.result(10.0)) == (2, 4)
        assert time.monotonic() - start < 0.4
        start = time.monotonic()
        assert made.put(3, 10).result(10.0) == 6
        assert time.monotonic() - start >= 0.4
    assert reader.batches == [[1, 2], [3]]


def test_a_full_queue_says_when_to_come_back() -> None:
    reader = Reader()
    with batcher(reader, most=3) as made:
        with made.reserve(2), pytest.raises(BusyError) as refused, made.reserve(2):
            pass
        assert 1 <= refused.value.retry_after <= 60
        with made.reserve(3):
            assert made.accepted == 3
        assert made.accepted == 0


def test_what_would_wait_longer_than_it_may_is_refused_at_once() -> None:
    reader = Reader()
    with batcher(reader) as made:
        with held(reader, made) as first:  # the held batch sets the speed, tokens over the seconds that it was held
            time.sleep(0.1)
        first.result(10.0)
        with made.reserve(1, within=1e-9):
            pass  # nothing waits, so nothing is too late
        with held(reader, made):
            waiting = made.put(1, 10**9)
            with pytest.raises(BusyError) as refused, made.reserve(1, within=60.0):
                pass
            assert refused.value.retry_after == 60
            with made.reserve(1):
                pass  # without a limit it may wait
        assert waiting.result(10.0) == 2


def test_a_cancelled_item_is_not_read_and_leaves_the_queue() -> None:
    reader = Reader()
    with batcher(reader) as made:
        with held(reader, made) as first:
            gone, kept = made.put("gone", 10), made.put(5, 10)
            assert made.waiting == 2
            assert gone.cancel()
            assert made.waiting == 1
            assert not first.cancel(), "what has begun is finished"
        assert kept.result(10.0) == 10
        with pytest.raises(CancelledError):
            gone.result()
    assert reader.batches == [[0], [5]]


def test_a_late_item_is_not_begun() -> None:
    reader = Reader()
    with batcher(reader) as made:
        with held(reader, made):
            late, early = made.put("late", 10, deadline=time.monotonic() + 0.01), made.put(5, 10)
            time.sleep(0.05)
        assert early.result(10.0) == 10
        with pytest.raises(TimeoutError):
            late.result(10.0)
    assert reader.batches == [[0], [5]]


def test_one_bad_item_does_not_fail_the_others() -> None:
    reader = Reader()
    with batcher(reader) as made:
        with held(reader, made):
            futures = [made.put(item, 10) for item in (1, 2, "bad", 4, 5)]
        assert [future.result(10.0) for n, future in enumerate(futures) if n != 2] == [2, 4, 8, 10]
        with pytest.raises(ValueError, match="bad"):
            futures[2].result(10.0)


def test_an_output_may_be_an_exception_and_a_wrong_number_of_outputs_fails_its_items_alone() -> None:
    def read(items: Sequence[int]) -> list[int | Exception]:
        return [ValueError("odd") if n % 2 else n for n in items] if 7 not in items else []

    with batcher(read) as made:
        assert made.put(2, 1).result(10.0) == 2
        with pytest.raises(ValueError, match="odd"):
            made.put(3, 1).result(10.0)
        with pytest.raises(ValueError, match="zip"):
            made.put(7, 1).result(10.0)
        assert made.put(4, 1).result(10.0) == 4


def test_closing_finishes_what_was_accepted_and_refuses_the_rest() -> None:
    reader = Reader()
    made = Batcher[Any, Any](reader, token_budget=100, max_wait=0.0, most=10)
    reader.free.clear()
    with made.reserve(2):
        running, waiting = made.put(1, 100), made.put(2, 100)
        closing = threading.Thread(target=made.close)
        closing.start()
        while not made._closed:
            time.sleep(0.001)
        with pytest.raises(ClosedError), made.reserve(1):
            pass
        reader.free.set()
        assert (running.result(10.0), waiting.result(10.0)) == (2, 4)
        closing.join(0.05)
        assert closing.is_alive(), "a reservation may still bring an item"
        assert made.put(3, 1).result(10.0) == 6
    closing.join(10.0)
    assert not closing.is_alive()


def test_batches_are_reported() -> None:
    told = list[BatchRead]()
    with batcher(Reader(), on_batch=told.append) as made:
        made.put(1, 30).result(10.0)
        made.put(2, 20).result(10.0)
    assert [(batch.rows, batch.tokens) for batch in told] == [(1, 30), (1, 20)]
    assert all(batch.seconds >= 0 for batch in told)


def test_many_threads_at_once() -> None:
    with batcher(Reader(), max_wait=0.001, token_budget=7) as made:
        wrong = list[int]()

        def ask(start: int) -> None:
            for n in range(start, start + 50):
                with made.reserve(1):
                    if made.put(n, 1 + n % 5).result(10.0) != 2 * n:
                        wrong.append(n)

        threads = [threading.Thread(target=ask, args=(1000 * k,)) for k in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert made.waiting == made.accepted == 0
