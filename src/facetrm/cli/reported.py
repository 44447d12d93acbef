"""The command ``report``, which makes one page of evaluations and runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from facetrm import recipes
from facetrm.core.printed import print_json


def report(
    folders: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN_OR_RESULTS...", help="Folders of 'facetrm eval' or 'facetrm run', or an audit.json."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder of report.html, report.md and report.json (default: the first folder).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print report.json instead of the answer.")] = False,
) -> None:
    """Make one page of evaluations and runs: which model is ahead on what, and how sure that is."""
    done = recipes.report_on(folders, out=out)
    if as_json:
        print_json(done.content, indent=2)
        return
    for sentence in done.content["answer"]:
        print(sentence)
    for path in done.paths:
        print(path)
