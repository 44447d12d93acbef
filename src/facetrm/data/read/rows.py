"""Rows of a file, of standard input or of a list, each with its number; bad lines carry their error."""

from __future__ import annotations

import gzip
import json
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast, final

from facetrm.core.errors import DataError, short
from facetrm.core.files import why_unread
from facetrm.core.lazy import load_name
from facetrm.data.read.columns import Row
from facetrm.data.read.delimited import delimited_rows
from facetrm.data.read.extras import DEEPEST, too_deep
from facetrm.data.records import Message

ROW_SUFFIXES = (".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz", ".parquet")
"""File types that records are written to, and that are searched for in a data set's folder."""
READABLE = (*ROW_SUFFIXES, ".json", ".csv", ".tsv")


@final
@dataclass(frozen=True)
class RawRow:
    """One row as read from a file.

    Attributes:
        number: Line number in a JSONL file, or row number in a Parquet file, from 1.
        value: Parsed object, or None if the line has none.
        text: Text of the line, if it could not be parsed.
        error: Error in the line, or None.
    """

    number: int
    value: Row | None
    text: str = ""
    error: DataError | None = None


def read_rows(path: Path) -> Iterator[RawRow]:
    """Yield the rows of a file in order. Blank lines and a byte order mark are skipped.

    Args:
        path: file with one of the suffixes in :data:`READABLE`, or ``-`` for JSONL from standard input.

    Raises:
        DataError: The file is missing, of an unknown type, truncated, or not of the type that its name says. A bad line
            is yielded with its error, not raised.
    """
    if str(path) == "-":
        yield from _jsonl(path)
        return
    if not path.exists():
        raise DataError("no such file", place=path, fix="give the path of a .jsonl, .jsonl.gz or .parquet file")
    if path.is_dir() or not path.name.endswith(READABLE):
        what = "a folder" if path.is_dir() else f"a '{path.suffix}' file"
        raise DataError(f"{what}, not one of {', '.join(READABLE)}", place=path, fix="give one such file")
    if path.suffix == ".parquet":
        parquet_rows = load_name("facetrm.data.read.parquet", "parquet_rows")  # PyArrow, for these files alone
        yield from (RawRow(number, value) for number, value in enumerate(parquet_rows(path), start=1))
    elif path.suffix in (".csv", ".tsv"):
        for number, found in delimited_rows(path, "\t" if path.suffix == ".tsv" else ","):
            yield RawRow(number, None, error=found) if isinstance(found, DataError) else RawRow(number, found)
    else:
        yield from _json_file(path) if path.suffix == ".json" else _jsonl(path)


def _json_file(path: Path) -> Iterator[RawRow]:
    """Yield the rows of a JSON document (a list of rows, one row or one conversation), or of JSONL named ``.json``."""
    data = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    try:
        value = json.loads(data, object_pairs_hook=_object, parse_int=_whole)
    except (ValueError, RecursionError):
        yield from _jsonl(path)
        return
    yield from rows_in_memory(value if isinstance(value, (list, dict)) else [value])


def rows_in_memory(rows: Iterable[object]) -> Iterator[RawRow]:
    """Yield the rows of a list, numbered from 1: dicts of columns, ``(prompt, response)`` tuples, or message lists.

    Args:
        rows: list or other iterable of rows, or a single dict or conversation.
    """
    listed: list[object] = [rows] if isinstance(rows, Mapping) else list(rows)
    if listed and all(_is_message(one) for one in listed):
        listed = [listed]
    for number, row in enumerate(listed, start=1):
        value = _columns(row)
        if value is None or too_deep(value):
            yield RawRow(number, None, error=_no_object(row) if value is None else _nested(short(row)))
        else:
            yield RawRow(number, value)


def _is_message(value: object) -> bool:
    return isinstance(value, Message) or (isinstance(value, Mapping) and "role" in value and "content" in value)


def _columns(row: object) -> Row | None:
    """Return a row (dict, message list, or prompt and response) as a dict of columns; None for anything else."""
    if isinstance(row, Mapping):
        return dict(row)
    if not isinstance(row, (list, tuple)) or not row:
        return None
    if all(_is_message(one) for one in row):
        return {"messages": [{"role": m.role, "content": m.content} if isinstance(m, Message) else m for m in row]}
    if len(row) == 2 and isinstance(row[1], str) and (isinstance(row[0], str) or _columns(row[0]) is not None):
        prompt = row[0] if isinstance(row[0], str) else (_columns(row[0]) or {}).get("messages")
        return None if prompt is None else {"prompt": prompt, "response": row[1]}
    return None


def _nested(shown: str) -> DataError:
    return DataError(f"nested too deeply: {short(shown)}", fix="write a flat object")


def _no_object(value: object) -> DataError:
    return DataError(
        f"{short(value)} is a {type(value).__name__}, not an object",
        fix="write one JSON object per line, a list of messages, or [prompt, answer]",
    )


def _jsonl(path: Path) -> Iterator[RawRow]:
    number = 0
    try:
        with _open(path) as handle:
            for number, line in enumerate(handle, start=1):
                data = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
                if data.strip():
                    yield _parse(number, data)
    except EOFError:
        raise DataError("the gzip stream ends early", place=f"{path}:{number + 1}", fix="copy the file again") from None
    except (gzip.BadGzipFile, zlib.error) as exc:
        raise DataError(f"not gzip ({exc})", place=f"{path}:{number + 1}", fix="copy the file again") from None
    except OSError as exc:
        problem, fix = why_unread(exc, missing="no such file", fix="give the path of a file of rows")
        raise DataError(problem, place=path, fix=fix) from None


def _open(path: Path) -> AbstractContextManager[IO[bytes]]:
    if str(path) == "-":
        return nullcontext(cast("IO[bytes]", sys.stdin.buffer))
    return cast("IO[bytes]", gzip.open(path, "rb")) if path.suffix == ".gz" else open(path, "rb")


def _parse(number: int, data: bytes) -> RawRow:
    shown = data.decode("utf-8", errors="replace").strip()
    try:
        value = json.loads(data.decode("utf-8").rstrip(), object_pairs_hook=_object, parse_int=_whole)
    except UnicodeDecodeError as exc:
        problem, fix = f"not UTF-8: byte {data[exc.start]:#04x} at position {exc.start}", "save the file as UTF-8"
    except json.JSONDecodeError as exc:
        problem, fix = f"not JSON ({exc.msg} at column {exc.colno}): {short(shown)}", "write one JSON object per line"
    except RecursionError:
        return RawRow(number, None, shown, _nested(shown))
    except ValueError as exc:
        problem, fix = f"not a readable object ({exc}): {short(shown)}", "fix the line"
    else:
        if data.count(b"[") + data.count(b"{") > DEEPEST and too_deep(value):
            return RawRow(number, None, shown, _nested(shown))
        row = _columns(value)
        if row is not None:
            return RawRow(number, row)
        return RawRow(number, None, shown, _no_object(value))
    return RawRow(number, None, shown, DataError(problem, fix=fix))


def _whole(digits: str) -> float:
    """Return an integer, or infinity if it has more digits than Python parses."""
    return int(digits) if len(digits) <= 4000 else float(digits)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key '{next(k for k in keys if keys.count(k) > 1)}' appears twice")
    return value
