"""Reading and writing records in JSONL, JSONL.gz and Parquet files. Records are validated; none is dropped silently."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, TypeAlias, TypeVar, cast, final

from facetrm.core.errors import DataError
from facetrm.core.files import write_bytes
from facetrm.core.lazy import load_name
from facetrm.core.progress import log
from facetrm.data.objectives import Objective
from facetrm.data.read.columns import short
from facetrm.data.read.foreign import Foreign, LeftOut, find_foreign
from facetrm.data.read.formats import FileLayout, RecordKind, detect, record_kind, to_record
from facetrm.data.read.rows import ROW_SUFFIXES, RawRow, read_rows
from facetrm.data.records import Preference, Rating

OnError: TypeAlias = Literal["raise", "skip"]
R = TypeVar("R", Rating, Preference)


@final
@dataclass(frozen=True)
class FileRead(Generic[R]):
    """The records of one file, and what became of its other rows.

    Attributes:
        path: Path of the file.
        records: The records, in the order of the file.
        rows: Number of rows in the file.
        convention: Name of its column convention.
        attributes: Names of the columns that were read as ratings; empty if the rows name their objectives themselves.
        unread: Columns that are kept in ``meta`` only.
        left_out: Number of rows, or parts of rows, without a usable label, by reason.
        skipped: Number of bad rows that were skipped.
    """

    path: Path
    records: list[R]
    rows: int
    convention: str = ""
    attributes: frozenset[str] = frozenset()
    unread: tuple[str, ...] = ()
    left_out: Counter[str] = field(default_factory=Counter)
    skipped: int = 0


def read_ratings(
    path: Path | str,
    *,
    objectives: Sequence[Objective] | None = None,
    on_error: OnError = "raise",
    skipped_to: Path | str | None = None,
) -> list[Rating]:
    """Read rated conversations in any convention of :mod:`facetrm.data.read.formats`.

    Args:
        path: ``.jsonl``, ``.jsonl.gz`` or ``.parquet`` file.
        objectives: declared objectives, to check every rating's name and range against; None checks nothing.
        on_error: ``raise`` at the first bad row, or ``skip`` bad rows, write them to ``<name>.skipped.jsonl`` and count
            them.
        skipped_to: folder for that side file; None for the folder of ``path``.

    Returns:
        The records, in the order of the file.

    Raises:
        DataError: A row is bad. The message names the file, line (or Parquet row), field, value and fix.

    Example:
        >>> from tempfile import mkdtemp
        >>> from facetrm import World, read_ratings, write_records
        >>> path, world = mkdtemp() + "/rated.jsonl", World()
        >>> _ = write_records(path, world.ratings(3))
        >>> len(read_ratings(path, objectives=world.objectives))
        3
    """
    return read_rating_file(path, objectives=objectives, on_error=on_error, skipped_to=skipped_to).records


def read_rating_file(
    path: Path | str,
    *,
    objectives: Sequence[Objective] | None = None,
    on_error: OnError = "raise",
    skipped_to: Path | str | None = None,
) -> FileRead[Rating]:
    """Read rated conversations as :func:`read_ratings` does, and return what became of the other rows as well.

    Args:
        path: file of rated rows.
        objectives: declared objectives, or None to take every column of numbers.
        on_error: ``raise`` at the first bad row, or ``skip`` bad rows, write them to a side file and count them.
        skipped_to: folder for that side file; None for the folder of ``path``.

    Raises:
        DataError: A row is bad, or the columns follow no convention.
    """
    return cast("FileRead[Rating]", _read(Path(path), "rating", objectives, on_error, skipped_to))


def read_preferences(
    path: Path | str, *, on_error: OnError = "raise", skipped_to: Path | str | None = None
) -> list[Preference]:
    """Read preferences in any convention of :mod:`facetrm.data.read.formats`.

    Args:
        path: ``.jsonl``, ``.jsonl.gz`` or ``.parquet`` file.
        on_error: ``raise`` at the first bad row, or ``skip`` bad rows, write them to ``<name>.skipped.jsonl`` and count
            them.
        skipped_to: folder for that side file; None for the folder of ``path``.

    Returns:
        The records, in the order of the file.

    Raises:
        DataError: A row is bad. The message names the file, line (or Parquet row), field, value and fix.

    Example:
        >>> from tempfile import mkdtemp
        >>> from facetrm import World, read_preferences, write_records
        >>> path = mkdtemp() + "/pairs.jsonl"
        >>> _ = write_records(path, World().preferences(3))
        >>> len(read_preferences(path))
        3
    """
    return read_preference_file(path, on_error=on_error, skipped_to=skipped_to).records


def read_preference_file(
    path: Path | str, *, on_error: OnError = "raise", skipped_to: Path | str | None = None
) -> FileRead[Preference]:
    """Read preferences as :func:`read_preferences` does, and return what became of the other rows as well.

    Args:
        path: file of preferences.
        on_error: ``raise`` at the first bad row, or ``skip`` bad rows, write them to a side file and count them.
        skipped_to: folder for that side file; None for the folder of ``path``.

    Raises:
        DataError: A row is bad, or the columns follow no convention.
    """
    return cast("FileRead[Preference]", _read(Path(path), "preference", None, on_error, skipped_to))


def read_records(path: Path | str) -> list[Rating] | list[Preference]:
    """Read preferences if the columns compare responses, else ratings, in any convention.

    Args:
        path: ``.jsonl``, ``.jsonl.gz`` or ``.parquet`` file.

    Returns:
        The records, in the order of the file.

    Raises:
        DataError: A row is bad. The message names the file, line (or Parquet row), field, value and fix.
    """
    return cast("list[Rating] | list[Preference]", _read(Path(path), None, None, "raise", None).records)


def write_records(path: Path | str, records: Iterable[Rating | Preference]) -> None:
    """Write records of one kind atomically, in facetrm's own convention; reading them back gives equal records.

    Args:
        path: ``.jsonl``, ``.jsonl.gz`` or ``.parquet`` file (Parquet stores ``meta`` as JSON text).
        records: only ratings, or only preferences.

    Raises:
        DataError: The records are of both kinds, a value is not a JSON value, or the file type is unknown.

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
    """Return the path of the side file for skipped rows of ``path``: in ``folder``, or next to ``path``."""
    stem = path.name
    for suffix in sorted(ROW_SUFFIXES, key=len, reverse=True):
        stem = stem.removesuffix(suffix)
    return (path.parent if folder is None else Path(folder)) / f"{stem}.skipped.jsonl"


