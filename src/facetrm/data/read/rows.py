"""Rows of a file: JSONL, JSONL.gz or Parquet in, each row with its place, bad lines with their error."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast, final

import pyarrow as pa
import pyarrow.parquet as pq

from facetrm.core.errors import DataError
from facetrm.data.read.columns import Row, short
from facetrm.data.records import Message

_SURROGATE = re.compile("[\ud800-\udfff]")
ROW_SUFFIXES = (".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz", ".parquet")


@final
@dataclass(frozen=True)
class RawRow:
    """One row as it stands in a file.

    Attributes:
        number: the line of a JSONL file, or the row of a Parquet file, from 1.
        value: the object; None when the line holds none.
        text: the line, where it could not be parsed.
        error: what is wrong with the line, or None.
    """

    number: int
    value: Row | None
    text: str = ""
    error: DataError | None = None


def read_rows(path: Path) -> Iterator[RawRow]:
    """Yield the rows of a file in order; blank lines are no rows, and a byte order mark is skipped.

    Raises:
        DataError: the file is missing, of another type, cut off, or not what its name says. A bad line is yielded with
            its error, not raised.
    """
    if not path.exists():
        raise DataError("no such file", place=path, fix="give the path of a .jsonl, .jsonl.gz or .parquet file")
    if path.is_dir() or not path.name.endswith(ROW_SUFFIXES):
        what = "a folder" if path.is_dir() else f"a '{path.suffix}' file"
        raise DataError(f"{what}, not one of {', '.join(ROW_SUFFIXES)}", place=path, fix="give one such file")
    yield from _parquet(path) if path.suffix == ".parquet" else _jsonl(path)


def rows_in_memory(rows: Iterable[object]) -> Iterator[RawRow]:
    """Yield rows of a list: dicts of columns, ``(prompt, answer)`` tuples, or message lists; numbers count from 1.

    Args:
        rows: the list, any other iterable, or a single dict or conversation.
    """
    listed: list[object] = [rows] if isinstance(rows, Mapping) else list(rows)
    if listed and all(_is_message(one) for one in listed):
        listed = [listed]
    for number, row in enumerate(listed, start=1):
        value = _columns(row)
        if value is None:
            yield RawRow(number, None, error=_no_object(row))
        else:
            yield RawRow(number, value)


def _is_message(value: object) -> bool:
    return isinstance(value, Message) or (isinstance(value, Mapping) and "role" in value and "content" in value)


def _columns(row: object) -> Row | None:
    """Return a row as a dict of columns: itself, a message list, or a prompt with its answer; else None."""
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


def _no_object(value: object) -> DataError:
    return DataError(
        f"{short(value)} is a {type(value).__name__}, not an object",
        fix="write one JSON object a line, a list of messages, or [prompt, answer]",
    )


def _parquet(path: Path) -> Iterator[RawRow]:
    try:
        with closing(pq.ParquetFile(path)) as file:
            number = 0
            for batch in file.iter_batches(batch_size=1024):
                for value in batch.to_pylist():
                    number += 1
                    yield RawRow(number, value)
    except (pa.ArrowInvalid, OSError) as exc:
        raise DataError(f"not a Parquet file ({str(exc).splitlines()[0]})", place=path, fix="write it again") from None


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
        raise DataError(f"cannot be read ({exc.strerror})", place=path, fix="check its rights") from None


def _open(path: Path) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(path, "rb")) if path.suffix == ".gz" else open(path, "rb")


def _parse(number: int, data: bytes) -> RawRow:
    shown = data.decode("utf-8", errors="replace").strip()
    try:
        value = json.loads(data.decode("utf-8").rstrip(), object_pairs_hook=_object)
    except UnicodeDecodeError as exc:
        problem, fix = f"not UTF-8: byte {data[exc.start]:#04x} at position {exc.start}", "save the file as UTF-8"
    except json.JSONDecodeError as exc:
        problem, fix = f"not JSON ({exc.msg} at column {exc.colno}): {short(shown)}", "write one JSON object a line"
    except RecursionError:
        problem, fix = f"nested too deeply: {short(shown)}", "write a flat object"
    except ValueError as exc:
        problem, fix = f"not a readable object ({exc}): {short(shown)}", "mend the line"
    else:
        halves = _SURROGATE.search(json.dumps(value, ensure_ascii=False)) if b"\\ud" in data.lower() else None
        row = _columns(value)
        if row is not None and halves is None:
            return RawRow(number, row)
        if halves is not None:
            text = f"half a character ({halves.group()!r}) in {short(shown)}"
            return RawRow(number, None, shown, DataError(text, fix="write both halves of the surrogate pair"))
        return RawRow(number, None, shown, _no_object(value))
    return RawRow(number, None, shown, DataError(problem, fix=fix))


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key '{next(k for k in keys if keys.count(k) > 1)}' stands twice")
    return value
