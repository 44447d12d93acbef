"""One writer at a time, with file locks that the operating system releases when a process dies.

A lock file may remain after a crash, but it blocks nobody, because the lock ended with the process.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from facetrm.core.errors import StoreError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

_HELD: Final = frozenset({errno.EAGAIN, errno.EACCES, errno.EDEADLK})
_NOFOLLOW: Final = getattr(os, "O_NOFOLLOW", 0)
_held: set[int] = set()


def try_lock(descriptor: int) -> bool | None:
    """Try to lock an open file or folder without waiting.

    Args:
        descriptor: descriptor of the open file. The lock ends when it is closed or the process dies.

    Returns:
        True if we hold the lock, False if another process does, None if the file system has no locks.
    """
    try:
        if sys.platform == "win32":
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        return False if exc.errno in _HELD else None
    return True


def still_there(descriptor: int, path: Path) -> bool:
    """Return whether ``path`` still refers to the open file, which may have been removed before it was locked.

    Args:
        descriptor: descriptor of the open file.
        path: path with which it was opened.
    """
    try:
        there, ours = os.stat(path, follow_symlinks=False), os.fstat(descriptor)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)


@contextmanager
def sole_writer(
    folder: Path, *, name: str = ".lock", place: Path | None = None, fix: str = "wait for it to end, or stop it"
) -> Iterator[None]:
    """Hold the exclusive right to write to ``folder`` during the block; the lock file is removed afterwards.

    Args:
        folder: existing folder.
        name: name of the lock file in the folder.
        place: path to show in the error message; None for the folder.
        fix: fix to suggest in the error message.

    Raises:
        StoreError: Another process holds the lock; the message gives its process id, host and start time.
    """
    path = folder / name
    descriptor = _locked(path, place or folder, fix)
    _held.add(descriptor)
    try:
        about = {"pid": os.getpid(), "host": platform.node(), "since": datetime.now(UTC).isoformat(timespec="seconds")}
        os.ftruncate(descriptor, 0)
        os.write(descriptor, json.dumps(about).encode())
        yield
    finally:
        with suppress(OSError):  # a system that cannot remove an open file leaves an empty one
            path.unlink()
        _held.discard(descriptor)
        os.close(descriptor)


def _locked(path: Path, place: Path, fix: str) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | _NOFOLLOW, 0o666)
        if try_lock(descriptor) is False:
            holder = _holder(descriptor)
            os.close(descriptor)
            raise StoreError(f"another process is writing to it{holder}", place=place, fix=fix)
        if still_there(descriptor, path):
            return descriptor
        os.close(descriptor)


def _holder(descriptor: int) -> str:
    """Return who wrote the lock file, in parentheses, or an empty string if it does not say."""
    try:
        found = json.loads(os.read(descriptor, 1000))
        return f" (process {int(found['pid'])} on {str(found['host'])[:80]}, since {str(found['since'])[:40]})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _let_go() -> None:
    """Close lock descriptors inherited by a forked child, which would keep the lock after the parent has died."""
    for descriptor in _held:
        with suppress(OSError):
            os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)
