"""Axes of the bars inside tables: every bar of a page that shows one quantity has the same ends and the same origin."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from facetrm.report.task_parts import Accuracy


@dataclass(frozen=True)
class Track:
    """One value as it is drawn on an axis, in percent of the axis.

    Attributes:
        left: Left end of the bar.
        width: Width of the bar.
        low: Left end of the interval; None without one.
        high: Right end of the interval; None without one.
    """

    left: float
    width: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Axis:
    """A horizontal axis on which bars begin at ``origin``.

    Attributes:
        low: Left end.
        high: Right end.
        origin: Value at which bars begin.
    """

    low: float
    high: float
    origin: float

    @staticmethod
    def over(values: Iterable[float | None], *, origin: float = 0.0) -> Axis:
        """Return the smallest axis that holds all values and the origin.

        Args:
            values: Values to draw; None is left out.
            origin: Value at which bars begin.
        """
        held = [origin, *(value for value in values if value is not None)]
        low, high = min(held), max(held)
        return Axis(low, high if high > low else low + 1.0, origin)

    @staticmethod
    def of_accuracy(rows: Iterable[Accuracy]) -> Axis:
        """Return the axis of accuracies, from whole tens of percent, on which bars begin at chance.

        Args:
            rows: Accuracies to draw.
        """
        held = [value for row in rows for value in (row.value, row.low, row.high) if value is not None]
        low = math.floor(10 * min([0.4, *held]) + 1e-9) / 10
        high = math.ceil(10 * max([0.7, *held]) - 1e-9) / 10
        return Axis(low, high, 0.5)

    def at(self, value: float) -> float:
        """Return the position of ``value`` in percent of the axis, clipped to 0 to 100."""
        return 100.0 * min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))

    def track(self, value: float, low: float | None = None, high: float | None = None) -> Track:
        """Return how a value is drawn.

        Args:
            value: The value.
            low: Lower end of its interval, if known.
            high: Upper end of its interval, if known.
        """
        left, right = sorted((self.at(self.origin), self.at(value)))
        if low is None or high is None:
            return Track(left, right - left)
        return Track(left, right - left, self.at(low), self.at(high))
