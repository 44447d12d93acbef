"""Terminal table of an edited answer or pair: weights and contributions before and after, with their sums."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from facetrm.core.clean import clean
from facetrm.core.shown import show_fixed
from facetrm.explain.before_after import before_after
from facetrm.explain.local import LocalExplanation


def edited_part(answers: Sequence[tuple[str, LocalExplanation]], top: int) -> Iterator[RenderableType]:
    """Yield the part of a view that shows the edits; nothing for a model without edits.

    Args:
        answers: letter (empty for a single answer) and explanation of each answer.
        top: largest number of objectives to show.
    """
    views = [(letter, view) for letter, answer in answers if (view := before_after(answer)) is not None]
    if not views:
        return
    yield Text.assemble("\n", ("Edited model", "bold"), ("  before and after the edits; the sums add up", "dim"))
    for letter, view in views:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, show_footer=False)
        table.add_column(f"answer {letter}".strip(), no_wrap=True, overflow="ellipsis")
        weighted = view.weights is not None
        for title in (*(("weight before", "now") if weighted else ()), "contribution before", "now"):
            table.add_column(title, justify="right")
        table.add_column("edit")
        kept, rest = view.rows[:top], view.rows[top:]
        for row in kept:
            cells = [] if row.weights is None else [f"{w:.1%}" for w in row.weights]
            given = [show_fixed(c, signed=True) for c in row.contributions]
            table.add_row(Text(clean(row.objective)), *cells, *given, row.change)
        if rest:
            cells = (
                [f"{sum(r.weights[n] for r in rest if r.weights is not None):.1%}" for n in (0, 1)] if weighted else []
            )
            given = [show_fixed(sum(r.contributions[n] for r in rest), signed=True) for n in (0, 1)]
            table.add_row(f"{len(rest)} others", *cells, *given, "")
        blank = ["", ""] if weighted else []
        table.add_row("base", *blank, *(show_fixed(x, signed=True) for x in view.base), "")
        totals = [] if view.weights is None else [f"{w:.1%}" for w in view.weights]
        table.add_row("sum: reward", *totals, *(show_fixed(x, signed=True) for x in view.reward), "", style="bold")
        yield table
    for fact in dict.fromkeys(fact for _, view in views for fact in view.facts):
        yield Text(f"- {fact}")
