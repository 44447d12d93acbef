"""The options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from facetrm import core
from facetrm.core.errors import ConfigError, short

Sets = Annotated[
    list[str], typer.Option("--set", metavar="KEY=VALUE", help="A setting, such as gate.settings.steps=500.")
]
Data = Annotated[Path, typer.Option("--data", help="JSONL or Parquet: rows with 'messages', or preference rows.")]
ReadingSets = Annotated[
    list[str],
    typer.Option("--set", metavar="KEY=VALUE", help="How a model of others is read, such as dtype=bfloat16."),
]
Truncating = Annotated[
    Literal["error", "drop_oldest"] | None,
    typer.Option(help="At a conversation that is too long: an error, or read it without its oldest turns."),
]
MaxTokens = Annotated[int | None, typer.Option(min=2, help="Read fewer tokens of a conversation than the model can.")]
AskedMode = Annotated[
    Literal["fast", "exact"] | None,
    typer.Option(
        "--mode", help="fast, or exact: a score cannot depend on what else is scored (the model's by default)."
    ),
]
Drop = Annotated[list[str], typer.Option(metavar="NAME", help="Do not listen to this objective.")]
Scale = Annotated[list[str], typer.Option(metavar="NAME=FACTOR", help="Multiply the weight of this objective.")]
Trust = Annotated[
    bool, typer.Option("--trust-remote-code", help="Let Python code that comes with the model run; read it first.")
]
Pin = Annotated[list[str], typer.Option(metavar="NAME=WEIGHT", help="Fix the weight of this objective, 0 to 1.")]


def reading_settings(
    sets: list[str], *, truncation: str | None = None, max_tokens: int | None = None
) -> dict[str, object]:
    """Return the settings by which a model reads; ``backbone.KEY``, as recipes spell them, is the same as ``KEY``.

    Args:
        sets: ``KEY=VALUE`` of ``--set``.
        truncation: of ``--truncation``.
        max_tokens: of ``--max-tokens``.
    """
    settings = core.apply_sets({}, sets)
    nested = settings.pop("backbone", {})
    if not isinstance(nested, dict):
        raise ConfigError(f"'backbone' is {short(nested)}", place="--set", fix="give backbone.KEY=VALUE")
    given = {"truncation": truncation, "max_tokens": max_tokens}
    return {**settings, **nested, **{key: value for key, value in given.items() if value is not None}}
