"""One writer at a time, by locks that the system takes back from a process that dies.

A lock file may lie about after a crash; it holds nobody up, because the lock went with the process.
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
    """Take the lock of an open file, or of an open folder, without waiting.

    Args:
        descriptor: of the open file. The lock ends when it is closed, or when the process dies.

    Returns:
        True: it is ours. False: another holds it. None: the file system has no locks.
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
    """Return whether ``path`` still names the open file: someone may have removed it before it was locked.

    Args:
        descriptor: of the open file.
        path: the name by which it was opened.
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
    """Hold the right to write to ``folder``; nothing of it is left behind.

    Args:
        folder: that is there already.
        name: of the lock file in it.
        place: what the message says is written to; the folder by default.
        fix: the sentence that ends the message.

    Raises:
        StoreError: another process holds it; the message names its number, its machine and since when.
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
        with suppress(OSError):  # a system that removes no open file leaves an empty one
            path.unlink()
        _held.discard(descriptor)
        os.close(descriptor)


def _locked(path: Path, place: Path, fix: str) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | _NOFOLLOW, 0o666)
        if try_lock(descriptor) is False:
            holder = _holder(descriptor)
            os.close(descriptor)
            raise StoreError(f"another process writes to it{holder}", place=place, fix=fix)
        if still_there(descriptor, path):
            return descriptor
        os.close(descriptor)


def _holder(descriptor: int) -> str:
    """Return who wrote the lock file, in brackets; nothing where it does not say."""
    try:
        found = json.loads(os.read(descriptor, 1000))
        return f" (process {int(found['pid'])} on {str(found['host'])[:80]}, since {str(found['since'])[:40]})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _let_go() -> None:
    """Close what a forked child has inherited: it would hold the lock beyond the life of its parent."""
    for descriptor in _held:
        with suppress(OSError):
            os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)
