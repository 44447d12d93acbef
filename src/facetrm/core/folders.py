"""Atomic folder writes: readers see the complete old folder or the complete new one, even if a process is killed.

    .NAME.<12 hex digits>.tmp   the new folder while it is written, next to the old one; locked by its writer
    .NAME.<12 hex digits>.old   the old folder, only on systems that cannot swap two folders atomically

The next writer removes what a killed one left and restores an old folder that had been set aside.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from facetrm.core.errors import FacetrmError
from facetrm.core.files import beside_of, is_leftover, naming, remove_leftovers, sync_folder
from facetrm.core.locks import still_there, try_lock

_AT_FDCWD: Final = -100
_EXCHANGE: Final = 2  # RENAME_EXCHANGE of Linux and RENAME_SWAP of macOS
_CANNOT: Final = frozenset({errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM})


def is_occupied(folder: Path) -> bool:
    """Return whether ``folder`` is a file, or a folder with content other than what a killed writer left.

    Args:
        folder: path that may not exist.
    """
    return folder.exists() and (not folder.is_dir() or any(not is_leftover(path.name) for path in folder.iterdir()))


@contextmanager
def new_folder(
    folder: Path, error: type[FacetrmError], *, replace: bool = False, last: str | None = None
) -> Iterator[Path]:
    """Yield a temporary folder that becomes ``folder`` if the block succeeds, completely or not at all.

    Args:
        folder: folder to create; a link to a folder is followed.
        error: error class to raise if the folder cannot be written.
        replace: whether to replace an existing folder, which stays complete until then.
        last: name of the file that makes the others valid. If the folder itself cannot be swapped (a mount point),
            this file is moved in last.

    Raises:
        FacetrmError: An ``error`` if the folder already exists or cannot be replaced atomically.
        OSError: Writing failed, for example because the disk is full; the error names the folder.
    """
    home = Path(os.path.realpath(folder))
    restore_folder(home)
    full = is_occupied(home)
    if full and not (replace and home.is_dir()):
        raise error("already exists", place=folder, fix="give a new folder")
    fixed = home.is_dir() and _is_fixed(home)
    if fixed and full:
        raise error(
            "it cannot be replaced atomically (it is a mount point or the current folder, or its parent is read-only)",
            place=folder,
            fix="give a folder below it, or an empty one",
        )
    with naming(folder):
        home.parent.mkdir(parents=True, exist_ok=True)
        within = home if fixed else home.parent
        remove_leftovers(within, of=home.name)
        temporary, descriptor = _make_beside(within / home.name)
        try:
            if full:
                temporary.chmod(stat.S_IMODE(home.stat().st_mode))
            yield temporary
            _sync_tree(temporary)
            if fixed:
                _move_into(temporary, home, last)
            else:
                _put(temporary, home)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            if descriptor is not None:
                os.close(descriptor)
        sync_folder(within)


def restore_folder(folder: Path) -> None:
    """Restore ``folder`` if a writer was killed after setting it aside. Readers call this too."""
    if folder.name == "" or not folder.parent.is_dir():
        return
    pattern = re.compile(rf"\.{re.escape(folder.name)}\.[0-9a-f]{{12}}\.old")
    try:
        aside = [path for path in folder.parent.iterdir() if pattern.fullmatch(path.name)]
    except OSError:
        return
    for path in aside:
        with suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY)
            try:
                if try_lock(descriptor) is not False and still_there(descriptor, path):
                    if os.path.lexists(folder):
                        shutil.rmtree(path, ignore_errors=True)
                    else:
                        os.rename(path, folder)
            finally:
                os.close(descriptor)


def link_tree(source: Path, target: Path) -> None:
    """Duplicate a folder or file at ``target``, using hard links where the file system supports them.

    Args:
        source: existing file or folder.
        target: path that does not exist yet.
    """
    if source.is_symlink():
        os.symlink(os.readlink(source), target)
    elif source.is_dir():
        shutil.copytree(source, target, symlinks=True, copy_function=_link)
    else:
        _link(str(source), str(target))


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _is_fixed(home: Path) -> bool:
    """Return whether an existing folder cannot be swapped for another one."""
    here = Path(os.path.realpath(os.curdir))
    return os.path.ismount(home) or here.is_relative_to(home) or not os.access(home.parent, os.W_OK)


def _make_beside(home: Path) -> tuple[Path, int | None]:
    """Create a locked folder next to ``home``; return its path and the descriptor that holds the lock."""
    while True:
        temporary = beside_of(home)
        temporary.mkdir()
        if sys.platform == "win32":
            return temporary, None
        descriptor = os.open(temporary, os.O_RDONLY)
        try_lock(descriptor)
        if still_there(descriptor, temporary):
            return temporary, descriptor
        os.close(descriptor)


def _put(temporary: Path, home: Path) -> None:
    """Make ``temporary`` the folder ``home``; the previous folder ends up in ``temporary`` or is deleted."""
    if not home.exists():
        os.rename(temporary, home)
        return
    if exchange(temporary, home):
        return
    aside = temporary.with_suffix(".old")
    descriptor = None if sys.platform == "win32" else os.open(home, os.O_RDONLY)
    try:
        if descriptor is not None:
            try_lock(descriptor)
        os.rename(home, aside)
        try:
            os.rename(temporary, home)
        except OSError:
            os.rename(aside, home)
            raise
        shutil.rmtree(aside, ignore_errors=True)
    finally:
        if descriptor is not None:
            os.close(descriptor)


def exchange(one: Path, other: Path) -> bool:
    """Swap two folders atomically; return False if the system cannot.

    Args:
        one: existing folder.
        other: existing folder on the same file system.

    Raises:
        OSError: The system supports the swap, but these two folders cannot be swapped.
    """
    if sys.platform == "win32":
        return False
    library = ctypes.CDLL(None, use_errno=True)
    first, second = os.fsencode(one), os.fsencode(other)
    if hasattr(library, "renameat2"):
        failed = library.renameat2(_AT_FDCWD, first, _AT_FDCWD, second, _EXCHANGE)
    elif hasattr(library, "renamex_np"):
        failed = library.renamex_np(first, second, _EXCHANGE)
    else:
        return False
    if not failed:
        return True
    number = ctypes.get_errno()
    if number in _CANNOT:
        return False
    raise OSError(number, os.strerror(number), str(other))


def _move_into(temporary: Path, home: Path, last: str | None) -> None:
    """Move everything in ``temporary`` into ``home``, with the file ``last`` after all others."""
    for path in sorted(temporary.iterdir(), key=lambda path: (path.name == last, path.name)):
        os.replace(path, home / path.name)
        sync_folder(home)


def _sync_tree(folder: Path) -> None:
    """Flush every file and directory entry under ``folder`` to disk."""
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place, name)
            if not path.is_symlink():
                descriptor = os.open(path, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
        sync_folder(Path(place))
