"""From what ``backbone.path`` says to what Transformers loads: GGUF files and named backbones become folders."""

from __future__ import annotations

from pathlib import Path

from facetrm.backbone.gguf.found import gguf_in
from facetrm.backbone.gguf.named import NAMED, named_place
from facetrm.core.lazy import load_name
from facetrm.core.progress import log


def readable_place(path: str, *, revision: str | None) -> str:
    """Return a model folder or ``hf://owner/name``; a GGUF file is dequantised into the cache first.

    Args:
        path: a folder, a GGUF file, a folder that holds one, the name of a backbone, or a name on the Hub.
        revision: commit or branch on the Hub, or None.

    Raises:
        BackboneError: A named backbone is not there, or a GGUF file cannot be converted.
    """
    place = Path(path).expanduser()
    if not place.exists() and (found := named_place(path, revision=revision)) is not None:
        path, place = found, Path(found)
    file = gguf_in(place)
    if file is None:
        return path
    return str(load_name("facetrm.backbone.gguf.convert", "converted")(file))  # its library is loaded only here


def tell_shadowed(path: str) -> None:
    """Log a warning if ``path`` is the name of a backbone, but a file or folder of that name is read instead."""
    if path in NAMED and Path(path).exists():
        log("backbone", name=path, warning="a file or folder of this name is here and is read instead", path=path)
