"""Dynamic batching: many threads or tasks ask, one thread owns the model and reads what is waiting together.

    reserve     a request gets room for its conversations, or is refused at once with the time after which to try again:
                the queue is full, or longer than the request may wait
    put         a conversation joins the queue; its future can be cancelled until its batch begins
    next batch  the oldest first, up to a budget of tokens; a lone conversation waits a few milliseconds for others
    close       what was accepted is finished, and nothing new is accepted

It knows nothing of models, HTTP or event loops.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Condition, Thread
from typing import Any, Final, Generic, TypeVar, final

I = TypeVar("I")  # noqa: E741
O = TypeVar("O")  # noqa: E741
T = TypeVar("T")

_LONGEST_RETRY: Final = 60  # seconds
_SAFE: Final = 0.75  # share of the allowed time that the queue may take, because its speed is an estimate


class BusyError(Exception):
    """The queue is full.

    Args:
        retry_after: seconds after which there is likely to be room.
    """

    def __init__(self, retry_after: int) -> None:
        self.retry_after = retry_after
        super().__init__(f"the queue is full; try again in {retry_after} s")


class ClosedError(Exception):
    """The batcher is closed and accepts nothing new."""


@dataclass(frozen=True)
class BatchRead:
    """What is known about a batch after it was read.

    Attributes:
        rows: number of conversations.
        tokens: number of tokens.
        seconds: time that reading took.
    """

    rows: int
    tokens: int
    seconds: float


@dataclass
class _Entry:
    """One item in the queue."""

    item: Any
    tokens: int
    future: Future[Any]
    deadline: float
    since: float


@final
class Batcher(Generic[I, O]):
    """One thread that reads items in batches.

    Args:
        read: reads items together and returns one output or exception for each. If it raises, the items are read in
            halves, so that only those that cannot be read fail.
        token_budget: most tokens of a batch; a larger item is read alone.
        max_wait: longest time in seconds that the first item of a batch waits for others.
        most: most items that are accepted and not yet answered.
        on_batch: called with each batch after it was read.
    """

    def __init__(
        self,
        read: Callable[[Sequence[I]], Sequence[O | Exception]],
        *,
        token_budget: int,
        max_wait: float,
        most: int,
        on_batch: Callable[[BatchRead], None] = lambda batch: None,
    ) -> None:
        self._reader, self._budget, self._wait, self._most, self._told = read, token_budget, max_wait, most, on_batch
        self._queue: deque[_Entry] = deque()
        self._changed = Condition()
        self._accepted = self._waiting = self._tokens = 0
        self._rate = 0.0
        self._closed = False
        self._thread = Thread(target=self._work, name="facetrm-model", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """The number of items in the queue whose batch has not begun."""
        return self._waiting

    @property
    def accepted(self) -> int:
        """The number of items for which there is a reservation."""
        return self._accepted

    @contextmanager
    def reserve(self, count: int, *, within: float = math.inf) -> Iterator[None]:
        """Hold room for ``count`` items until the block ends.

        Args:
            count: number of items.
            within: seconds in which they must be read.

        Raises:
            BusyError: there is no room for all of them, or what is waiting already would take too long.
            ClosedError: the batcher is closed.
        """
        with self._changed:
            if self._closed:
                raise ClosedError
            if self._accepted + count > self._most or self._seconds_ahead() > _SAFE * within:
                raise BusyError(self._retry_after())
            self._accepted += count
        try:
            yield
        finally:
            with self._changed:
                self._accepted -= count
                self._changed.notify_all()

    def put(self, item: I, tokens: int, *, deadline: float = math.inf) -> Future[O]:
        """Add an item to the queue.

        Args:
            item: the item, for which there is a reservation.
            tokens: its number of tokens.
            deadline: time of ``time.monotonic()`` after which it is not begun any more.

        Returns:
            The future of its output. An item that is cancelled before its batch begins is not read.
        """
        entry = _Entry(item, tokens, Future(), deadline, time.monotonic())
        with self._changed:
            self._queue.append(entry)
            self._waiting += 1
            self._tokens += tokens
            self._changed.notify_all()
        entry.future.add_done_callback(lambda future: self._forget(entry) if future.cancelled() else None)
        return entry.future

    def close(self, timeout: float | None = None) -> bool:
        """Accept nothing new, finish what was accepted, and return whether that was done in time.

        Args:
            timeout: longest time to wait, in seconds; None waits as long as it takes.
        """
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _forget(self, entry: _Entry) -> None:
        """Free what a cancelled entry holds; the thread skips it later."""
        with self._changed:
            entry.item = None
            self._waiting -= 1
            self._tokens -= entry.tokens

    def _seconds_ahead(self) -> float:
        """Return the seconds that reading the queue will take; 0 before the first batch."""
        return self._tokens / self._rate if self._rate else 0.0

    def _retry_after(self) -> int:
        return max(1, min(_LONGEST_RETRY, math.ceil(self._seconds_ahead())))

    def _work(self) -> None:
        while (batch := self._next()) is not None:
            if batch:
                start = time.monotonic()
                self._read(batch)
                tokens, seconds = sum(entry.tokens for entry in batch), time.monotonic() - start
                speed = tokens / max(seconds, 1e-6)
                self._rate = 0.7 * self._rate + 0.3 * speed if self._rate else speed
                self._told(BatchRead(len(batch), tokens, seconds))

    def _next(self) -> list[_Entry] | None:
        """Return the next batch; empty to look again, and None at the end."""
        with self._changed:
            while not self._queue:
                if self._closed and not self._accepted:
                    return None
                self._changed.wait()
            first = self._take()
            if first is None:
                return []
            batch, tokens, until = [first], first.tokens, first.since + self._wait
            while tokens < self._budget:
                if self._queue:
                    head = self._queue[0]
                    if tokens + head.tokens > self._budget and not head.future.cancelled():
                        break
                    if (entry := self._take()) is not None:
                        batch.append(entry)
                        tokens += entry.tokens
                    continue
                left = until - time.monotonic()
                if left <= 0 or self._closed:
                    break
                self._changed.wait(left)
            return batch

    def _take(self) -> _Entry | None:
        """Remove the oldest entry and mark it as begun; None if it was cancelled or is too late."""
        entry = self._queue.popleft()
        if not entry.future.set_running_or_notify_cancel():
            return None
        self._waiting -= 1
        self._tokens -= entry.tokens
        if time.monotonic() > entry.deadline:
            entry.future.set_exception(TimeoutError())
            return None
        return entry

    def _read(self, batch: Sequence[_Entry]) -> None:
        outputs = _attempt(lambda: list(zip(batch, self._reader([entry.item for entry in batch]), strict=True)))
        if not isinstance(outputs, Exception):
            for entry, output in outputs:
                _settle(entry.future, output)
        elif len(batch) == 1:
            _settle(batch[0].future, outputs)
        else:
            middle = len(batch) // 2
            self._read(batch[:middle])
            self._read(batch[middle:])


def _attempt(call: Callable[[], T]) -> T | Exception:
    try:
        return call()
    except Exception as exc:  # whatever a model does wrong belongs to the request, and the thread must go on
        return exc


def _settle(future: Future[Any], output: Any) -> None:
    if isinstance(output, Exception):
        future.set_exception(output)
    else:
        future.set_result(output)
