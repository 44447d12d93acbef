"""The cache of converted files: one folder for each file's sha256, written once, by one process, and atomically.

$FACETRM_CACHE/gguf/SHA256-vN          else $XDG_CACHE_HOME/facetrm/gguf/..., else ~/.cache/facetrm/gguf/...
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Final

from facetrm.core.errors import BackboneError, StoreError
from facetrm.core.files import why_unread
from facetrm.core.folders import new_folder
from facetrm.core.locks import sole_writer
from facetrm.core.progress import log

VARIABLE: Final = "FACETRM_CACHE"
_PAUSE: Final = 0.1  # seconds between two looks at a lock that another process holds
_DONE: Final = "config.json"  # a folder appears with all of its files at once


def cache_folder() -> Path:
    """Return the folder of the cache; it may not exist yet.

    Raises:
        BackboneError: The environment names no folder and there is no home.
    """
    own, shared = os.environ.get(VARIABLE), os.environ.get("XDG_CACHE_HOME")
    try:
        if own:
            return Path(own).expanduser().absolute()
        if shared and os.path.isabs(shared):  # the specification says to ignore a relative one
            return Path(shared) / "facetrm"
        return Path.home() / ".cache" / "facetrm"
    except RuntimeError:
        raise BackboneError(
            "there is no home folder for the cache", place=VARIABLE, fix=f"set {VARIABLE} to a folder"
        ) from None


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file. In one process, a file with the same size and time is read once.

    Args:
        path: path of the file.

    Raises:
        BackboneError: The file cannot be read.
    """
    try:
        found = path.stat()
        return _sha256(path, (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns))
    except OSError as exc:
        problem, fix = why_unread(exc, missing="no such file", fix="give the path of a GGUF file")
        raise BackboneError(problem, place=path, fix=fix) from None


@lru_cache(maxsize=16)
def _sha256(path: Path, _version: tuple[int, ...]) -> str:
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def cached(key: str, write: Callable[[Path], None], *, what: str) -> Path:
    """Return the folder of ``key`` in the cache, which ``write`` fills the first time.

    A second process waits for the first. A folder that a killed process left unfinished is removed.

    Args:
        key: name of the folder.
        write: function that fills an empty folder.
        what: what is converted, for the log and the errors.

    Raises:
        BackboneError: The cache cannot be written, or ``write`` raises it.
    """
    folder = cache_folder() / "gguf" / key
    if (folder / _DONE).is_file():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        told = False
        while not (folder / _DONE).is_file():
            try:
                with sole_writer(folder.parent, name=f".{key}.lock"):
                    if not (folder / _DONE).is_file():
                        with new_folder(folder, BackboneError, replace=True) as fresh:
                            write(fresh)
            except StoreError:
                if not told:
                    log("backbone", waiting="another process converts it", file=what)
                told = True
                time.sleep(_PAUSE)
    except OSError as exc:
        raise BackboneError(
            f"the cache cannot be written ({exc.strerror or exc})",
            place=folder.parent,
            fix=f"free some space there, or set {VARIABLE} to another folder",
        ) from None
    return folder
