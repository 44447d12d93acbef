"""The commands that train: ``run``, ``recipes`` (what it can run), and ``init`` and ``train`` for own files."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from facetrm import recipes
from facetrm.cli.options import Sets

RatingFiles = Annotated[
    list[Path],
    typer.Option("--ratings", metavar="FILE", help="Rated answers: JSONL, JSON, CSV, TSV or Parquet (repeatable)."),
]
PairFiles = Annotated[
    list[Path], typer.Option("--pairs", metavar="FILE", help="Preferences, in any of these file types (repeatable).")
]
BackboneName = Annotated[
    str, typer.Option(help="Model folder, GGUF file, hf://owner/name, or a known name such as smollm2-135m.")
]


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
    shipped = recipes.shipped_recipes()
    name, kind = (
        max(len(part) for part in column) + 2 for column in zip(*((r.name, r.kind) for r in shipped), strict=True)
    )
    for recipe in shipped:
        print(f"{recipe.name:{name}}{recipe.kind:{kind}}{recipe.description}")


def init(
    ratings: RatingFiles = [],  # noqa: B006
    pairs: PairFiles = [],  # noqa: B006
    backbone: BackboneName = "smollm2-135m",
    out: Annotated[Path, typer.Option(help="Folder of the two files.")] = Path(),
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that are there.")] = False,
    sets: Sets = [],  # noqa: B006
) -> None:
    """Look at own files, and draft objectives.yaml and recipe.yaml for them."""
    recipes.check_unwritten(out, force=force)
    drafted = recipes.draft(ratings, pairs, backbone=backbone, written=out / "objectives.yaml", sets=sets)
    recipe = recipes.write_draft(drafted, out, force=force)
    print("\n".join(drafted.lines))
    print(f"\nWritten: {out / 'objectives.yaml'} and {recipe}. Check the guesses in the first, then:")
    print(f"  facetrm run {shlex.quote(str(recipe))}")


def train(
    ratings: RatingFiles = [],  # noqa: B006
    pairs: PairFiles = [],  # noqa: B006
    backbone: BackboneName = "smollm2-135m",
    objectives: Annotated[
        Path | None, typer.Option(metavar="FILE", help="YAML file of objectives (default: guessed from the ratings).")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder (default: runs/NAME, after the file of pairs).")] = None,
    sets: Sets = [],  # noqa: B006
) -> None:
    """Train on own files without a recipe. The run folder keeps the recipe, as config.resolved.yaml."""
    folder = out or Path("runs") / (pairs or ratings or [Path("own")])[0].name.split(".")[0]
    drafted = recipes.draft(
        ratings, pairs, backbone=backbone, written=folder / "objectives.yaml", objectives=objectives, sets=sets
    )
    print("\n".join(drafted.lines) + "\n", flush=True)
    run = recipes.train_own_data(drafted, folder)
    recipes.show_done(run)
    print(f"The same again: facetrm run {shlex.quote(str(folder / 'config.resolved.yaml'))}")
