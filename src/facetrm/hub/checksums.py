"""Checksums of an exported folder, so that loading it detects files that changed after the export.

``facetrm-checksums.json`` holds the sha256 of each file in the folder. It is a separate file because the published
layout has no place for checksums; Transformers ignores it. A folder without this file is loaded without a check.
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
# Names of files that a loader would read. Other files, such as a model card or a licence, may be added.
_READ: Final = re.compile(
    r".*\.(safetensors|safetensors\.index\.json|jinja|model|bin|py)|(manifest|config|tokenizer|tokenizer_config|"
    r"special_tokens_map|added_tokens|adapter_config|generation_config|vocab)\.json|vocab\.txt|merges\.txt"
)


def write_checksums(folder: Path) -> None:
    """Write the sha256 of every file in ``folder`` and its subfolders to ``facetrm-checksums.json``."""
    files = {name: _digest(path) for name, path in _files(folder).items()}
    (folder / CHECKSUMS).write_text(_text(files), encoding="utf-8")


def check_checksums(folder: Path) -> None:
    """Check the files of ``folder`` against its checksums. A folder without checksums is not checked.

    Raises:
        ModelError: a file was changed, removed or added; the message names it.
    """
    path = folder / CHECKSUMS
    if not path.is_file():
        return
    value = read_json(path, ModelError, fix=_FIX)
    files = value.get("files") if isinstance(value, dict) else None
    if not isinstance(files, dict) or value.get("format") != _FORMAT:
        raise ModelError("the checksums are not in a format that this release reads", place=path, fix=_FIX)
    try:
        same = path.read_bytes() == _text(files).encode()
    except (ValueError, RecursionError):
        same = False
    if not same:
        raise ModelError("the file was changed after the export", place=path, fix=_FIX)
    held = _files(folder)
    for name, digest in files.items():
        if name not in held:
            raise ModelError(f"file {short(name)} is missing", place=folder, fix=_FIX)
        found = _digest(held[name])
        if found != digest:
            raise ModelError(
                f"the sha256 is {found[:12]}, but {CHECKSUMS} says {short(digest)[1:13]}: the file was changed",
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
    """Return the text of the checksum file. It includes a checksum of its own list."""
    said = json.dumps(files, sort_keys=True)
    value = {"format": _FORMAT, "files": files, "sha256": hashlib.sha256(said.encode()).hexdigest()}
    return json.dumps(value, indent=1, sort_keys=True) + "\n"
