"""Rows of a Parquet file as plain Python values (JSON types parsed, unreadable cells marked), and records as a file."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from facetrm.core.errors import DataError
from facetrm.data.read.unreadable import Unreadable

_TURNS = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
_Plain: TypeAlias = Callable[[Any], Any]


def parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a Parquet file, a batch at a time.

    Args:
        path: path of the Parquet file.

    Raises:
        DataError: The file is not a Parquet file, or is damaged.
    """
    try:
        with closing(pq.ParquetFile(path)) as file:
            for batch in file.iter_batches(batch_size=256):
                columns = {name: _cells(batch.column(k)) for k, name in enumerate(batch.schema.names)}
                for n in range(batch.num_rows):
                    yield {name: cells[n] for name, cells in columns.items()}
    except (pa.ArrowException, OSError, UnicodeDecodeError) as exc:
        said = (str(exc).splitlines() or [type(exc).__name__])[0][:200]
        raise DataError(f"not a Parquet file ({said})", place=path, fix="write it again") from None


def parquet_bytes(rows: list[dict[str, Any]]) -> bytes:
    """Return a Parquet file: nested messages, one struct field per objective, ``meta`` as JSON text.

    Args:
        rows: the records as plain dicts.
    """
    names = sorted({name for row in rows for name in row.get("ratings", {})})
    kinds: dict[str, pa.DataType] = dict.fromkeys(("id", "source", "subset", "task", "split", "aspect"), pa.string())
    kinds |= dict.fromkeys(("messages", "prompt", "responses"), _TURNS) | {
        "strength": pa.float64(),
        "meta": pa.string(),
    }
    kinds["ratings"] = pa.struct([(name, pa.float64()) for name in names]) if names else pa.null()
    present = [key for key in kinds if any(key in row for row in rows)]
    flat = [
        {**row, "meta": json.dumps(row["meta"], ensure_ascii=False), "ratings": row.get("ratings") or None}
        for row in rows
    ]
    table = pa.Table.from_pylist(flat, schema=pa.schema([(key, kinds[key]) for key in present]))
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def _cells(column: pa.Array) -> list[Any]:
    plain = _plain(column.type)
    try:
        values = column.to_pylist()
        return values if plain is None else [plain(value) for value in values]
    except Exception:  # find the bad cell, and keep the others
        return [_cell(column, n, plain) for n in range(len(column))]


def _cell(column: pa.Array, n: int, plain: _Plain | None) -> Any:
    try:
        value = column[n].as_py()
        return value if plain is None else plain(value)
    except Exception as exc:  # each library for dates, time zones and text raises different errors
        return Unreadable(" ".join(f"{type(exc).__name__}: {exc}".split())[:120])


def _plain(kind: pa.DataType) -> _Plain | None:
    """Return the function that converts a value of this Arrow type to plain Python; None if it needs no conversion."""
    if isinstance(kind, pa.BaseExtensionType):
        if kind.extension_name == "arrow.json":
            return _parse
        return _plain(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    if pa.types.is_map(kind):
        return _of_map(_plain(kind.item_type))
    if pa.types.is_struct(kind):
        return _of_struct({kind.field(k).name: _plain(kind.field(k).type) for k in range(kind.num_fields)})
    if pa.types.is_nested(kind) and hasattr(kind, "value_type"):
        inner = _plain(kind.value_type)
        return None if inner is None else _of_list(inner)
    return None


def _parse(value: Any) -> Any:
    return json.loads(value) if isinstance(value, (str, bytes)) else value


def _of_map(inner: _Plain | None) -> _Plain:
    def plain(value: Any) -> Any:
        if value is None:
            return None
        found = {key: item if inner is None else inner(item) for key, item in value}
        if len(found) < len(value):
            raise ValueError("a key of the map appears twice")
        return found

    return plain


def _of_struct(inner: dict[str, _Plain | None]) -> _Plain | None:
    work = {name: plain for name, plain in inner.items() if plain is not None}
    if not work:
        return None

    def plain(value: Any) -> Any:
        return None if value is None else {k: work[k](v) if k in work else v for k, v in value.items()}

    return plain


def _of_list(inner: _Plain) -> _Plain:
    return lambda value: None if value is None else [inner(item) for item in value]
