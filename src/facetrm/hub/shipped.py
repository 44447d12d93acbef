"""Models that ship with the package, without their backbones: found by name, such as ``desk``."""

from __future__ import annotations

from pathlib import Path
from typing import Final

_PLACES: Final = (
    Path(__file__).parents[1] / "shipped_models",  # in an installed package
    Path(__file__).parents[3] / "models",  # in a checkout
)


def shipped_models() -> dict[str, Path]:
    """Return the folder of each model of the package, by name."""
    found = next((place for place in _PLACES if place.is_dir()), None)
    if found is None:
        return {}
    return {path.name: path for path in sorted(found.iterdir()) if (path / "manifest.json").is_file()}
