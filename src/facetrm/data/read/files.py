"""Records in and out of JSONL, JSONL.gz and Parquet files, validated at the border, nothing dropped silently."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

from facetrm.core.errors import DataError
from facetrm.core.files import write_bytes
from facetrm.core.lazy import load_name
from facetrm.core.progress import log
from facetrm.data.objectives import Objective
from facetrm.data.read.columns import short
from facetrm.data.read.formats import FileLayout, RecordKind, detect, record_kind, to_record
from facetrm.data.read.rows import ROW_SUFFIXES, RawRow, read_rows
from facetrm.data.records import Preference, Rating

OnError: TypeAlias = Literal["raise", "skip"]


def read_ratings(
    path: Path | str,
    *,
    objectives: Sequence[Objective] | None = None,
    on_error: OnError = "raise",
    skipped_to: Path | str | None = None,
) -> list[Rating]:
    """Read rated conversations in any convention of :mod:`facetrm.data.read.formats`.

    Args:
        path: a ``.jsonl``, ``.jsonl.gz`` or ``.parquet`` file.
        objectives: the declared objectives; given, every rating must be declared and within its range.
        on_error: ``raise`` at the first bad row, or ``skip`` bad rows into ``<name>.skipped.jsonl`` and count them.
        skipped_to: the folder of that side file; None is the folder of ``path``.

    Returns:
        The records, in the order of the file.

    Raises:
        DataError: names the file, the line (or Parquet row), the field, the value and the fix.

    Example:
        >>> from tempfile import mkdtemp
        >>> from facetrm import World, read_ratings, write_records
        >>> path, world = mkdtemp() + "/rated.jsonl", World()
        >>> _ = write_records(path, world.ratings(3))
        >>> len(read_ratings(path, objectives=world.objectives))
        3
    """
    return cast("list[Rating]", _read(Path(path), "rating", objectives, on_error, skipped_to))


def read_preferences(
    path: Path | str, *, on_error: OnError = "raise", skipped_to: Path | str | None = None
) -> list[Preference]:
    """Read preferences in any convention of :mod:`facetrm.data.read.formats`.

    Args:
        path: as in :func:`read_ratings`.
        on_error: as in :func:`read_ratings`.
        skipped_to: as in :func:`read_ratings`.

    Returns:
        The records, in the order of the file.

    Raises:
        DataError: names the file, the line (or Parquet row), the field, the value and the fix.

    Example:
        >>> from tempfile import mkdtemp
        >>> from facetrm import World, read_preferences, write_records
        >>> path = mkdtemp() + "/pairs.jsonl"
        >>> _ = write_records(path, World().preferences(3))
        >>> len(read_preferences(path))
        3
    """
    return cast("list[Preference]", _read(Path(path), "preference", None, on_error, skipped_to))


def read_records(path: Path | str) -> list[Rating] | list[Preference]:
    """Read preferences where the columns compare answers, else ratings, in any convention.

    Args:
        path: as in :func:`read_ratings`.

    Returns:
        The records, in the order of the file.

    Raises:
        DataError: names the file, the line (or Parquet row), the field, the value and the fix.
    """
    return cast("list[Rating] | list[Preference]", _read(Path(path), None, None, "raise", None))


def write_records(path: Path | str, records: Iterable[Rating | Preference]) -> None:
    """Write records of one kind in our own convention, atomically; reading them back gives equal records.

    Args:
        path: a ``.jsonl``, ``.jsonl.gz`` or ``.parquet`` file (Parquet keeps ``meta`` as JSON text).
        records: all ratings, or all preferences.

    Raises:
        DataError: both kinds at once, a value that JSON cannot hold, or another file type.

    Example:
        >>> from tempfile import mkdtemp
        >>> from pathlib import Path
        >>> from facetrm import World, write_records
        >>> path = Path(mkdtemp()) / "pairs.jsonl"
        >>> _ = write_records(path, World().preferences(3))
        >>> len(path.read_text().splitlines())
        3
    """
    path, kept = Path(path), list(records)
    if not path.name.endswith(ROW_SUFFIXES):
        raise DataError(f"a '{path.suffix}' file, not one of {', '.join(ROW_SUFFIXES)}", place=path, fix="rename it")
    kinds = sorted({type(record).__name__ for record in kept})
    if len(kinds) > 1:
        raise DataError(f"records of {' and '.join(kinds)}", place=path, fix="write one file for each")
    rows = [_dump(record, f"{path}: record {n}") for n, record in enumerate(kept, start=1)]
    if path.suffix == ".parquet":
        write_bytes(path, load_name("facetrm.data.read.parquet", "parquet_bytes")(rows))
        return
    data = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows).encode("utf-8")
    write_bytes(path, gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)


def side_file(path: Path, folder: Path | str | None = None) -> Path:
    """Return where the skipped rows of ``path`` go: beside it, or into ``folder``."""
    stem = path.name
    for suffix in sorted(ROW_SUFFIXES, key=len, reverse=True):
        stem = stem.removesuffix(suffix)
    return (path.parent if folder is None else Path(folder)) / f"{stem}.skipped.jsonl"


class SkippedRows:
    """Bad rows of one input: raised at once, or kept for a side file.

    Args:
        path: the input; the side file is named after it.
        on_error: ``raise`` or ``skip``.
        folder: where the side file goes; None is beside ``path``.
    """

    def __init__(self, path: Path, on_error: OnError, folder: Path | str | None = None) -> None:
        if on_error not in ("raise", "skip"):
            raise DataError(f"on_error is {on_error!r}", place=path, fix="write 'raise' or 'skip'")
        self.path, self.on_error, self.side = path, on_error, side_file(path, folder)
        self.rows: list[dict[str, Any]] = []

    def __len__(self) -> int:
        return len(self.rows)

    def add(self, error: DataError, number: int, row: object) -> None:
        """Raise ``error`` with its place, line ``number``, or note it with the ``row``."""
        if self.on_error == "raise":
            raise DataError(error.problem, place=f"{self.path}:{number}", fix=error.fix) from None
        self.rows.append({"line": number, "reason": str(error), "row": row})

    def close(self, kept: int) -> None:
        """Write the side file and announce the count.

        Raises:
            DataError: no row was good, or the side file cannot be written.
        """
        if not self.rows:
            return
        if not kept:
            first = self.rows[0]
            raise DataError(
                f"all {len(self.rows)} rows are bad; the first: {first['reason']}",
                place=f"{self.path}:{first['line']}",
                fix="check the columns",
            )
        text = "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in self.rows)
        try:
            write_bytes(self.side, text.encode("utf-8", errors="backslashreplace"))
        except OSError as exc:
            raise DataError(
                f"the side file of {len(self.rows)} skipped rows cannot be written ({exc.strerror})",
                place=self.side,
                fix="give a folder with skipped_to (in a recipe, data.skipped_to)",
            ) from None
        log("skipped rows", path=str(self.path), skipped=len(self.rows), kept=kept, written_to=str(self.side))


def _read(
    path: Path,
    kind: RecordKind | None,
    objectives: Sequence[Objective] | None,
    on_error: OnError,
    skipped_to: Path | str | None,
) -> list[Rating | Preference]:
    skipped = SkippedRows(path, on_error, skipped_to)
    rows: list[RawRow] = []
    for row in read_rows(path):
        if row.error is None:
            rows.append(row)
        else:
            skipped.add(row.error, row.number, row.text)
    if not rows:
        skipped.close(0)
        log("read", path=str(path), kind=kind, rows=0)
        return []
    try:
        values = [row.value for row in rows if row.value is not None]
        layout = detect(values, kind or record_kind(values), objectives)
    except DataError as exc:
        raise DataError(exc.problem, place=path, fix=exc.fix) from None
    _announce(path, layout, len(rows))
    records = []
    for row in rows:
        try:
            if row.value is not None:
                records.append(to_record(row.value, layout))
        except DataError as exc:
            skipped.add(exc, row.number, row.value)
    skipped.close(len(records))
    return records


def _announce(path: Path, layout: FileLayout, rows: int) -> None:
    facts: dict[str, Any] = {"path": str(path), "kind": layout.convention.kind, "convention": layout.convention.name}
    if layout.convention.kind == "preference":
        facts["style"] = layout.style
    if layout.facts.attributes:
        facts["attributes"] = sorted(layout.facts.attributes)
    if layout.facts.margin_scale:
        facts["margin_scale"] = layout.facts.margin_scale
    if layout.extra and not layout.convention.strict:
        facts["kept_in_meta"] = list(layout.extra)
    log("read", **facts, rows=rows)


def _dump(record: Rating | Preference, place: str) -> dict[str, Any]:
    try:
        row = {key: value for key, value in record.model_dump().items() if value is not None}
        json.dumps(row, allow_nan=False)
    except (ValueError, TypeError, RecursionError) as exc:
        raise DataError(
            f"'meta' is {short(record.meta)} ({exc})", place=place, fix="keep strings, numbers, lists and objects in it"
        ) from None
    return row
