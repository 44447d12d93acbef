"""Progress: a rich bar on a terminal, JSON lines elsewhere; silent under ``quiet``."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_INTERVAL_SECONDS = 10.0


class Meter:
    """Counts work done: ``advance(units, tokens)`` moves it on.

    Args:
        title: what is being done.
        total: units of work in all, None where a stream does not tell.
        bar: the rich bar to draw on, or None for JSON lines on standard error.
    """

    def __init__(self, title: str, total: int | None, bar: Progress | None) -> None:
        self.title, self.total, self.done, self.skipped, self.tokens = title, total, 0, 0, 0
        self._start = self._last = time.monotonic()
        self._bar = bar
        self._task = None if bar is None else bar.add_task(title, total=total, rate="")

    def skip(self, units: int) -> None:
        """Record ``units`` of work that were done before: they tell nothing about the time left."""
        self.skipped += units
        self.advance(units)

    def advance(self, units: int, *, tokens: int = 0, note: str = "") -> None:
        """Record ``units`` more units of work, and ``tokens`` more tokens; a ``note`` is shown in place of the rate."""
        self.done += units
        self.tokens += tokens
        seconds = max(time.monotonic() - self._start, 1e-9)
        rate = self.tokens / seconds
        if self._bar is not None and self._task is not None:
            shown = note or (f"{rate:,.0f} tokens/s" if self.tokens else "")
            self._bar.update(self._task, completed=self.done, rate=shown)
        elif time.monotonic() - self._last >= _INTERVAL_SECONDS:
            self._last = time.monotonic()
            each = seconds / max(self.done - self.skipped, 1)
            left = None if self.total is None else round(each * (self.total - self.done))
            said: dict[str, Any] = {"note": note} if note else {"tokens_per_second": round(rate)}
            log(self.title, done=self.done, total=self.total, **said, seconds_left=left)


def log(event: str, **fields: Any) -> None:
    """Write one event to standard error: a readable line on a terminal, a JSON line elsewhere."""
    if sys.stderr.isatty():
        text = "  ".join(f"{key}={value}" for key, value in fields.items())
        Console(stderr=True, highlight=False).print(f"[dim]{event}[/dim] {text}")
    else:
        print(json.dumps({"event": event, **fields}, ensure_ascii=False), file=sys.stderr, flush=True)


@contextmanager
def progress(title: str, total: int | None, *, quiet: bool = False) -> Iterator[Meter]:
    """Yield a :class:`Meter` over ``total`` units of work."""
    if quiet or not sys.stderr.isatty():
        meter = Meter(title, total, None)
        if quiet:
            meter._last = float("inf")
        yield meter
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        yield Meter(title, total, bar)
