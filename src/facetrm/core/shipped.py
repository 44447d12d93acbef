"""Folders that ship with the package: beside its modules in an installation, at the root of a checkout."""

from __future__ import annotations

from pathlib import Path


def shipped_folder(name: str) -> Path | None:
    """Return the folder of files that ship with the package, such as ``recipes``; None if it is not there.

    Args:
        name: Name of the folder in a checkout; an installed package has it as ``shipped_NAME``.
    """
    places = (Path(__file__).parents[1] / f"shipped_{name}", Path(__file__).parents[3] / name)
    return next((place for place in places if place.is_dir()), None)