class SkippedRows:
    """Bad rows of one input: raised immediately, or collected for a side file.

    Args:
        path: input file, which gives the side file its name.
        on_error: ``raise`` or ``skip``.
        folder: folder for the side file; None for the folder of ``path``.
    """

    def __init__(self, path: Path, on_error: OnError, folder: Path | str | None = None) -> None:
        if on_error not in ("raise", "skip"):
            raise DataError(f"on_error is {on_error!r}", place=path, fix="write 'raise' or 'skip'")
        self.path, self.on_error, self.side = path, on_error, side_file(path, folder)
        self.rows: list[dict[str, Any]] = []

    def __len__(self) -> int:
        return len(self.rows)

    def add(self, error: DataError, number: int, row: object) -> None:
        """Raise an error with its place, or record it for the side file.

        Args:
            error: what is wrong with the row.
            number: line or row number, from 1.
            row: content of the row.
        """
        if self.on_error == "raise":
            raise DataError(error.problem, place=f"{self.path}:{number}", fix=error.fix) from None
        self.rows.append({"line": number, "reason": str(error), "row": row})

    def close(self, kept: int) -> None:
        """Write the side file and log the number of skipped rows.

        Args:
            kept: number of good rows.

        Raises:
            DataError: All rows are bad, or the side file cannot be written.
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
) -> FileRead[Any]:
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
        return FileRead(path, [], 0, skipped=len(skipped))
    left_out: Counter[str] = Counter()
    try:
        values = [row.value for row in rows if row.value is not None]
        kind = kind or record_kind(values)
        foreign = find_foreign(values, kind)
        ours = rows if foreign is None else _rewritten(rows, foreign, skipped=skipped, left_out=left_out)
        if not ours:
            raise DataError(f"no {kind} is left: {_counted(left_out)}", fix="give rows with a label")
        layout = detect([row.value for row in ours if row.value is not None], kind, objectives)
    except DataError as exc:
        raise DataError(exc.problem, place=exc.place or path, fix=exc.fix) from None
    _announce(path, layout, len(rows), foreign=foreign, left_out=left_out)
    records = []
    for row in ours:
        try:
            if row.value is not None:
                records.append(to_record(row.value, layout))
        except DataError as exc:
            skipped.add(exc, row.number, row.value)
    skipped.close(len(records))
    name = layout.convention.name if foreign is None else foreign.name
    used = {"margin"} if layout.facts.margin_scale else set()
    unread = () if layout.convention.strict else tuple(key for key in layout.extra if key not in used)
    return FileRead(path, records, len(rows), name, layout.facts.attributes, unread, left_out, len(skipped))


def _rewritten(
    rows: Sequence[RawRow], foreign: Foreign, *, skipped: SkippedRows, left_out: Counter[str]
) -> list[RawRow]:
    """Return the rows of a convention of ours that ``rows`` stand for; bad rows and those left out are counted."""
    found = []
    for row in rows:
        try:
            parts = list(foreign.rewrite(row.value or {}))
        except DataError as exc:
            skipped.add(exc, row.number, row.value)
            continue
        left_out.update(part.reason for part in parts if isinstance(part, LeftOut))
        found += [RawRow(row.number, part) for part in parts if not isinstance(part, LeftOut)]
    return found


def _counted(left_out: Counter[str]) -> str:
    return ", ".join(f"{reason} ({count})" for reason, count in left_out.items()) or "every row is bad"


def _announce(path: Path, layout: FileLayout, rows: int, *, foreign: Foreign | None, left_out: Counter[str]) -> None:
    name = layout.convention.name if foreign is None else foreign.name
    facts: dict[str, Any] = {"path": str(path), "kind": layout.convention.kind, "convention": name}
    if layout.convention.kind == "preference":
        facts["style"] = layout.style
    if layout.facts.attributes:
        facts["attributes"] = sorted(layout.facts.attributes)
    if layout.facts.margin_scale:
        facts["margin_scale"] = layout.facts.margin_scale
    if layout.extra and not layout.convention.strict:
        facts["kept_in_meta"] = list(layout.extra)
    if left_out:
        facts["left_out"] = dict(left_out)
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
