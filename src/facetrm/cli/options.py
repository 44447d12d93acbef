"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from facetrm import core
from facetrm import explain as explaining
from facetrm.core.errors import ConfigError, short

if TYPE_CHECKING:
    from facetrm.model import RewardModel

ModelPlace = Annotated[
    Path, typer.Argument(help="Model or run folder, a shipped model such as desk, or hf://owner/name.")
]
Sets = Annotated[
    list[str],
    typer.Option("--set", metavar="KEY=VALUE", help="Change a setting, such as gate.settings.steps=500 (repeatable)."),
]
_DATA = typer.Option("--data", help="JSONL or Parquet file: rows with 'messages', or preference rows.")
Data = Annotated[Path, _DATA]
OptionalData = Annotated[Path | None, _DATA]
ReadingSets = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a backbone setting, such as dtype=bfloat16 for a third-party model (repeatable).",
    ),
]
Prompt = Annotated[
    str | None, typer.Option(help="A prompt, instead of a file of rows; '-' reads it from standard input.")
]
Truncating = Annotated[
    Literal["error", "drop_oldest"] | None,
    typer.Option(help="Conversations that are too long: stop with an error, or drop their oldest turns."),
]
MaxTokens = Annotated[
    int | None, typer.Option(min=2, help="Maximum number of tokens per conversation, at most the model's own maximum.")
]
AskedMode = Annotated[
    Literal["fast", "exact"] | None,
    typer.Option(
        "--mode", help="fast, or exact: scores do not depend on what else is scored (default: the model's mode)."
    ),
]
Drop = Annotated[list[str], typer.Option(metavar="NAME", help="Drop this objective (repeatable).")]
Scale = Annotated[
    list[str], typer.Option(metavar="NAME=FACTOR", help="Multiply the weight of this objective (repeatable).")
]
Trust = Annotated[
    bool, typer.Option("--trust-remote-code", help="Allow the model's own Python code to run. Read that code first.")
]
Pin = Annotated[
    list[str], typer.Option(metavar="NAME=WEIGHT", help="Fix the weight of this objective, from 0 to 1 (repeatable).")
]


def reading_settings(
    sets: list[str], *, truncation: str | None = None, max_tokens: int | None = None
) -> dict[str, object]:
    """Return the backbone settings for loading a model. ``backbone.KEY``, the spelling of recipes, means ``KEY``.

    Args:
        sets: ``KEY=VALUE`` settings of ``--set``.
        truncation: Value of ``--truncation``; None if not given.
        max_tokens: Value of ``--max-tokens``; None if not given.

    Raises:
        ConfigError: A setting is malformed.
    """
    settings = core.apply_sets({}, sets)
    nested = settings.pop("backbone", {})
    if not isinstance(nested, dict):
        raise ConfigError(f"'backbone' is {short(nested)}", place="--set", fix="give backbone.KEY=VALUE")
    given = {"truncation": truncation, "max_tokens": max_tokens}
    return {**settings, **nested, **{key: value for key, value in given.items() if value is not None}}


def edited_model(model: RewardModel, drop: list[str], scale: list[str], pin: list[str]) -> RewardModel:
    """Return a model with the edits of the command line; without any, the model itself.

    Args:
        model: The loaded model.
        drop: Values of ``--drop``.
        scale: Values of ``--scale``.
        pin: Values of ``--pin``.

    Raises:
        ModelError: An edit is malformed or not possible in this model.
    """
    if not (drop or scale or pin):
        return model
    wish = explaining.parse_edit(drop=drop, scale=scale, pin=pin)
    return explaining.edit(model, drop=wish.drop, scale=wish.scale, pin=wish.pin)
