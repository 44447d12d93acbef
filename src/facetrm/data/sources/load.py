"""Loading a source by name, from the Hub or from local files with the same schema."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from facetrm.core.errors import DataError
from facetrm.core.progress import log
from facetrm.data.read.columns import Row
from facetrm.data.read.files import OnError, SkippedRows
from facetrm.data.read.rows import ROW_SUFFIXES, read_rows
from facetrm.data.records import Preference, Rating
from facetrm.data.sources.registry import SOURCES, Dropped, Source

_SPLIT_WORD = re.compile(r"(?:^|[^a-z])(train|test|validation|valid|val|dev|eval)(?:[^a-z]|$)")


@final
@dataclass(frozen=True)
class SourceRead:
    """The records of a source, and what became of its other rows.

    Attributes:
        records: The records.
        left_out: Number of rows, or pairs, that the source's rule leaves out, by reason.
        rows: Number of rows that were read, by file; empty for the Hub.
    """

    records: list[Rating] | list[Preference]
    left_out: dict[str, int]
    rows: dict[Path, int]


def load_source(
    name: str,
    *,
    path: Path | str | None = None,
    split: str = "train",
    limit: int | None = None,
    on_error: OnError = "raise",
    skipped_to: Path | str | None = None,
) -> list[Rating] | list[Preference]:
    """Load a registered source.

    Args:
        name: name of the source in ``SOURCES``.
        path: file or folder with rows in the data set's schema; None downloads the data set from the Hub.
        split: name of the split. In a folder, it selects the files whose path contains it, or all files if no path
            contains the name of a split.
        limit: maximum number of records; None for all.
        on_error: ``raise`` at the first malformed row, or ``skip`` such rows, write them to a side file and count them.
        skipped_to: folder for the side file; None for the folder of ``path``, or the working folder without a path.

    Returns:
        The records, with ``source`` and ``id`` filled in. Rows left out by the source's rule are counted and logged.

    Raises:
        ConfigError: The name is unknown.
        DataError: The files do not exist, the Hub is unreachable, or a row is malformed (the message gives its place,
            field, value and fix).
    """
    return read_source(name, path=path, split=split, limit=limit, on_error=on_error, skipped_to=skipped_to).records


def read_source(
    name: str,
    *,
    path: Path | str | None = None,
    split: str = "train",
    limit: int | None = None,
    on_error: OnError = "raise",
    skipped_to: Path | str | None = None,
) -> SourceRead:
    """Load a registered source as :func:`load_source` does, and tell what became of its rows.

    Args:
        name: name of the source in ``SOURCES``.
        path: file or folder with rows in the data set's schema; None downloads the data set from the Hub.
        split: name of the split.
        limit: maximum number of records; None for all.
        on_error: ``raise`` or ``skip``.
        skipped_to: folder for the side file of skipped rows; None for the folder of ``path``.

    Raises:
        ConfigError: The name is unknown.
        DataError: The files do not exist, the Hub is unreachable, or a row is malformed.
    """
    source = SOURCES[name]
    place = Path(source.hub) if path is None else Path(path)
    skipped = SkippedRows(place, on_error, Path() if path is None and skipped_to is None else skipped_to)
    counts: dict[Path, int] = {}
    rows = _hub_rows(source, split, limit) if path is None else _local_rows(source, place, split, skipped, counts)
    records: list[Any] = []
    dropped: Counter[str] = Counter()
    for number, unit in source.units(rows, skipped.add):
        if limit is not None and len(records) >= limit:
            break
        try:
            made = list(source.read(unit))
        except DataError as exc:
            skipped.add(exc, number, unit)
            continue
        for k, record in enumerate(made):
            if isinstance(record, Dropped):
                dropped[record.reason] += 1
            else:
                side = {"source": name, "id": f"{name}/{split}/{number}/{k}", "split": split}
                records.append(record.model_copy(update=side | ({"task": source.task} if source.task else {})))
    skipped.close(len(records))
    log("load source", source=name, split=split, records=len(records), dropped=dict(dropped), licence=source.licence)
    return SourceRead(records if limit is None else records[:limit], dict(dropped), counts)


def _hub_rows(source: Source, split: str, limit: int | None) -> Iterator[tuple[int, Row]]:
    """Yield the rows of a split from the Hub; they are streamed if ``limit`` is set."""
    from datasets import load_dataset  # slow to import, and needed only for the Hub

    settings: dict[str, Any] = {"split": source.splits.get(split, split)}
    if source.files:
        settings = {"data_files": {split: [name.format(split=split) for name in source.files]}, "split": split}
    try:
        rows = load_dataset(source.hub, **settings, streaming=limit is not None and source.group_by is None)
        yield from enumerate((dict(row) for row in rows), start=1)
    except DataError:
        raise
    except Exception as exc:  # the Hub's clients raise errors from many libraries
        raise DataError(
            f"'{source.hub}' (split '{split}') cannot be loaded: {type(exc).__name__}: {str(exc).splitlines()[:1]}",
            place=source.name,
            fix=f"check network, name and split, or give local files: path= in Python, --on {source.name}=PATH in eval",
        ) from exc


def _local_rows(
    source: Source, path: Path, split: str, skipped: SkippedRows, counts: dict[Path, int]
) -> Iterator[tuple[int, Row]]:
    """Yield the rows of local files, numbered consecutively across the files of a folder, and count those of each."""
    offset = 0
    for file in _local_files(source, path, split):
        number = 0
        for row in read_rows(file):
            number = row.number
            counts[file] = counts.get(file, 0) + 1
            if row.error is not None:
                skipped.add(row.error, offset + number, row.text)
            elif row.value is not None:
                yield offset + number, row.value
        offset += number


def _local_files(source: Source, path: Path, split: str) -> list[Path]:
    if not path.is_dir():
        return [path]
    named = [path / name.format(split=split) for name in source.files]
    found = [file for file in named if file.is_file()]
    if found:
        return found
    files = sorted(file for file in path.rglob("*") if file.is_file() and file.name.endswith(ROW_SUFFIXES))
    files = [file for file in files if not file.name.endswith(".skipped.jsonl")]
    words = {file: set(_SPLIT_WORD.findall(str(file.relative_to(path)).lower())) for file in files}
    chosen = [file for file in files if split in words[file]] if any(words.values()) else files
    if not chosen:
        names = ", ".join(str(file.relative_to(path)) for file in files) or "no data file"
        raise DataError(f"no file of split '{split}' ({names})", place=path, fix="name the split, or give one file")
    return chosen
