"""Read ``results.json`` of ``facetrm eval`` again. The first key that is missing or has another form is named."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from facetrm.core.errors import DataError, short
from facetrm.core.files import read_json
from facetrm.report.evaluated.measured import MeasuredFigure

RESULTS: Final = "results.json"
ROWS: Final = "rows.jsonl"
FIX: Final = "evaluate again with 'facetrm eval'"
MADE: Final = ("command", "date", "seed", "samples", "level", "facetrm")
"""Keys of a result that tell how it was made."""
ABOUT: Final = (
    "rows",
    "prompts",
    "files",
    "counts",
    "published_counts",
    "left_out",
    "tie_rule",
    "citation",
    "systems",
    "levels",
)
"""Keys of a benchmark that tell how it was measured."""
_COUNTED: Final = ("failed", "truncated", "ties", "comparisons")


def read_results(path: Path) -> dict[str, Any]:
    """Return the content of a ``results.json``.

    Args:
        path: The file.

    Raises:
        DataError: A key is missing or has another form.
    """
    found = mapping(read_json(path, DataError, fix=FIX), path, "")
    for key in ("models", "benchmarks"):
        mapping(required_key(found, key, path, ""), path, key)
    if not found["models"]:
        raise DataError("key 'models' is empty", place=path, fix=FIX)
    for key in MADE:
        required_key(found, key, path, "")
    for name, one in found["models"].items():
        mapping(one, path, f"models.{name}")
    for name, one in found["benchmarks"].items():
        _check_benchmark(one, found["models"], path, f"benchmarks.{name}")
    for name, one in mapping(found.get("ratings") or {}, path, "ratings").items():
        _check_measured(one, ("figures",), path, f"ratings.{name}")
    return found


def _check_benchmark(one: Any, models: Mapping[str, Any], path: Path, where: str) -> None:
    for key in (*ABOUT, "title", "differences"):
        required_key(mapping(one, path, where), key, path, where)
    _check_measured(one, ("figures", "slices"), path, where)
    mapping(one["levels"], path, f"{where}.levels")
    for key in ("rows", "prompts"):
        _whole(one[key], path, f"{where}.{key}")
    for key in ("counts", "published_counts", "left_out"):
        for name, count in mapping(one[key], path, f"{where}.{key}").items():
            _whole(count, path, f"{where}.{key}.{name}")
    missing = one.get("missing", [])
    if not isinstance(missing, list) or not all(isinstance(name, str) for name in missing):
        raise DataError(f"key '{where}.missing' is no list of names", place=path, fix=FIX)
    for system, counts in mapping(one["systems"], path, f"{where}.systems").items():
        if system not in models:
            raise DataError(f"key '{where}.systems.{system}' names no model", place=path, fix=FIX)
        at = f"{where}.systems.{system}"
        for key in _COUNTED:
            _whole(required_key(mapping(counts, path, at), key, path, at), path, f"{at}.{key}")


def _check_measured(one: Any, tables: tuple[str, ...], path: Path, where: str) -> None:
    """Refuse a benchmark or a file of ratings without its files, or with figures of another form."""
    for part in tables:
        for figure, row in mapping(
            required_key(mapping(one, path, where), part, path, where), path, f"{where}.{part}"
        ).items():
            for system, value in mapping(row, path, f"{where}.{part}.{figure}").items():
                measured_figure(value, path, f"{where}.{part}.{figure}.{system}")
    files = required_key(one, "files", path, where)
    if not isinstance(files, list) or not all(isinstance(x, dict) and {"path", "sha256"} <= x.keys() for x in files):
        raise DataError(f"key '{where}.files' is no list of files", place=path, fix=FIX)
    for n, file in enumerate(files):
        if "rows" in file:
            _whole(file["rows"], path, f"{where}.files.{n}.rows")


def required_key(held: Mapping[str, Any], key: str, path: Path, where: str) -> Any:
    """Return the value of a key.

    Args:
        held: An object of the file.
        key: The key.
        path: The file.
        where: Place of the object in the file.

    Raises:
        DataError: There is no such key.
    """
    if key not in held:
        raise DataError(f"no key '{where + '.' if where else ''}{key}'", place=path, fix=FIX)
    return held[key]


def mapping(value: Any, path: Path, where: str) -> dict[str, Any]:
    """Return a value that must be an object.

    Args:
        value: The value.
        path: The file.
        where: Place of the value in the file.

    Raises:
        DataError: It is none.
    """
    if not isinstance(value, dict):
        raise DataError(f"key '{where}' is no object" if where else "not a JSON object", place=path, fix=FIX)
    return value


def measured_figure(held: Any, path: Path, where: str) -> MeasuredFigure | None:
    """Return a figure with its interval; None if it was not measured.

    Args:
        held: Object of the file with ``value``, ``low`` and ``high``.
        path: The file.
        where: Place of the object in the file.

    Raises:
        DataError: One of the three is missing or no number.
    """
    ends = []
    for key in ("value", "low", "high"):
        value = required_key(mapping(held, path, where), key, path, where)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise DataError(f"key '{where}.{key}' is {value!r}, no number", place=path, fix=FIX)
        ends.append(float(value))
    return MeasuredFigure(*ends)


def _whole(value: Any, path: Path, where: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise DataError(f"key '{where}' is {short(value)}, no whole number", place=path, fix=FIX)
