"""The commands that train: ``run``, and ``recipes``, which lists what it can run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from facetrm import recipes
from facetrm.cli.options import Sets


def run(
    recipe: Annotated[Path, typer.Argument(help="YAML file, or the name of a shipped recipe, such as quickstart.")],
    out: Annotated[
        Path | None, typer.Option(help="Run folder (default: runs/NAME, with the name of the recipe).")
    ] = None,
    sets: Sets = [],  # noqa: B006  (typer reads the default and never changes it)
) -> None:
    """Run a recipe: train a model, compare it with baselines, explain it and save it."""
    recipes.show_done(recipes.run_recipe(recipe, sets=sets, out=out))


def list_recipes() -> None:
    """List the recipes that ship with the package; ``facetrm run NAME`` runs one."""
    for recipe in recipes.shipped_recipes():
        print(f"{recipe.name:22}{recipe.kind:10}{recipe.description}")
