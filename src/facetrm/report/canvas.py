"""A drawing in pixels that becomes inline SVG: the page's colours, the page's fonts, no outside resource.

matplotlib writes the SVG; marker colours are replaced by the page's CSS variables, so one drawing serves light and dark
pages. Texts stay texts, identifiers are salted per drawing, no date is written: equal data give equal bytes.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Sequence
from typing import Any, Final, final

from markupsafe import Markup

from facetrm.core.errors import ConfigError

INK, MUTED, LINE, A, B, GOOD, BAD, PAPER = (f"#0{n}0{n}0{n}" for n in range(1, 9))
_VARIABLES: Final = {
    INK: "currentColor",
    MUTED: "var(--muted)",
    LINE: "var(--line)",
    A: "var(--a)",
    B: "var(--b)",
    GOOD: "var(--good)",
    BAD: "var(--bad)",
    PAPER: "var(--card)",
}


@final
class Canvas:
    """A drawing in pixels, x to the right and y downwards, on a matplotlib figure; a color is one of the above.

    Args:
        width: width of the drawing.
        height: height of the drawing.
    """

    def __init__(self, width: float, height: float) -> None:
        figure = _matplotlib("figure").Figure(figsize=(width / 72, height / 72), dpi=72)
        self.width, self.height, self._figure = width, height, figure
        self._axes = figure.add_axes((0, 0, 1, 1))
        self._axes.set(xlim=(0, width), ylim=(height, 0))
        self._axes.axis("off")
        figure.patch.set_visible(False)

    @property
    def narrow(self) -> bool:
        """Whether labels should stand above their rows."""
        return self.width < 500

    def rect(self, x: float, y: float, width: float, height: float, color: str, *, opacity: float = 1.0) -> None:
        """Fill a rectangle, with an ``opacity`` of 0 to 1; a negative ``width`` grows to the left."""
        rectangle = _matplotlib("patches").Rectangle(
            (x, y), width, height, fc=color, lw=0, alpha=opacity, clip_on=False
        )
        self._axes.add_patch(rectangle)

    def line(
        self, xs: Sequence[float], ys: Sequence[float], color: str, *, width: float = 1.0, dash: bool = False
    ) -> None:
        """Draw a polyline, dashed under ``dash``; lines of the grid lie below everything else."""
        order = 0.5 if color == LINE else 2.0
        style = "--" if dash else "-"
        self._axes.plot(xs, ys, color=color, lw=width, ls=style, zorder=order, solid_capstyle="round", clip_on=False)

    def dot(
        self, x: float, y: float, color: str, *, size: float = 8.0, hollow: bool = False, opacity: float = 1.0
    ) -> None:
        """Draw a round point of ``size`` px, filled or ``hollow``, with an ``opacity`` of 0 to 1."""
        face = PAPER if hollow else color
        edge = color if hollow else PAPER
        self._axes.plot(
            [x], [y], "o", ms=size, mfc=face, mec=edge, mew=2.0 if hollow else 1.0, alpha=opacity, clip_on=False
        )

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        color: str = INK,
        align: str = "left",
        size: float = 12.0,
        bold: bool = False,
    ) -> None:
        """Write ``text`` of ``size`` px, ``bold`` or not, its middle at height ``y``; ``align`` says what ``x`` is."""
        weight = "bold" if bold else "normal"
        self._axes.text(
            x,
            y,
            " ".join(text.split()),
            color=color,
            ha=align,
            va="center_baseline",
            fontsize=size,
            fontweight=weight,
            parse_math=False,
        )

    def svg(self, salt: str) -> Markup:
        """Return the drawing as an ``<svg>`` element that scales to its container."""
        matplotlib, buffer = _matplotlib(), io.StringIO()
        settings = {"svg.hashsalt": salt, "svg.fonttype": "none", "text.parse_math": False, "path.simplify": False}
        with warnings.catch_warnings(), matplotlib.rc_context(settings):
            # A label in a script that matplotlib's own font lacks is drawn by the reader's font.
            warnings.filterwarnings("ignore", message="Glyph .* missing from")
            self._figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        text = buffer.getvalue()
        text = re.sub(r"\s*<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
        text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
        text = re.sub(r"<svg [^>]*>", self._open_tag(), text, count=1)
        text = re.sub(r'<style type="text/css">.*?</style>', "", text, flags=re.DOTALL)
        text = re.sub(r' id="(figure|axes|patch|line2d|text)_\d+"', "", text)
        text = re.sub(r'style="[^"]*"', _page_style, text)
        return Markup(re.sub(r"\s*\n\s*", "\n", text).strip())

    def _open_tag(self) -> str:
        box = f"0 0 {self.width:g} {self.height:g}"
        names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
        return f'<svg {names} viewBox="{box}" width="{self.width:g}" aria-hidden="true" focusable="false">'


def _page_style(found: re.Match[str]) -> str:
    """Put the page's colours for the markers, and the page's fonts."""
    style = re.sub(r"font-family: [^;\"]*;?\s*", "", found.group(0))
    for marker, variable in _VARIABLES.items():
        style = style.replace(marker, variable)
    return style


def ticks(low: float, high: float, count: int) -> list[float]:
    """Return about ``count`` round numbers in ``low..high``."""
    values = _matplotlib("ticker").MaxNLocator(count).tick_values(low, high)
    return [float(value) for value in values if low <= value <= high]


def _matplotlib(module: str = "") -> Any:
    """Return matplotlib or one of its modules.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import matplotlib
        from matplotlib import figure, patches, ticker
    except ImportError:
        raise ConfigError(
            "charts need matplotlib, which is not installed", place="report", fix='pip install "facetrm[report]"'
        ) from None
    return {"": matplotlib, "figure": figure, "patches": patches, "ticker": ticker}[module]
