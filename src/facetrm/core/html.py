"""A small HTML table for notebooks: all text is escaped, and no external resource is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape


def html_table(caption: str, header: Sequence[str], rows: Sequence[Sequence[str]], *, notes: Sequence[str] = ()) -> str:
    """Return an HTML table with notes below it.

    Args:
        caption: text above the table.
        header: column names; the first column is left-aligned, the others right-aligned.
        rows: cell texts of each row, one per column.
        notes: sentences below the table.
    """
    head = "".join(f"<th style='text-align:{_side(n)}'>{escape(name)}</th>" for n, name in enumerate(header))
    lines = [[f"<td style='text-align:{_side(n)}'>{escape(cell)}</td>" for n, cell in enumerate(row)] for row in rows]
    body = "".join(f"<tr>{''.join(cells)}</tr>" for cells in lines)
    said = "".join(f"<li>{escape(note)}</li>" for note in notes)
    table = f"<table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f"<div>{table}{f'<ul>{said}</ul>' if said else ''}</div>"


def _side(column: int) -> str:
    return "right" if column else "left"
