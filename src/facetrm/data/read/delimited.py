"""Rows of CSV and TSV files: a header with column names, spreadsheet-style quoting, and parsed numbers."""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from facetrm.core.errors import DataError, short
from facetrm.data.read.columns import Row
from facetrm.data.read.foreign import ANSWERS, PROMPTS
from facetrm.data.read.winners import ANSWER_PAIRS

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|nan|NaN")
_BYTE = re.compile("[\udc80-\udcff]")
_TEXT: Final = frozenset(
    {"id", "source", "subset", "task", "category", "split", "aspect", "system"}
    | {"prompt", "chosen", "rejected", "response", "completion", "answer"}
    | {*PROMPTS, *ANSWERS, *(name for pair in ANSWER_PAIRS for name in pair)}
)


def delimited_rows(path: Path, delimiter: str) -> Iterator[tuple[int, Row | DataError]]:
    """Yield, for each record, the line on which it starts, and its columns or the error in it.

    Args:
        path: file whose first line names the columns.
        delimiter: comma or tab.

    Raises:
        DataError: The file has no header, or the header repeats a column.
    """
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as handle:
        reader = csv.reader(handle, delimiter=delimiter, strict=True)
        line, names = 1, None
        while True:
            try:
                cells = next(reader)
            except StopIteration:
                break
            except csv.Error as exc:
                yield line, DataError(f"not a row of the table ({exc})", fix="quote text that holds quotes or breaks")
                line = reader.line_num + 1
                continue
            start, line = line, reader.line_num + 1
            if not cells or cells == [""]:
                continue
            if names is None:
                names = _header(cells, path, start)
            else:
                yield start, _row(names, cells)


def _header(cells: list[str], path: Path, line: int) -> list[str]:
    twice = next((name for name in cells if cells.count(name) > 1), None)
    if twice is not None:
        raise DataError(
            f"column {short(twice)} appears twice", place=f"{path}:{line}", fix="give every column its own name"
        )
    return cells


def _row(names: list[str], cells: list[str]) -> Row | DataError:
    if len(cells) != len(names):
        return DataError(f"{len(cells)} cells for {len(names)} columns ({short(cells, 60)})", fix="quote the cells")
    for name, cell in zip(names, cells, strict=True):
        byte = _BYTE.search(cell)
        if byte is not None:
            return DataError(
                f"'{name}' is not UTF-8: byte {ord(byte.group()) - 0xDC00:#04x} in {short(cell, 40)}",
                fix="save the file as UTF-8",
            )
    return {name: _value(name, cell) for name, cell in zip(names, cells, strict=True)}


def _value(name: str, cell: str) -> Any:
    if not cell:
        return None
    if name not in _TEXT and len(cell) <= 40 and _NUMBER.fullmatch(cell):
        return float(cell)
    return cell
