"""Models that ship with the package, without their backbones: found by name, such as ``desk``."""

from __future__ import annotations

from pathlib import Path

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
