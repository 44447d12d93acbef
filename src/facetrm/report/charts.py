"""The charts of the pages. Each is drawn twice, for wide and for narrow screens (with labels above their rows).

Every chart has a ``name`` that is unique on its page and salts the identifiers of its SVG.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup

from facetrm.core.shown import show_fixed
from facetrm.report.canvas import BAD, GOOD, INK, LINE, MUTED, A, B, Canvas, ticks

WIDE: Final = 860
NARROW: Final = 330
_FOOT: Final = 22.0
"""Height of the axis below the rows of a waterfall chart, in pixels."""
_CHARACTER: Final = 6.4
"""Mean width of a character in a 12 px label, in pixels; large enough for common fonts."""


@dataclass(frozen=True)
class Chart:
    """One chart.

    Attributes:
        wide: Drawing for wide screens.
        narrow: Drawing for narrow screens.
        alt: Description for screen readers.
    """

    wide: Markup
    narrow: Markup
    alt: str


def waterfall(
    rows: Sequence[tuple[str, float]],
    *,
    start: tuple[str, float] | None,
    end: tuple[str, float],
    top: int = 12,
    name: str,
    pair: bool = False,
    ends: tuple[float, float] | None = None,
) -> Chart:
    """Draw a waterfall chart: steps that lead from ``start`` to ``end``, on an axis with numbers.

    Start and end are marked as points, so that a long bar always means a large step. Two charts with the same ``ends``
    can be compared by eye.

    Args:
        rows: Name and value of each step.
        start: Name and value of the point that the steps start from; None to start from zero, without a point.
        end: Name and value of the sum.
        top: Number of steps that get a row each; the rest share one row.
        name: Name of the chart, unique on its page.
        pair: Whether steps up and down get the colours of A and B instead of good and bad.
        ends: Ends of the axis; None for those of this chart's own steps.
    """
    up, down = (A, B) if pair else (GOOD, BAD)
    steps = folded(rows, top)
    levels = levels_of(steps, 0.0 if start is None else start[1])
    low, high = (min(levels), max(levels)) if ends is None else ends
    points = [(start[0], start[1], MUTED)] if start is not None else []
    shown = [*([start] if start is not None else []), *steps, end]

    def draw(width: int) -> Canvas:
        canvas, row, x0, x1 = _row_canvas(width, len(shown), value_column=74, foot=_FOOT)
        scale = _scale(low, high, x0 + 6, x1 - 6)
        _ticks(canvas, scale, low, high, len(shown) * row)
        for value, color in ((levels[0], MUTED), (levels[-1], INK)):
            for n in range(len(shown)):
                _upright(canvas, scale(value), _row_middle(canvas, n, row), row, color)
        for n, (label, value) in enumerate(shown):
            last, k = n + 1 == len(shown), n - len(points)
            y = _row_label(canvas, label, n, row, x0, bold=last)
            if last or k < 0:
                canvas.dot(scale(levels[-1] if last else levels[0]), y, INK if last else MUTED, size=11)
            else:
                a, b = sorted((scale(levels[k]), scale(levels[k + 1])))
                canvas.rect(a, y - 8, max(b - a, 1.0), 16, up if value >= 0 else down, opacity=0.9)
            canvas.text(width - 4, y, show_fixed(value, signed=True), align="right", bold=last)
        return canvas

    return _chart(draw, name, "; ".join(f"{label} {show_fixed(value, signed=True)}" for label, value in shown))


def folded(rows: Sequence[tuple[str, float]], top: int) -> list[tuple[str, float]]:
    """Return the first ``top`` rows, and the sum of the others as one row.

    Args:
        rows: Name and value of each row.
        top: Number of rows to keep.
    """
    if len(rows) <= top:
        return list(rows)
    return [*rows[:top], (f"{len(rows) - top} others", sum(value for _, value in rows[top:]))]


def levels_of(steps: Sequence[tuple[str, float]], start: float) -> list[float]:
    """Return the level before each step, and after the last one.

    Args:
        steps: Name and value of each step.
        start: Level before the first step.
    """
    levels = [start]
    for _, value in steps:
        levels.append(levels[-1] + value)
    return levels


def heat_map(rows: Sequence[str], columns: Sequence[str], values: Sequence[Sequence[float]], *, name: str) -> Chart:
    """Draw a table of shares as shaded cells. The longer side runs down the page.

    Args:
        rows: Labels of the R rows.
        columns: Labels of the C columns.
        values: Shares by row and column, R lists of C; the cell of a NaN is empty.
        name: Name of the chart, unique on its page.
    """
    most = max((value for row in values for value in row if not math.isnan(value)), default=1.0) or 1.0

    def draw(width: int) -> Canvas:
        down, across, cells = rows, columns, values
        if len(across) > len(down):
            down, across = columns, rows
            cells = [[values[r][c] for r in range(len(rows))] for c in range(len(columns))]
        left = min((0.44 if width < 500 else 0.36) * width, 14 + _CHARACTER * max(len(label) for label in down))
        margin = int((left - 8) / _CHARACTER)
        wide = (width - left - 4) / len(across)
        letters = max(3, int(wide / _CHARACTER))
        tilt = any(len(label) > letters for label in across)
        head = 26 if not tilt else 16 + 14 * len(across)
        canvas = Canvas(width, head + 26 * len(down) + 4)
        for c, label in enumerate(across):
            x = left + wide * c + wide / 2
            if tilt:
                # One line per column with a leader: long names stay level and readable.
                y = 10 + 14 * c
                canvas.text(left - 8, y, _cut(label, margin), align="right", size=11, color=MUTED)
                canvas.line([left - 4, x, x], [y, y, head - 2], LINE)
            else:
                canvas.text(x, 12, label, align="center", size=11, color=MUTED)
        for r, label in enumerate(down):
            y = head + 26 * r
            parts = _two_lines(label, margin)
            for part, shift in zip(parts, (13,) if len(parts) == 1 else (8, 19), strict=True):
                canvas.text(left - 8, y + shift, part, align="right", size=12 if len(parts) == 1 else 10.5)
            for c, value in enumerate(cells[r]):
                if math.isnan(value):
                    continue
                canvas.rect(left + wide * c + 1, y + 1, wide - 2, 24, A, opacity=0.06 + 0.6 * value / most)
                digits = f"{100 * value:.0f}" if wide < 44 else f"{100 * value:.0f}%"
                canvas.text(left + wide * c + wide / 2, y + 13, digits, align="center", size=11)
        return canvas

    spoken = "; ".join(
        f"{row}: "
        + ", ".join(f"{column} {100 * v:.0f}%" for column, v in zip(columns, line, strict=True) if not math.isnan(v))
        for row, line in zip(rows, values, strict=True)
    )
    return _chart(draw, name, spoken)


def curves(
    series: Sequence[tuple[str, Sequence[tuple[float, float]]]],
    *,
    name: str,
    x_label: str,
    y_label: str,
    best: float | None = None,
) -> Chart:
    """Draw up to four lines over a common x axis.

    Args:
        series: Label and points (x, y) of each line.
        name: Name of the chart, unique on its page.
        x_label: Label of the x axis.
        y_label: Quantity on the y axis, for screen readers.
        best: x at which to draw a dashed vertical line; None for no line.
    """
    colors = (A, B, GOOD, MUTED)
    points = [point for _, line in series for point in line if math.isfinite(point[1])]

    def draw(width: int) -> Canvas:
        canvas = Canvas(width, 260)
        sx, sy = _frame(canvas, [x for x, _ in points], [y for _, y in points], x_label)
        if best is not None:
            canvas.line([sx(best)] * 2, [30, 220], MUTED, dash=True)
        x = 46.0
        for (label, line), color in zip(series, colors, strict=False):
            finite = [(a, b) for a, b in line if math.isfinite(b)]
            canvas.line([sx(a) for a, _ in finite], [sy(b) for _, b in finite], color, width=2.2)
            canvas.rect(x, 8, 14, 4, color)
            canvas.text(x + 19, 10, label, size=11, color=MUTED)
            x += 34 + _CHARACTER * len(label)
        return canvas

    ends = "; ".join(
        f"{label}: {line[0][1]:.4g} at the start, {line[-1][1]:.4g} at the end" for label, line in series if line
    )
    return _chart(draw, name, f"{y_label} over {x_label}. {ends}")


def scatter(points: Sequence[tuple[str, float, float]], *, name: str, x_label: str, y_label: str) -> Chart:
    """Draw a scatter plot.

    Args:
        points: Label, x and y of each point.
        name: Name of the chart, unique on its page.
        x_label: Label of the x axis.
        y_label: Label of the y axis.
    """

    def draw(width: int) -> Canvas:
        canvas = Canvas(width, 320 if width > 500 else 300)
        sx, sy = _frame(canvas, [x for _, x, _ in points], [y for _, _, y in points], x_label)
        for _, x, y in points:
            canvas.dot(sx(x), sy(y), A, size=8, opacity=0.75)
        canvas.text(6, 12, y_label, size=11, color=MUTED)
        return canvas

    return _chart(draw, name, f"{len(points)} points, {y_label} against {x_label}")


def _frame(
    canvas: Canvas, xs: Sequence[float], ys: Sequence[float], x_label: str
) -> tuple[Callable[[float], float], Callable[[float], float]]:
    """Draw the grid, the ticks and their labels; return the functions from x and from y to pixels."""
    left, right, top, bottom = 52.0, canvas.width - 10, 34.0, canvas.height - 42
    sx = _scale(min(xs, default=0.0), max(xs, default=1.0), left + 6, right - 6)
    sy = _scale(min(ys, default=0.0), max(ys, default=1.0), bottom - 6, top + 6)
    for values, axis, count in ((xs, "x", 4 if canvas.narrow else 8), (ys, "y", 5)):
        low, high = min(values, default=0.0), max(values, default=1.0)
        for tick in ticks(low, high, count):
            if axis == "x":
                canvas.line([sx(tick)] * 2, [top, bottom], LINE)
                canvas.text(sx(tick), bottom + 13, f"{tick:g}", align="center", size=11, color=MUTED)
            else:
                canvas.line([left, right], [sy(tick)] * 2, LINE)
                canvas.text(left - 6, sy(tick), f"{tick:g}", align="right", size=11, color=MUTED)
    canvas.text((left + right) / 2, canvas.height - 10, x_label, align="center", size=11, color=MUTED)
    return sx, sy


def _row_canvas(width: int, rows: int, *, value_column: float, foot: float) -> tuple[Canvas, float, float, float]:
    """Return a canvas for ``rows`` rows, the height of a row, and the left and right ends of the bars, in pixels."""
    narrow = width < 500
    row = 40.0 if narrow else 26.0
    canvas = Canvas(width, row * rows + 6 + foot)
    return canvas, row, (6.0 if narrow else 0.34 * width), width - value_column - 8


def _row_label(canvas: Canvas, label: str, n: int, row: float, x0: float, *, bold: bool = False) -> float:
    """Write the label of row ``n`` (above its bar on a narrow page) and return the y of the bar's middle."""
    y = _row_middle(canvas, n, row)
    if canvas.narrow:
        canvas.text(6, y - 18, _cut(label, int(canvas.width / _CHARACTER)), bold=bold)
    else:
        canvas.text(x0 - 10, y, _cut(label, int((x0 - 10) / _CHARACTER)), align="right", bold=bold)
    return y


