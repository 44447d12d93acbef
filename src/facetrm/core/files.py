"""Files that are whole or absent: write beside under a name of one's own, flush to disk, rename.

What is beside is locked while it is written, so that the next writer can tell, and remove, what a killed one left.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Final

from facetrm.core.errors import FacetrmError
from facetrm.core.locks import still_there, try_lock

_BESIDE: Final = re.compile(r"\.(.+)\.[0-9a-f]{12}\.tmp", re.DOTALL)
_LONGEST: Final = 200  # bytes of a name that are kept in the name beside it; systems allow 255
_LINKS: Final = 40
_LONGEST_JSON: Final = 64 << 20
_NOFOLLOW: Final = getattr(os, "O_NOFOLLOW", 0)
_STREAMS: Final = {"/dev/stdout": 1, "/dev/stderr": 2}
_STREAM: Final = re.compile(r"/(?:dev/fd|proc/self/fd)/(\d+)")
_OS_ERROR: Final = re.compile(r"\(os error (\d+)\)")  # how libraries in Rust spell the number of an OSError


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` so that a reader, or a crash at any moment, sees the old file or the new one.

    Args:
        path: the file; see :func:`new_file` for links and devices.
        data: all of it.

    Raises:
        OSError: it names the file.
    """
    with new_file(path) as handle:
        handle.write(data)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, atomically (see :func:`write_bytes`)."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON with sorted keys and no NaN, atomically."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


@contextmanager
def new_file(path: Path) -> Iterator[IO[bytes]]:
    """Yield an open file that becomes ``path`` when all went well, and is removed when it did not.

    A link is followed: what it points at is replaced. A device, a pipe or a stream such as ``/dev/stdout`` is written
    to as it stands. An old file's mode stays; a new one gets what the umask allows.

    Args:
        path: the file; its folder is made.

    Raises:
        OSError: it names the file.
    """
    with naming(path):
        direct = open_stream(path)
        if direct is not None:
            with direct as handle:
                yield handle
            return
        target = regular_target(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder, not a file", str(path))
        remove_leftovers(target.parent, of=target.name)
        beside, descriptor = _open_beside(target)
        try:
            with open(beside, "wb", opener=lambda path, flags: descriptor) as handle:
                yield handle
                handle.flush()
                keep_mode(target, descriptor)
                os.fsync(descriptor)
                if sys.platform == "win32":
                    handle.close()  # an open file cannot be renamed there
                os.replace(beside, target)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
        sync_folder(target.parent)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an error of the system that names no file, such as that of a full disk, name ``path``."""
    try:
        yield
    except OSError as exc:
        if exc.filename is None and exc.errno is not None:
            exc.filename = str(path)
        raise
    except FacetrmError:
        raise
    except Exception as exc:
        found = _OS_ERROR.search(str(exc))
        if found is None:
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1])), str(path)) from exc


def open_stream(path: Path) -> IO[bytes] | None:
    """Open ``path`` for writing as it stands where it is a device, a pipe or a stream; None where it is none."""
    number = _stream_number(path)
    if number is not None:
        return open(os.dup(number), "wb")
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return None
    return open(os.open(path, os.O_WRONLY), "wb")


def _stream_number(path: Path) -> int | None:
    """Return the number of the open file that ``path`` stands for, as ``/dev/stdout`` does."""
    text = os.path.abspath(path)
    for _ in range(_LINKS):
        if text in _STREAMS:
            return _STREAMS[text]
        if (found := _STREAM.fullmatch(text)) is not None:
            return int(found[1])
        if not os.path.islink(text):
            return None
        text = os.path.abspath(os.path.join(os.path.dirname(text), os.readlink(text)))
    return None


def regular_target(path: Path) -> Path:
    """Return the file that ``path`` names when links are followed.

    Raises:
        OSError: a link of another user in a folder where everybody may write: it may point anywhere.
    """
    if path.is_symlink() and hasattr(os, "geteuid"):
        link, folder = path.lstat(), path.parent.stat()
        shared = folder.st_mode & stat.S_ISVTX and folder.st_mode & stat.S_IWOTH
        if shared and link.st_uid not in (os.geteuid(), folder.st_uid):
            raise PermissionError(errno.EACCES, "a link that another user made in a shared folder", str(path))
    return Path(os.path.realpath(path))


def beside_of(path: Path) -> Path:
    """Return a name beside ``path`` that nobody can guess, and that :func:`remove_leftovers` knows."""
    return path.with_name(f".{_kept(path.name)}.{secrets.token_hex(6)}.tmp")


def _kept(name: str) -> str:
    return os.fsdecode(os.fsencode(name)[:_LONGEST])


def _open_beside(target: Path) -> tuple[Path, int]:
    """Return a new, empty, locked file beside ``target``, and its open descriptor."""
    while True:
        beside = beside_of(target)
        descriptor = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_EXCL | _NOFOLLOW, 0o666)
        try_lock(descriptor)
        if still_there(descriptor, beside):
            return beside, descriptor
        os.close(descriptor)


def keep_mode(target: Path, descriptor: int) -> None:
    """Give an open file the mode, and where we may the owner, of a file that it will replace.

    Args:
        target: what will be replaced; nothing happens where it is not there.
        descriptor: of the open file.
    """
    try:
        old, new = target.stat(), os.fstat(descriptor)
    except FileNotFoundError:
        return
    if not hasattr(os, "fchmod"):
        return
    if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
        with suppress(OSError):
            os.fchown(descriptor, old.st_uid, old.st_gid)
    with suppress(OSError):
        os.fchmod(descriptor, stat.S_IMODE(old.st_mode))


def sync_folder(folder: Path) -> None:
    """Flush the names in ``folder`` to disk, where the system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def is_leftover(name: str) -> bool:
    """Return whether ``name`` is that of something being written, or left by a writer that was killed."""
    return name.startswith(".") and name.endswith(".tmp")


def remove_leftovers(folder: Path, *, of: str | None = None, below: bool = False) -> None:
    """Remove what killed writers left in ``folder``; what a living one is writing is locked, and stays.

    Args:
        folder: where to look.
        of: the name of the file or folder that was to be written; None for all.
        below: look into folders below as well; links are not followed.
    """
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return
    for entry in entries:
        found = _BESIDE.fullmatch(entry.name)
        if found is not None and (of is None or found[1] == _kept(of)):
            _remove_unlocked(Path(entry.path))
        elif below and entry.is_dir(follow_symlinks=False):
            remove_leftovers(Path(entry.path), below=True)


def _remove_unlocked(path: Path) -> None:
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | _NOFOLLOW | getattr(os, "O_NONBLOCK", 0))
        try:
            if try_lock(descriptor) and still_there(descriptor, path):
                if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink()
        finally:
            os.close(descriptor)


