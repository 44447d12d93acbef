"""Verbs that train: ``run``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from facetrm import recipes
from facetrm.cli.options import Sets


def run(
    recipe: Annotated[Path, typer.Argument(help="A YAML recipe.")],
    out: Annotated[Path | None, typer.Option(help="The run folder (runs/NAME by default).")] = None,
    sets: Sets = [],  # noqa: B006  (typer reads the default and never changes it)
) -> None:
    """Run a recipe: train, compare, explain, save."""
    recipes.show_done(recipes.run_recipe(recipe, sets=sets, out=out))