def _row_middle(canvas: Canvas, n: int, row: float) -> float:
    """Return the y of the middle of the bar of row ``n``."""
    return row * n + 3 + (27 if canvas.narrow else row / 2)


def _upright(canvas: Canvas, x: float, y: float, row: float, color: str) -> None:
    """Draw one row's piece of a dashed vertical line; on a narrow page it does not cross the labels."""
    half = 9.0 if canvas.narrow else row / 2
    canvas.line([x, x], [y - half, y + half], color, dash=True)


def _ticks(canvas: Canvas, scale: Callable[[float], float], low: float, high: float, bottom: float) -> None:
    """Draw the numbers of a horizontal axis below the rows, and a line up from each."""
    if high <= low:
        return
    for tick in ticks(low, high, 3 if canvas.narrow else 6):
        canvas.line([scale(tick)] * 2, [bottom + 2, bottom + 8], LINE)
        canvas.text(scale(tick), bottom + 16, f"{tick:.4g}", align="center", size=11, color=MUTED)


def _scale(low: float, high: float, x0: float, x1: float) -> Callable[[float], float]:
    span = high - low
    if span <= 0:
        return lambda value: (x0 + x1) / 2
    return lambda value: x0 + (value - low) / span * (x1 - x0)


def _cut(label: str, letters: int) -> str:
    return label if len(label) <= letters else label[: max(1, letters - 1)] + "…"


def _two_lines(label: str, letters: int) -> tuple[str, ...]:
    """Return the label as one line, or as two if it is too long, split near its middle at a separator if possible."""
    if len(label) <= letters:
        return (label,)
    breaks = [n for n in range(1, min(letters, len(label) - 1) + 1) if label[n - 1] in "-_/. "]
    at = min(breaks, key=lambda n: abs(2 * n - len(label)), default=letters)
    return label[:at].rstrip(), _cut(label[at:].lstrip(), letters)


def _chart(draw: Callable[[int], Canvas], name: str, alt: str) -> Chart:
    return Chart(draw(WIDE).svg(f"{name}:wide"), draw(NARROW).svg(f"{name}:narrow"), alt)
