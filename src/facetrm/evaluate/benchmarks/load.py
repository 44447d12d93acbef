"""Find the benchmark that a file or folder holds, and read its questions.

    NAME             from the Hub, or a generator whose truth is known (desk, world)
    NAME=PATH        the rows of PATH, read as that benchmark or registered source
    PATH             a file or folder; the benchmark or source is recognised by the fields of the first row

A malformed row is an error that names the file, the row, the field and the fix. A row id that occurs twice in a subset
is refused, because score files could not be joined to it.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, final

from facetrm.core.errors import DataError, did_you_mean, short
from facetrm.core.progress import log
from facetrm.data.desk.desk import Desk
from facetrm.data.read.files import read_preference_file, read_rating_file
from facetrm.data.read.formats import record_kind
from facetrm.data.read.rows import READABLE, read_rows
from facetrm.data.records import Preference, Rating
from facetrm.data.sources.load import read_source
from facetrm.data.sources.registry import SOURCES, Source
from facetrm.data.world import World
from facetrm.evaluate.benchmarks.benchmark import BENCHMARKS, Benchmark, Origin
from facetrm.evaluate.benchmarks.item import Item
from facetrm.evaluate.benchmarks.judgebench import JUDGEBENCH
from facetrm.evaluate.benchmarks.llmbar import LLMBAR
from facetrm.evaluate.benchmarks.ppe import PPE
from facetrm.evaluate.benchmarks.preferences import OWN_PAIRS, pair_questions
from facetrm.evaluate.benchmarks.rewardbench import REWARDBENCH
from facetrm.evaluate.benchmarks.rewardbench2 import REWARDBENCH2
from facetrm.evaluate.benchmarks.rm_bench import RM_BENCH
from facetrm.evaluate.benchmarks.rmb import RMB

RECOGNISED: Final = (REWARDBENCH2, REWARDBENCH, RM_BENCH, JUDGEBENCH, LLMBAR, RMB, PPE)
"""The benchmarks with files of their own, the most particular fields first."""
GENERATED: Final = {"desk": Desk, "world": World}
PAIRS: Final = 600
"""Number of pairs of a generator."""
RATED: Final = "rated"


@final
@dataclass(frozen=True)
class SourceFile:
    """One file that was read: its path, its SHA-256 and its number of rows."""

    path: str
    sha256: str
    rows: int


@final
@dataclass(frozen=True)
class ItemSet:
    """The questions of one benchmark.

    Attributes:
        name: Name in tables and files.
        benchmark: The benchmark.
        questions: Its questions, in the order of the files.
        files: Files that were read.
        left_out: Number of rows that ask nothing, by reason.
    """

    name: str
    benchmark: Benchmark
    questions: tuple[Item, ...]
    files: tuple[SourceFile, ...] = ()
    left_out: dict[str, int] = field(default_factory=dict)


@final
@dataclass(frozen=True)
class RatedSet:
    """Conversations with absolute ratings.

    Attributes:
        name: Name in tables and files.
        ratings: The rated conversations.
        files: Files that were read.
    """

    name: str
    ratings: tuple[Rating, ...]
    files: tuple[SourceFile, ...] = ()


def read_benchmark(on: str, *, pairs: int = PAIRS, limit: int | None = None) -> ItemSet | RatedSet:
    """Return what is asked by ``NAME``, ``NAME=PATH`` or ``PATH``.

    Args:
        on: The name or the path.
        pairs: Number of pairs of a generator.
        limit: Largest number of questions, the first ones; None for all.

    Raises:
        DataError: The name is unknown, the Hub cannot be reached, a file is missing or a row is malformed.
    """
    found = _found(on, pairs)
    if limit is None:
        return found
    if isinstance(found, RatedSet):
        return RatedSet(found.name, found.ratings[:limit], found.files)
    return ItemSet(found.name, found.benchmark, found.questions[:limit], found.files, found.left_out)


def _found(on: str, pairs: int) -> ItemSet | RatedSet:
    name, equals, path = on.partition("=")
    if equals and not Path(on).exists():
        known = [*(n for n in BENCHMARKS if n != OWN_PAIRS.name), *SOURCES]
        if not path.strip():
            raise DataError(f"no path behind '{short(name)[1:-1]}='", place="--on", fix=f"write --on {name}=PATH")
        if name not in known:
            raise DataError(f"no benchmark '{short(name)[1:-1]}'", place="--on", fix=did_you_mean(name, known))
        if name in SOURCES:
            return _of_source(SOURCES[name], Path(path))
        return _read(Path(path), BENCHMARKS[name])
    if on in GENERATED:
        return _generated(on, pairs)
    if on in BENCHMARKS and on != OWN_PAIRS.name and not Path(on).exists():
        return _from_hub(BENCHMARKS[on])
    if on in SOURCES and not Path(on).exists():
        return _of_source(SOURCES[on], None)
    if not Path(on).exists():
        known = [*(n for n in BENCHMARKS if n != OWN_PAIRS.name), *GENERATED, *SOURCES]
        path_like = "/" in on or "." in on
        fix = "check the path" if path_like else did_you_mean(on, known)
        raise DataError(f"no benchmark, file or folder '{short(on)[1:-1]}'", place="--on", fix=fix)
    return _read(Path(on), None)


def _generated(name: str, pairs: int) -> ItemSet:
    """Return the test pairs of a generator in their true order."""
    listed = [
        pair if pair.meta["agrees"] else pair.model_copy(update={"responses": pair.responses[::-1]})
        for pair in GENERATED[name]().preferences(pairs, part="test")
    ]
    return ItemSet(name, OWN_PAIRS, tuple(pair_questions(listed, name=name)))


def _read(path: Path, wanted: Benchmark | None) -> ItemSet | RatedSet:
    if not path.exists():
        raise DataError("no such file or folder", place=path, fix="give the path of the benchmark's files")
    files = _files(path, wanted)
    benchmark = wanted or _recognised(files[0])
    if isinstance(benchmark, Source):
        return _of_source(benchmark, path)
    if wanted is None and benchmark is not OWN_PAIRS and path.is_dir():
        files = _files(path, benchmark)
    if benchmark is OWN_PAIRS:
        if len(files) > 1:
            raise DataError(f"{len(files)} files of no known benchmark", place=path, fix="give one file")
        return _own_file(files[0])
    log("benchmark", name=benchmark.name, files=len(files), recognised=wanted is None)
    questions: list[Item] = []
    left_out: Counter[str] = Counter()
    read = []
    for file in files:
        made = list(_questions(file, path, benchmark, left_out))
        questions += made
        read.append(_file(file, len(made)))
    return _checked(ItemSet(benchmark.name, benchmark, tuple(questions), tuple(read), dict(left_out)), path)


def _questions(file: Path, root: Path, benchmark: Benchmark, left_out: Counter[str]) -> Iterator[Item]:
    assert benchmark.read is not None
    folder = str(file.parent.relative_to(root)) if root.is_dir() else ""
    for raw in read_rows(file):
        origin = Origin(file, "" if folder == "." else folder, raw.number)
        if raw.error is not None or raw.value is None:
            error = raw.error or DataError("an empty row", fix="remove it")
            raise DataError(error.problem, place=origin.place, fix=error.fix)
        try:
            made = benchmark.read(raw.value, origin)
        except DataError as exc:
            raise DataError(exc.problem, place=origin.place, fix=exc.fix) from None
        if not made:
            left_out["a tie between the answers"] += 1
        yield from made


def _checked(found: ItemSet, place: object) -> ItemSet:
    """Refuse an empty benchmark and a row id that occurs twice in a subset."""
    if not found.questions:
        raise DataError(f"no question of {found.benchmark.title}", place=place, fix="give a file with rows")
    seen: dict[tuple[str, str], str] = {}
    for question in found.questions:
        key = (question.subset, question.id)
        if key in seen:
            raise DataError(
                f"id {short(question.id)} of subset {short(question.subset)} also stands at {seen[key]}",
                place=question.place,
                fix="remove the duplicate; score files are joined by subset and id",
            )
        seen[key] = question.place
    return found


def _files(path: Path, benchmark: Benchmark | None) -> list[Path]:
    """Return the files to read: the path itself, or those below it that a benchmark's patterns match."""
    if path.is_file():
        return [path]
    patterns = [p for b in RECOGNISED for p in b.files] if benchmark is None else benchmark.files
    for pattern in dict.fromkeys(patterns):
        found = [file for file in sorted(path.glob(pattern)) if file.is_file() and file.name.endswith(READABLE)]
        if found:
            return found
    raise DataError("no benchmark file", place=path, fix=f"it should hold {' or '.join(dict.fromkeys(patterns))}")


