"""Print a diagnosis to the terminal: the findings, worst first, and the table of readings."""

from __future__ import annotations

import unicodedata
from typing import IO, Final

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from facetrm.doctor.findings import Diagnosis, Finding, Variant

_STYLES: Final = {"error": "bold red", "warning": "yellow", "note": "dim"}
_VERDICTS: Final = {"fault": "bold red", "agrees": "green", "moves": "yellow", "not run": "dim"}


def show_diagnosis(diagnosis: Diagnosis, *, file: IO[str] | None = None, width: int | None = None) -> None:
    """Print a diagnosis: coloured on a terminal, plain elsewhere.

    Args:
        diagnosis: the diagnosis to print.
        file: the stream to print to; None is standard output.
        width: the width in columns; None uses the terminal's width, or 80.
    """
    console = Console(file=file, width=width, highlight=False, markup=False, emoji=False)
    console.print(Text.assemble(("doctor ", "bold"), _clean(f"{diagnosis.model} ({diagnosis.kind})")))
    for finding in diagnosis.findings:
        _show_finding(console, finding, allowed=finding.code in diagnosis.allowed)
    if diagnosis.variants:
        console.print()
        console.print(_table(diagnosis))
    for reason in diagnosis.skipped:
        console.print(Text(_clean(f"not checked: {reason}"), style="dim"))
    console.print(Text(_verdict(diagnosis), style="bold"))


def _show_finding(console: Console, finding: Finding, *, allowed: bool) -> None:
    mark = f"{finding.severity}{' (allowed)' if allowed else ''}"
    style = "dim" if allowed else _STYLES[finding.severity]
    console.print()
    console.print(Text.assemble((f"{mark} ", style), (finding.code, "bold"), f": {_clean(finding.problem)}"))
    grid = Table.grid(padding=(0, 1, 0, 2))
    for name, text in (("measured", finding.measured), ("culprit", finding.culprit), ("fix", finding.fix)):
        grid.add_row(Text(name, style="dim"), Text(_clean(text)))
    console.print(grid)


def _table(diagnosis: Diagnosis) -> Table:
    unit = "in spreads (standard deviations) of the rewards"
    if any(line.drift is not None and not line.drift.spreads for line in diagnosis.variants):
        unit = "relative to the rewards' size, since all rewards are equal"
    title = f"{diagnosis.conversations} conversations; drift {unit}"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in ("reading", "against"):
        table.add_column(name)
    for name in ("largest", "mean", "flips", "ties"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict")
    for line in diagnosis.variants:
        verdict = Text(line.verdict, style=_VERDICTS[line.verdict])
        table.add_row(line.name, line.against, *_cells(line), Text.assemble(verdict, _clean(_because(line))))
    return table


def _cells(line: Variant) -> list[str]:
    moved = line.drift
    if moved is None:
        return ["-"] * 4
    flips, ties = (f"{count}/{moved.pairs}" for count in (moved.flips, moved.ties))
    return [f"{moved.largest_spreads:.2g}", f"{moved.mean_spreads:.2g}", flips, ties]


def _because(line: Variant) -> str:
    return f": {line.note}" if line.note else ""


def _verdict(diagnosis: Diagnosis) -> str:
    counted = diagnosis.counted
    if not counted and any(finding.code == "does-not-load" for finding in diagnosis.findings):
        return "\nno finding counts, but facetrm cannot load the model, so score cannot use it"
    if not counted:
        return f"\nhealthy at a threshold of {diagnosis.threshold:g} spreads"
    errors = sum(finding.severity == "error" for finding in counted)
    found = f"errors: {errors}, warnings: {len(counted) - errors}"
    return f"\n{found}, at a threshold of {diagnosis.threshold:g} spreads"


def _clean(text: str) -> str:
    """Replace control characters and direction marks by U+FFFD, since names in foreign files can hold anything."""
    return "".join("\ufffd" if unicodedata.category(c) in ("Cc", "Cf") and c != "\n" else c for c in text)
