"""Verbs that use a model: ``score`` and ``explain``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from facetrm import core, hub, recipes
from facetrm import data as records
from facetrm import explain as explaining
from facetrm.cli.explained import print_overall, print_row
from facetrm.cli.options import AskedMode, Data, Drop, Pin, Reading, Scale
from facetrm.cli.print import print_json
from facetrm.core.errors import DataError, did_you_mean

if TYPE_CHECKING:
    from facetrm.model import RewardModel


def score(
    model: Annotated[Path, typer.Argument(help="A model folder, a run folder, or a name on the Hub.")],
    data: Data,
    out: Annotated[Path | None, typer.Option(help="JSONL of score rows (standard output by default).")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda.")] = "auto",
    mode: AskedMode = None,
    sets: Reading = [],  # noqa: B006
    drop: Drop = [],  # noqa: B006
    scale: Scale = [],  # noqa: B006
    pin: Pin = [],  # noqa: B006
) -> None:
    """Score conversations: JSONL in, JSONL of readable scores out."""
    asked = records.read_conversations(data)
    scorer = _edited(
        hub.load_model(model, device=device, mode=mode, settings=core.apply_sets({}, sets)), drop, scale, pin
    )
    rows = recipes.score_rows(scorer, asked, quiet=out is None)
    if out is not None:
        print(f"{recipes.write_scores(rows, out)} scores in {out}")
        return
    for row in rows:
        print_json(row)


def explain(
    model: Annotated[Path, typer.Argument(help="A model folder, a run folder, or a name on the Hub.")],
    data: Annotated[
        Path | None, typer.Option("--data", help="Rows to explain (the run's own pair by default).")
    ] = None,
    row: Annotated[
        str | None, typer.Option(help="The id of the row, or its line in the file (the first row by default).")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Also write a page to this file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    overall: Annotated[
        bool, typer.Option(help="Explain the model on all rows: who is listened to, and what for.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda.")] = "auto",
    mode: AskedMode = None,
    sets: Reading = [],  # noqa: B006
    drop: Drop = [],  # noqa: B006
    scale: Scale = [],  # noqa: B006
    pin: Pin = [],  # noqa: B006
) -> None:
    """Explain one answer, one pair, or the whole model."""
    scorer = _edited(
        hub.load_model(model, device=device, mode=mode, settings=core.apply_sets({}, sets)), drop, scale, pin
    )
    path = data or model / "pair.jsonl"
    if data is None and not path.exists():
        raise DataError("no rows to explain", place=model, fix="give --data FILE")
    asked = records.read_conversations(path)
    if overall:
        print_overall(scorer, asked, html=html, as_json=as_json)
    else:
        print_row(scorer, _find(asked, row, path), html=html, as_json=as_json)


def _find(asked: list[records.ScoringRow], row: str | None, path: Path) -> records.ScoringRow:
    by_id = {a.id: a for a in asked}
    by_line = {str(a.line): a for a in asked}
    found = asked[0] if row is None else by_id.get(row) or by_line.get(row)
    if found is not None:
        return found
    raise DataError(f"no row '{row}' among {len(asked)}", place=path, fix=did_you_mean(str(row), list(by_id)[:50]))


def _edited(model: RewardModel, drop: list[str], scale: list[str], pin: list[str]) -> RewardModel:
    if not (drop or scale or pin):
        return model
    wish = explaining.parse_edit(drop=drop, scale=scale, pin=pin)
    return explaining.edit(model, drop=wish.drop, scale=wish.scale, pin=wish.pin)
