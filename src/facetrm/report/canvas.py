"""Drawings in pixels that become inline SVG with the page's colours and fonts, and without external resources.

Matplotlib writes the SVG. Placeholder colours are replaced by the page's CSS variables, so the same drawing works on
light and dark pages. Text stays text, identifiers are salted per drawing, and no date is written, so that the same data
give the same bytes.
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
    """A drawing in pixels, with x to the right and y downwards. Colours are the constants of this module.

    Args:
        width: Width of the drawing, in pixels.
        height: Height of the drawing, in pixels.
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
        """Whether the drawing is so narrow that labels should stand above their rows."""
        return self.width < 500

    def rect(self, x: float, y: float, width: float, height: float, color: str, *, opacity: float = 1.0) -> None:
        """Draw a filled rectangle.

        Args:
            x: Left edge, in pixels; the right edge if ``width`` is negative.
            y: Top edge, in pixels.
            width: Width, in pixels.
            height: Height, in pixels.
            color: Fill colour.
            opacity: Opacity from 0 to 1.
        """
        rectangle = _matplotlib("patches").Rectangle(
            (x, y), width, height, fc=color, lw=0, alpha=opacity, clip_on=False
        )
        self._axes.add_patch(rectangle)

    def line(
        self, xs: Sequence[float], ys: Sequence[float], color: str, *, width: float = 1.0, dash: bool = False
    ) -> None:
        """Draw a polyline. Lines in the colour of the grid lie below everything else.

        Args:
            xs: x of each point, in pixels.
            ys: y of each point, in pixels.
            color: Colour of the line.
            width: Width of the line, in pixels.
            dash: Whether the line is dashed.
        """
        order = 0.5 if color == LINE else 2.0
        style = "--" if dash else "-"
        self._axes.plot(xs, ys, color=color, lw=width, ls=style, zorder=order, solid_capstyle="round", clip_on=False)

    def dot(
        self, x: float, y: float, color: str, *, size: float = 8.0, hollow: bool = False, opacity: float = 1.0
    ) -> None:
        """Draw a round point.

        Args:
            x: x of the centre, in pixels.
            y: y of the centre, in pixels.
            color: Colour of the point, or of its edge if it is hollow.
            size: Diameter, in pixels.
            hollow: Whether only the edge has the colour.
            opacity: Opacity from 0 to 1.
        """
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
        """Write one line of text.

        Args:
            x: x of the text's left end, centre or right end, in pixels.
            y: y of the text's middle, in pixels.
            text: The text; line breaks become spaces.
            color: Colour of the text.
            align: Which point of the text ``x`` is: ``left``, ``center`` or ``right``.
            size: Font size, in pixels.
            bold: Whether the text is bold.
        """
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
        """Return the drawing as an ``<svg>`` element that scales to its container.

        Args:
            salt: Salt of the element's identifiers, unique on the page.
        """
        matplotlib, buffer = _matplotlib(), io.StringIO()
        settings = {"svg.hashsalt": salt, "svg.fonttype": "none", "text.parse_math": False, "path.simplify": False}
        with warnings.catch_warnings(), matplotlib.rc_context(settings):
            # Matplotlib's font lacks some scripts; the page's font draws such labels.
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
    """Replace the placeholder colours by the page's, and remove the font so that the page's is used."""
    style = re.sub(r"font-family: [^;\"]*;?\s*", "", found.group(0))
    for marker, variable in _VARIABLES.items():
        style = style.replace(marker, variable)
    return style


def ticks(low: float, high: float, count: int) -> list[float]:
    """Return round numbers for the ticks of an axis.

    Args:
        low: Smallest value on the axis.
        high: Largest value on the axis.
        count: Approximate number of ticks.
    """
    values = _matplotlib("ticker").MaxNLocator(count).tick_values(low, high)
    return [float(value) for value in values if low <= value <= high]


def _matplotlib(module: str = "") -> Any:
    """Return matplotlib or one of its modules.

    Raises:
        ConfigError: Matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib import figure, patches, ticker
    except ImportError:
        raise ConfigError(
            "charts need matplotlib, which is not installed", place="report", fix='pip install "facetrm[report]"'
        ) from None
    return {"": matplotlib, "figure": figure, "patches": patches, "ticker": ticker}[module]
