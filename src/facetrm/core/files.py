"""Files that are whole or absent: write beside, flush to disk, rename."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

from facetrm.core.errors import FacetrmError


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` so that a reader, or a crash at any moment, sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "it is a folder, not a file", str(path))
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "wb") as handle:
        handle.write(data)
        handle.flush()
        os.fsync(handle.fileno())
    os.replace(temporary, path)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, atomically (see :func:`write_bytes`)."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON with sorted keys and no NaN, atomically."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


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
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise error(f"no file '{path.name}'", place=path.parent, fix=fix) from None
    except json.JSONDecodeError as exc:
        raise error(f"not JSON ({exc.msg})", place=f"{path}:{exc.lineno}:{exc.colno}", fix=fix) from None
    except UnicodeDecodeError as exc:
        raise error(f"not UTF-8 (byte {exc.start})", place=path, fix=fix) from None