def _recognised(file: Path) -> Benchmark | Source:
    first, broken = None, None
    for raw in read_rows(file):
        if raw.value is not None:
            first = raw.value
            break
        if broken is None and raw.error is not None:
            broken = DataError(raw.error.problem, place=f"{file}:{raw.number}", fix=raw.error.fix)
    if first is None:
        raise broken or DataError("no row", place=file, fix="give a file with rows")
    for benchmark in RECOGNISED:
        if benchmark.fields <= first.keys() and benchmark.accepts(first):
            return benchmark
    sources = (SOURCES[name] for name in SOURCES)
    return next((one for one in sources if one.columns and one.columns <= first.keys()), OWN_PAIRS)


def _own_file(file: Path) -> ItemSet | RatedSet:
    """Return the pairs or the ratings of a file in any convention of :mod:`facetrm.data`."""
    rows = [raw.value for raw in read_rows(file) if raw.value is not None]
    if record_kind(rows) == "rating":
        rated = read_rating_file(file)
        log("benchmark", name=RATED, file=str(file), convention=rated.convention)
        return RatedSet(file.name, tuple(rated.records), (_file(file, rated.rows),))
    read = read_preference_file(file)
    return _of_records(file.name, read.records, (_file(file, read.rows),), left_out=dict(read.left_out))