def why_unread(exc: OSError, *, missing: str, fix: str) -> tuple[str, str]:
    """Return what is wrong with a file that cannot be read, and what to do: unreadable is not missing.

    Args:
        exc: of the system.
        missing: what to say of a file that is not there.
        fix: what to do then.
    """
    if isinstance(exc, FileNotFoundError | NotADirectoryError):
        return missing, fix
    return f"cannot be read ({exc.strerror or exc})", "check its rights and its kind; the file itself may be whole"


def read_json(path: Path, error: type[FacetrmError], *, fix: str) -> Any:
    """Read a JSON file of ours.

    Args:
        path: the file.
        error: the class to raise when it is missing or is not JSON.
        fix: the sentence that ends the message.

    Returns:
        The parsed value.

    Raises:
        FacetrmError: an ``error`` that names the file and, for bad JSON, the line and column.
    """
    try:
        return json.loads(read_regular(path, limit=_LONGEST_JSON).decode("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise error(f"no file '{path.name}'", place=path.parent, fix=fix) from None
    except json.JSONDecodeError as exc:
        raise error(f"not JSON ({exc.msg})", place=f"{path}:{exc.lineno}:{exc.colno}", fix=fix) from None
    except UnicodeDecodeError as exc:
        raise error(f"not UTF-8 (byte {exc.start})", place=path, fix=fix) from None
    except (RecursionError, ValueError) as exc:
        reason = "nested too deeply" if isinstance(exc, RecursionError) else str(exc)
        raise error(f"not JSON that is read here ({reason})", place=path, fix=fix) from None


def read_regular(path: Path, *, limit: int) -> bytes:
    """Return the bytes of a regular file; a device or a pipe is never waited for.

    Args:
        path: the file; links are followed.
        limit: the most bytes that are read.

    Raises:
        OSError: it cannot be opened; it names the file.
        ValueError: it is no regular file, or is larger than ``limit``.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    with open(descriptor, "rb") as handle:
        found = os.fstat(descriptor)
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("no regular file")
        if found.st_size > limit:
            raise ValueError(f"{found.st_size:,} bytes, more than {limit:,}")
        return handle.read(limit)
