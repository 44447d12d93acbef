"""Progress reports through the logger ``facetrm``: events for stages, and a bar or periodic events for long work.

As a library, facetrm shows nothing unless the importing program enables the logger. The command line enables it with
:func:`shown_logs`: text lines on standard error, a bar on a terminal, or JSON lines with ``--log-json``.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, final

if TYPE_CHECKING:
    from rich.progress import Progress

LOGGER: Final = logging.getLogger("facetrm")
LOGGER.addHandler(logging.NullHandler())

_INTERVAL_SECONDS = 10.0
_FIELDS: Final = "facetrm_fields"


def log(event: str, **fields: Any) -> None:
    """Log one event at level INFO, or at level WARNING if it has a field ``warning``.

    Args:
        event: what happened, in a few words.
        fields: details of the event, JSON values by name.
    """
    level = logging.WARNING if "warning" in fields else logging.INFO
    if LOGGER.isEnabledFor(level):
        LOGGER.log(level, "%s", _text(event, fields), extra={_FIELDS: {"event": event, **fields}})


def _text(event: str, fields: dict[str, Any]) -> str:
    """Return an event as one line, with unprintable characters escaped."""
    line = "  ".join([event, *(f"{key}={value}" for key, value in fields.items())])
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in line)


@final
class LogLines(logging.Handler):
    """A handler that writes each event to the current standard error stream.

    Args:
        json_lines: whether to write each event as a JSON object and draw no bar.
    """

    def __init__(self, *, json_lines: bool) -> None:
        super().__init__(logging.INFO)
        self.json_lines = json_lines

    def emit(self, record: logging.LogRecord) -> None:
        """Write the event of ``record`` as one line."""
        text = record.getMessage()
        if self.json_lines:
            text = json.dumps(getattr(record, _FIELDS, {"event": text}), default=str)
        try:
            print(text, file=sys.stderr, flush=True)
        except UnicodeEncodeError:
            print(text.encode("ascii", "backslashreplace").decode("ascii"), file=sys.stderr, flush=True)


@contextmanager
def shown_logs(*, json_lines: bool = False) -> Iterator[None]:
    """Write log events to standard error until the block ends.

    Args:
        json_lines: whether to write one JSON object per event instead of text, and draw no bar.

    Example:
        >>> from facetrm.core.progress import log, shown_logs
        >>> with shown_logs(json_lines=True):
        ...     log("stage", seconds=1.5)  # to standard error: {"event": "stage", "seconds": 1.5}
    """
    before, level = [h for h in LOGGER.handlers if isinstance(h, LogLines)], LOGGER.level
    handler = LogLines(json_lines=json_lines)
    for other in before:
        LOGGER.removeHandler(other)
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    try:
        yield
    finally:
        LOGGER.removeHandler(handler)
        LOGGER.setLevel(level)
        for other in before:
            LOGGER.addHandler(other)


class Meter:
    """Counts finished work; :meth:`advance` adds to it.

    Args:
        title: name of the work.
        total: total units of work, or None if unknown, as for a stream.
        bar: rich progress bar to update, or None to log periodic events.
    """

    def __init__(self, title: str, total: int | None, bar: Progress | None) -> None:
        self.title, self.total, self.done, self.skipped, self.tokens = title, total, 0, 0, 0
        self._start = self._last = time.monotonic()
        self._bar = bar
        self._task = None if bar is None else bar.add_task(title, total=total, rate="")

    def skip(self, units: int) -> None:
        """Record ``units`` of work done in an earlier run; they are ignored when the time left is estimated."""
        self.skipped += units
        self.advance(units)

    def advance(self, units: int, *, tokens: int = 0, note: str = "") -> None:
        """Record finished work.

        Args:
            units: number of units finished since the last call.
            tokens: number of tokens processed since the last call.
            note: text to show instead of the token rate.
        """
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


@contextmanager
def progress(title: str, total: int | None, *, quiet: bool = False) -> Iterator[Meter]:
    """Yield a :class:`Meter` over ``total`` units of work.

    Args:
        title: name of the work.
        total: total units of work, or None if unknown.
        quiet: whether to show nothing.
    """
    drawn = any(isinstance(h, LogLines) and not h.json_lines for h in LOGGER.handlers) and sys.stderr.isatty()
    if quiet or not drawn:
        meter = Meter(title, total, None)
        if quiet:
            meter._last = float("inf")
        yield meter
        return
    with _bar() as bar:
        yield Meter(title, total, bar)


def _bar() -> Progress:
    from rich.console import Console  # only a terminal needs it, and it loads more slowly than this package
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}", markup=False),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=Console(stderr=True, markup=False, emoji=False, highlight=False))
