"""Atomic file writes: write to a temporary file in the same folder, flush it to disk, then rename it.

The temporary file is locked while it is written, so the next writer can recognise and remove what a killed one left.
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
_LONGEST: Final = 200  # bytes of the target's name kept in the temporary name; file systems allow 255
_LINKS: Final = 40
_LONGEST_JSON: Final = 64 << 20
_NOFOLLOW: Final = getattr(os, "O_NOFOLLOW", 0)
_STREAMS: Final = {"/dev/stdout": 1, "/dev/stderr": 2}
_STREAM: Final = re.compile(r"/(?:dev/fd|proc/self/fd)/(\d+)")
_OS_ERROR: Final = re.compile(r"\(os error (\d+)\)")  # how Rust libraries write the errno of an OSError


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` atomically: even after a crash, readers see the whole old or the whole new file.

    Args:
        path: file to write; links are followed, and devices and pipes are written to directly.
        data: the complete content.

    Raises:
        OSError: The file cannot be written; the error names it.
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
    """Yield an open file that becomes ``path`` if the block succeeds and is removed if it fails.

    Links are followed: the file that a link points to is replaced. A device, pipe or stream such as ``/dev/stdout`` is
    written to directly. An existing file keeps its mode; a new one gets the mode that the umask allows.

    Args:
        path: file to write; its folder is created if needed.

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
                    handle.close()  # Windows cannot rename an open file
                os.replace(beside, target)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
        sync_folder(target.parent)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add ``path`` to any OSError raised in the block that names no file, such as a full disk."""
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
    """Open ``path`` for writing if it is a device, pipe or stream; return None if it is not."""
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
    """Return the file descriptor that ``path`` stands for, as ``/dev/stdout`` does, or None."""
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
    """Return the file that ``path`` refers to after following links.

    Raises:
        OSError: ``path`` is another user's link in a world-writable folder, so it may point anywhere.
    """
    if path.is_symlink() and hasattr(os, "geteuid"):
        link, folder = path.lstat(), path.parent.stat()
        shared = folder.st_mode & stat.S_ISVTX and folder.st_mode & stat.S_IWOTH
        if shared and link.st_uid not in (os.geteuid(), folder.st_uid):
            raise PermissionError(errno.EACCES, "a link that another user made in a shared folder", str(path))
    return Path(os.path.realpath(path))


def beside_of(path: Path) -> Path:
    """Return an unguessable temporary name in the folder of ``path`` that :func:`remove_leftovers` recognises."""
    return path.with_name(f".{_kept(path.name)}.{secrets.token_hex(6)}.tmp")


def _kept(name: str) -> str:
    return os.fsdecode(os.fsencode(name)[:_LONGEST])


def _open_beside(target: Path) -> tuple[Path, int]:
    """Create an empty, locked file in the folder of ``target``; return its path and open descriptor."""
    while True:
        beside = beside_of(target)
        descriptor = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_EXCL | _NOFOLLOW, 0o666)
        try_lock(descriptor)
        if still_there(descriptor, beside):
            return beside, descriptor
        os.close(descriptor)


def keep_mode(target: Path, descriptor: int) -> None:
    """Give an open file the mode, and if permitted the owner, of the file that it will replace.

    Args:
        target: file to be replaced; nothing happens if it does not exist.
        descriptor: descriptor of the open file.
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
    """Flush the directory entries of ``folder`` to disk, if the system supports it."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def is_leftover(name: str) -> bool:
    """Return whether ``name`` is a temporary name: of a file being written, or left by a killed writer."""
    return name.startswith(".") and name.endswith(".tmp")


def remove_leftovers(folder: Path, *, of: str | None = None, below: bool = False) -> None:
    """Remove what killed writers left in ``folder``. Files that a live writer has locked are kept.

    Args:
        folder: folder to search.
        of: name of the file or folder that was being written; None for all.
        below: whether to search subfolders too; links are not followed.
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
    """Return the problem and the fix for a file that cannot be read; an unreadable file is not called missing.

    Args:
        exc: the operating system's error.
        missing: problem to report if the file does not exist.
        fix: fix to suggest if the file does not exist.
    """
    if isinstance(exc, FileNotFoundError | NotADirectoryError):
        return missing, fix
    return (
        f"cannot be read ({exc.strerror or exc})",
        "check its permissions and its type; the file itself may be intact",
    )


def read_json(path: Path, error: type[FacetrmError], *, fix: str) -> Any:
    """Read a JSON file that facetrm wrote.

    Args:
        path: path of the file.
        error: error class to raise if the file is missing or not JSON.
        fix: fix to suggest in the error message.

    Returns:
        The parsed value.

    Raises:
        FacetrmError: An ``error`` that names the file and, for invalid JSON, the line and column.
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
        raise error(f"JSON that cannot be read ({reason})", place=path, fix=fix) from None


def read_regular(path: Path, *, limit: int) -> bytes:
    """Return the bytes of a regular file, without ever blocking on a device or a pipe.

    Args:
        path: path of the file; links are followed.
        limit: maximum size in bytes.

    Raises:
        OSError: The file cannot be opened; the error names it.
        ValueError: The path is not a regular file, or the file is larger than ``limit``.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    with open(descriptor, "rb") as handle:
        found = os.fstat(descriptor)
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("not a regular file")
        if found.st_size > limit:
            raise ValueError(f"{found.st_size:,} bytes, more than {limit:,}")
        return handle.read(limit)
