"""Checksums of a folder that was exported: a file that changed afterwards is noticed when the folder is read.

``facetrm-checksums.json`` lies beside the files and names the sha256 of each. The published layout has no place for
checksums, and Transformers takes no notice of them; a folder without the file is read as it is.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Final

from facetrm.core.errors import ModelError, short
from facetrm.core.files import read_json, why_unread

CHECKSUMS: Final = "facetrm-checksums.json"
_FORMAT: Final = 1
_FIX: Final = f"fetch or export the whole folder again, or delete {CHECKSUMS} if you changed the folder yourself"
# What a loader would read, were it added; a model card or a licence may be.
_READ: Final = re.compile(
    r".*\.(safetensors|safetensors\.index\.json|jinja|model|bin|py)|(manifest|config|tokenizer|tokenizer_config|"
    r"special_tokens_map|added_tokens|adapter_config|generation_config|vocab)\.json|vocab\.txt|merges\.txt"
)


def write_checksums(folder: Path) -> None:
    """Write the sha256 of every file of ``folder``, and of the folders in it, to ``facetrm-checksums.json``."""
    files = {name: _digest(path) for name, path in _files(folder).items()}
    (folder / CHECKSUMS).write_text(_text(files), encoding="utf-8")


def check_checksums(folder: Path) -> None:
    """Check that the files of ``folder`` are those that were exported; without checksums nothing is checked.

    Raises:
        ModelError: a file was changed, is missing, or was added; it names the file.
    """
    path = folder / CHECKSUMS
    if not path.is_file():
        return
    value = read_json(path, ModelError, fix=_FIX)
    files = value.get("files") if isinstance(value, dict) else None
    if not isinstance(files, dict) or value.get("format") != _FORMAT:
        raise ModelError("no checksums that this release reads", place=path, fix=_FIX)
    try:
        same = path.read_bytes() == _text(files).encode()
    except (ValueError, RecursionError):
        same = False
    if not same:
        raise ModelError("it is not as it was written", place=path, fix=_FIX)
    held = _files(folder)
    for name, digest in files.items():
        if name not in held:
            raise ModelError(f"file {short(name)} is missing", place=folder, fix=_FIX)
        found = _digest(held[name])
        if found != digest:
            raise ModelError(
                f"its sha256 is {found[:12]}, {CHECKSUMS} says {short(digest)[1:13]}: the file was changed",
                place=held[name],
                fix=_FIX,
            )
    added = next((name for name in sorted(held) if name not in files and _READ.fullmatch(held[name].name)), None)
    if added is not None:
        raise ModelError(f"file {short(added)} was added after the export", place=folder, fix=_FIX)


def _files(folder: Path) -> dict[str, Path]:
    found = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != CHECKSUMS)
    return {path.relative_to(folder).as_posix(): path for path in found}


def _digest(path: Path) -> str:
    try:
        with open(path, "rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as exc:
        problem, fix = why_unread(exc, missing="is missing", fix=_FIX)
        raise ModelError(f"file '{path.name}' {problem}", place=path.parent, fix=fix) from None


def _text(files: dict[str, str]) -> str:
    """Return the whole file; its own checksum covers what it says."""
    said = json.dumps(files, sort_keys=True)
    value = {"format": _FORMAT, "files": files, "sha256": hashlib.sha256(said.encode()).hexdigest()}
    return json.dumps(value, indent=1, sort_keys=True) + "\n"
