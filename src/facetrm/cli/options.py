"""The options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

Sets = Annotated[
    list[str], typer.Option("--set", metavar="KEY=VALUE", help="A setting, such as gate.settings.steps=500.")
]
Data = Annotated[Path, typer.Option("--data", help="JSONL or Parquet: rows with 'messages', or preference rows.")]
Reading = Annotated[
    list[str],
    typer.Option("--set", metavar="KEY=VALUE", help="How a model of others is read, such as truncation=drop_oldest."),
]
AskedMode = Annotated[
    Literal["fast", "exact"] | None,
    typer.Option(
        "--mode", help="fast, or exact: a score cannot depend on what else is scored (the model's by default)."
    ),
]
Drop = Annotated[list[str], typer.Option(metavar="NAME", help="Do not listen to this objective.")]
Scale = Annotated[list[str], typer.Option(metavar="NAME=FACTOR", help="Multiply the weight of this objective.")]
Pin = Annotated[list[str], typer.Option(metavar="NAME=WEIGHT", help="Fix the weight of this objective, 0 to 1.")]
