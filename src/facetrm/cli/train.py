"""The command that trains: ``run``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from facetrm import recipes
from facetrm.cli.options import Sets


def run(
    recipe: Annotated[Path, typer.Argument(help="YAML recipe.")],
    out: Annotated[
        Path | None, typer.Option(help="Run folder (default: runs/NAME, with the name of the recipe).")
    ] = None,
    sets: Sets = [],  # noqa: B006  (typer reads the default and never changes it)
) -> None:
    """Run a recipe: train a model, compare it with baselines, explain it and save it."""
    recipes.show_done(recipes.run_recipe(recipe, sets=sets, out=out))
