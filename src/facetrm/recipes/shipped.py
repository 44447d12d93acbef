"""The recipes that ship with the package: found by name, so that no file has to be written or copied first."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from facetrm.core.config import read_yaml
from facetrm.core.errors import ConfigError, did_you_mean
from facetrm.core.shipped import shipped_folder


@dataclass(frozen=True)
class ShippedRecipe:
    """One recipe of the package.

    Attributes:
        name: Its name, for ``facetrm run NAME``.
        kind: Its kind, such as ``armorm``, ``dmoerm`` or ``ensemble``.
        description: What it trains, in one sentence.
        path: Its file.
    """

    name: str
    kind: str
    description: str
    path: Path


def shipped_recipes() -> list[ShippedRecipe]:
    """Return the recipes of the package by name."""
    recipes = []
    for name, path in _files().items():
        value = read_yaml(path)
        text = str(value.get("description") or value.get("title") or "")
        recipes.append(ShippedRecipe(name, str(value.get("recipe")), " ".join(text.split()), path))
    return recipes


def recipe_file(given: Path) -> Path:
    """Return the file of a recipe: ``given`` itself if it exists, else the shipped recipe of that name.

    Args:
        given: Path of a YAML file, or the name of a shipped recipe.

    Raises:
        ConfigError: It is neither; the error lists similar names.
    """
    if given.exists() or given.suffix in (".yaml", ".yml") or given.parent != Path():
        return given
    shipped = _files()
    if given.name in shipped:
        return shipped[given.name]
    raise ConfigError(
        f"no file and no shipped recipe '{given.name}'",
        place="recipe",
        fix=f"{did_you_mean(given.name, list(shipped))} ('facetrm recipes' lists them)",
    )


def _files() -> dict[str, Path]:
    """Return the file of each recipe of the package, by name."""
    folder = shipped_folder("recipes")
    return {} if folder is None else dict(sorted((path.stem, path) for path in folder.glob("*.yaml")))
