"""Commands that use a model: ``score``, ``explain`` and ``export``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from facetrm import data as records
from facetrm import hub, recipes
from facetrm.cli.explained import print_overall, print_row
from facetrm.cli.options import (
    AskedMode,
    Drop,
    MaxTokens,
    ModelPlace,
    OptionalData,
    Pin,
    Prompt,
    ReadingSets,
    Scale,
    Truncating,
    Trust,
    edited_model,
    reading_settings,
)
from facetrm.cli.typed import PLACE, typed_row
from facetrm.core.errors import ConfigError, DataError, did_you_mean
from facetrm.core.folders import is_occupied

if TYPE_CHECKING:
    from facetrm.data import ScoringRow
    from facetrm.data.read.conversations import RefusedRow


def score(
    model: ModelPlace,
    data: OptionalData = None,
    prompt: Prompt = None,
    answer: Annotated[
        list[str], typer.Option(metavar="TEXT", help="An answer to the prompt (repeatable); '-' is standard input.")
    ] = [],  # noqa: B006
    out: Annotated[Path | None, typer.Option(help="JSONL file of scores (default: standard output).")] = None,
    device: Annotated[str, typer.Option(help="Device: auto, cpu or cuda.")] = "auto",
    mode: AskedMode = None,
    trust_remote_code: Trust = False,
    on_error: Annotated[
        Literal["stop", "skip"],
        typer.Option(help="Rows that cannot be scored: stop, or skip them and list them in OUT.skipped.jsonl."),
    ] = "stop",
    truncation: Truncating = None,
    max_tokens: MaxTokens = None,
    sets: ReadingSets = [],  # noqa: B006
    drop: Drop = [],  # noqa: B006
    scale: Scale = [],  # noqa: B006
    pin: Pin = [],  # noqa: B006
    lower_bound: Annotated[
        float | None,
        typer.Option(
            metavar="Z",
            help="Also write lower_bound, the reward minus Z of its standard deviations (a model with uncertainty).",
        ),
    ] = None,
) -> None:
    """Score conversations, and write one JSON line with an explained score per answer.

    With --out, finished scores are kept, and the same command resumes where it stopped.
    """
    typed = typed_row(prompt, answer, option="--answer", data=data)
    if typed is not None:
        rows: Iterator[ScoringRow | RefusedRow] = iter([typed])
    elif data is not None:
        rows = records.stream_all_rows(data)
    else:
        raise DataError("no rows to score", place=model, fix="give --data FILE, or --prompt TEXT --answer TEXT")
    asked = chain([next(rows)], rows)  # report a missing file before loading the model
    place = data or PLACE
    settings = reading_settings(sets, truncation=truncation, max_tokens=max_tokens)
    scorer = edited_model(
        hub.load_model(model, device=device, mode=mode, settings=settings, trust_remote_code=trust_remote_code),
        drop,
        scale,
        pin,
    )
    if out is not None:
        count = recipes.write_scores(scorer, asked, out, skip=on_error == "skip", data=place, lower_bound=lower_bound)
        found = f" ({count.found} of them from an earlier run)" if count.found else ""
        print(f"{count.scores} scores in {out}{found}", file=sys.stdout if out.is_file() else sys.stderr)
    else:
        count = recipes.print_scores(scorer, asked, skip=on_error == "skip", data=place, lower_bound=lower_bound)
    if count.skipped:
        rows_were = "row was" if count.skipped == 1 else "rows were"
        print(f"{count.skipped} {rows_were} skipped: see {count.side}", file=sys.stderr)


def explain(
    model: ModelPlace,
    data: Annotated[
        Path | None, typer.Option("--data", help="Rows to explain (default: the pair saved with the run).")
    ] = None,
    row: Annotated[
        str | None, typer.Option(help="Id of the row, or its line number in the file (default: the first row).")
    ] = None,
    prompt: Prompt = None,
    a: Annotated[str | None, typer.Option("--a", help="Answer A to the prompt; '-' is standard input.")] = None,
    b: Annotated[str | None, typer.Option("--b", help="Answer B; without it, answer A is explained alone.")] = None,
    html: Annotated[Path | None, typer.Option(help="Also write an HTML page to this file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
    overall: Annotated[
        bool, typer.Option(help="Explain the model over all rows: how much each objective counts, and its effect.")
    ] = False,
    device: Annotated[str, typer.Option(help="Device: auto, cpu or cuda.")] = "auto",
    mode: AskedMode = None,
    trust_remote_code: Trust = False,
    sets: ReadingSets = [],  # noqa: B006
    drop: Drop = [],  # noqa: B006
    scale: Scale = [],  # noqa: B006
    pin: Pin = [],  # noqa: B006
    save: Annotated[
        Path | None, typer.Option(help="Save the edited model to this folder; it must be new or empty.")
    ] = None,
) -> None:
    """Explain one answer, one pair, or the whole model."""
    answers = [text for text in (a, b) if text is not None]
    typed = typed_row(prompt, answers, option="--a", data=data)
    if save is not None and not (drop or scale or pin):
        raise ConfigError("nothing is edited", place="--save", fix="add --drop, --scale or --pin")
    if save is not None and is_occupied(save):
        raise ConfigError("not a new or empty folder", place=save, fix="give another folder to --save")
    scorer = edited_model(
        hub.load_model(
            model, device=device, mode=mode, settings=reading_settings(sets), trust_remote_code=trust_remote_code
        ),
        drop,
        scale,
        pin,
    )
    path = data or hub.pair_of(model)
    if typed is None and data is None and not path.exists():
        raise DataError("no rows to explain", place=model, fix="give --data FILE, or --prompt TEXT --a TEXT --b TEXT")
    asked = records.read_conversations(path) if typed is None else [typed]
    if typed is None and data is None:  # the run's own pair, best first
        asked = [replace(row, labelled=True) for row in asked]
    if overall:
        print_overall(scorer, asked, html=html, as_json=as_json)
    else:
        print_row(scorer, _find(asked, row, path), html=html, as_json=as_json)
    if save is not None:
        scorer.save(save)
        print(f"edited model: {save}", file=sys.stderr)


def export(
    model: ModelPlace,
    out: Annotated[Path, typer.Option(help="Folder to write to; it must be new or empty.")],
    self_contained: Annotated[
        bool,
        typer.Option(
            "--self-contained",
            help="Write facetrm's own format, including the backbone (default: ArmoRM's layout, for Transformers).",
        ),
    ] = False,
    trust_remote_code: Trust = False,
) -> None:
    """Export a model for others: one folder with the model, its backbone, and checksums of all files."""
    found = hub.load_model(model, device="cpu", trust_remote_code=trust_remote_code)
    folder = (hub.export_self_contained if self_contained else hub.export_published)(found, out)
    print(f"model {found.hash[:12]} in {folder}")


def _find(asked: list[records.ScoringRow], row: str | None, path: Path) -> records.ScoringRow:
    by_id = {a.id: a for a in asked}
    by_line = {str(a.line): a for a in asked}
    found = asked[0] if row is None else by_id.get(row) or by_line.get(row)
    if found is not None:
        return found
    raise DataError(f"no row '{row}' among {len(asked)}", place=path, fix=did_you_mean(str(row), list(by_id)[:50]))
