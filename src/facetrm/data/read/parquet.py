"""Rows of a Parquet file as plain Python values: JSON types are parsed, and unreadable cells are marked."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, final

import pyarrow as pa
import pyarrow.parquet as pq

from facetrm.core.errors import DataError

_Plain: TypeAlias = Callable[[Any], Any]


@final
@dataclass(frozen=True)
class Unreadable:
    """A cell that Python cannot represent (invalid UTF-8, a date out of range). It is an error only if it is used.

    Attributes:
        reason: Why the cell cannot be read.
    """

    reason: str


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