def _of_source(source: Source, path: Path | None) -> ItemSet | RatedSet:
    """Return the test split of a registered source, from its files or from the Hub."""
    read = read_source(source.name, path=path, split="test")
    files = tuple(_file(file, rows) for file, rows in read.rows.items())
    found = _of_records(source.name, read.records, files, left_out=read.left_out)
    if isinstance(found, RatedSet):
        return found
    return replace(found, benchmark=replace(OWN_PAIRS, citation=source.citation))


def _of_records(
    name: str, records: Sequence[Rating] | Sequence[Preference], files: tuple[SourceFile, ...], **more: Any
) -> ItemSet | RatedSet:
    if records and isinstance(records[0], Rating):
        return RatedSet(name, tuple(record for record in records if isinstance(record, Rating)), files)
    pairs = [record for record in records if isinstance(record, Preference)]
    place = files[0].path if files else name
    found = ItemSet(name, OWN_PAIRS, tuple(pair_questions(pairs, name=place)), files, **more)
    return _checked(found, place)


def _from_hub(benchmark: Benchmark) -> ItemSet:
    fix = f"give its files: --on {benchmark.name}=PATH"
    if benchmark.hub is None or benchmark.read is None:
        raise DataError(f"{benchmark.title} is no single data set on the Hub", place=f"--on {benchmark.name}", fix=fix)
    from datasets import load_dataset  # slow to import, and needed only for the Hub

    name, splits = benchmark.hub
    questions: list[Item] = []
    left_out: Counter[str] = Counter()
    try:
        rows = [(split, dict(row)) for split in splits.split("+") for row in load_dataset(name, split=split)]
    except Exception as exc:  # the Hub's clients raise errors from many libraries
        reason = f"{type(exc).__name__}: {(str(exc).splitlines() or [''])[0][:200]}"
        raise DataError(f"'{name}' cannot be loaded ({reason})", place=f"--on {benchmark.name}", fix=fix) from None
    for number, (split, row) in enumerate(rows, start=1):
        origin = Origin(Path(f"{name}/{split}"), "", number)
        try:
            made = benchmark.read(row, origin)
        except DataError as exc:
            raise DataError(exc.problem, place=origin.place, fix=exc.fix) from None
        left_out.update(["a tie between the answers"] * (not made))
        questions += made
    return _checked(ItemSet(benchmark.name, benchmark, tuple(questions), (), dict(left_out)), name)


def _file(path: Path, rows: int = 0) -> SourceFile:
    digest = hashlib.sha256()
    if path.is_file():
        with open(path, "rb") as handle:
            while block := handle.read(1 << 20):
                digest.update(block)
    return SourceFile(str(path), digest.hexdigest(), rows)
