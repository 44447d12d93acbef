"""A small table of HTML for notebooks: every text in it is escaped, and it needs nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape


def html_table(caption: str, header: Sequence[str], rows: Sequence[Sequence[str]], *, notes: Sequence[str] = ()) -> str:
    """Return a table as HTML, with notes below it.

    Args:
        caption: above the table.
        header: of the columns; the first is aligned left, the others right.
        rows: as many cells as columns in each.
        notes: sentences.
    """
    head = "".join(f"<th style='text-align:{_side(n)}'>{escape(name)}</th>" for n, name in enumerate(header))
    lines = [[f"<td style='text-align:{_side(n)}'>{escape(cell)}</td>" for n, cell in enumerate(row)] for row in rows]
    body = "".join(f"<tr>{''.join(cells)}</tr>" for cells in lines)
    said = "".join(f"<li>{escape(note)}</li>" for note in notes)
    table = f"<table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f"<div>{table}{f'<ul>{said}</ul>' if said else ''}</div>"


def _side(column: int) -> str:
    return "right" if column else "left"
