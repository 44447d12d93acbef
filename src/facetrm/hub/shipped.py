"""Models that ship with the package, without their backbones: found by name, such as ``desk``."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

from facetrm.core.errors import ModelError
from facetrm.core.shipped import shipped_folder


def pair_of(model: Path) -> Path:
    """Return the file of the pair that a run or a shipped model explains by default; it may not exist.

    Args:
        model: Run folder, or the name of a shipped model.
    """
    return (model if model.exists() else shipped_models().get(str(model), model)) / "pair.jsonl"


def shipped_models() -> dict[str, Path]:
    """Return the folder of each model of the package, by name."""
    folder = shipped_folder("models")
    if folder is None:
        return {}
    return {path.name: path for path in sorted(folder.iterdir()) if (path / "manifest.json").is_file()}


def check_spelling(name: str, others: Iterable[str]) -> None:
    """Check that a name which is no path is not a misspelt one.

    Args:
        name: Path or name of a model.
        others: Names that are known besides those of shipped models.

    Raises:
        ModelError: There is no such path, and the name is nearly a known one.
    """
    known = [*others, *shipped_models()]
    if Path(name).expanduser().exists() or name in known:
        return
    if near := difflib.get_close_matches(name[:200], known, n=1):
        raise ModelError("no such model", place=name, fix=f"did you mean '{near[0]}'? Or give a model or run folder")
