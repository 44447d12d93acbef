"""Which GGUF file a place is or holds. It does not import the library that reads such files."""

from __future__ import annotations

from pathlib import Path

from facetrm.core.errors import BackboneError, short


def gguf_in(place: Path) -> Path | None:
    """Return the GGUF file that ``place`` is or holds; None if it is something else.

    Args:
        place: a file, or a folder; one with other weights is an ordinary model folder.

    Raises:
        BackboneError: The folder holds several GGUF files.
    """
    if place.is_file():
        return place if place.suffix.lower() == ".gguf" or _starts_like_one(place) else None
    if not place.is_dir() or any(any(place.glob(pattern)) for pattern in ("*.safetensors", "*.bin")):
        return None
    files = sorted(path for path in place.iterdir() if path.suffix.lower() == ".gguf" and path.is_file())
    if len(files) > 1:
        names = ", ".join(short(path.name) for path in files[:6]) + (", ..." if len(files) > 6 else "")
        raise BackboneError(
            f"{len(files)} GGUF files ({names})", place=place, fix=f"name one of them, such as {files[0]}"
        )
    return files[0] if files else None


def _starts_like_one(path: Path) -> bool:
    try:
        with open(path, "rb") as handle:
            return handle.read(4) == b"GGUF"
    except OSError:
        return False
