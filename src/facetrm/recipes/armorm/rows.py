"""The ``data`` section of a recipe, and its rows, split into disjoint parts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, Protocol, TypedDict, TypeVar

from pydantic import Field, model_validator

from facetrm.core.errors import ConfigError, DataError, did_you_mean
from facetrm.core.fingerprint import fingerprint, fingerprint_of_all
from facetrm.core.progress import log
from facetrm.data.desk import Desk, DeskConfig
from facetrm.data.objectives import Objective, check_unique
from facetrm.data.pack import read_objectives, read_pack
from facetrm.data.read.files import FileRead, OnError, read_preference_file, read_rating_file, side_file
from facetrm.data.read.formats import RecordKind
from facetrm.data.records import Preference, Rating
from facetrm.data.sources import SOURCES, load_source
from facetrm.data.synthetic.known import KnownTruth
from facetrm.data.views import as_pairs, part_of, set_aside, split_as_given, split_by_prompt
from facetrm.data.world import World, WorldConfig
from facetrm.recipes.cleaned import CleanedRows, RowCleaner
from facetrm.recipes.generated import Generated
from facetrm.recipes.reading import Reading

R = TypeVar("R", Rating, Preference)
LOST: Final = "left_out_"
"""Start of the names under which rows without a usable label are counted."""


class GeneratedData(Generated):
    """Rows of a generator.

    Attributes:
        ratings: Number of rated rows for the heads.
        preferences: Number of pairs for the gate.
        test: Number of held-out rated rows, and of test pairs.
        every_rater: Whether every source rates every answer, instead of one source per prompt. Reading an answer costs
            the same, and it then has a label for nearly every objective.
    """

    ratings: int = Field(default=6000, ge=10)
    preferences: int = Field(default=6000, ge=10)
    test: int = Field(default=2000, ge=10)
    every_rater: bool = False


class WorldData(GeneratedData):
    """Rows of the embedded world.

    Attributes:
        world: Settings of the world.
    """

    source: ClassVar[type[KnownTruth[Any]]] = World
    kind: Literal["world"] = "world"
    world: WorldConfig = WorldConfig()


class DeskData(GeneratedData):
    """Rows of the embedded desk: plain English whose truth is known.

    Attributes:
        desk: Settings of the desk.
    """

    source: ClassVar[type[KnownTruth[Any]]] = Desk
    kind: Literal["desk"] = "desk"
    desk: DeskConfig = DeskConfig()


class SkippingRows(CleanedRows):
    """How to treat malformed rows, duplicates and benchmark prompts.

    Attributes:
        deduplicate: Whether to remove rows with the same conversation and labels as an earlier row.
        decontaminate: Files of benchmarks whose prompts are removed from the training rows.
        on_error: ``raise`` stops at a malformed row; ``skip`` writes malformed rows to side files and counts them.
        skipped_to: Folder of the side files; None for the folder of the rows, or the working folder for rows from
            the Hub.
    """

    on_error: OnError = "raise"
    skipped_to: str | None = None

    def check_side_files(self, files: Sequence[str]) -> None:
        """Raise ValueError if the skipped rows of two ``files`` would go to the same side file."""
        sides = [side_file(Path(file), self.skipped_to) for file in files]
        twice = next((side for side in sides if sides.count(side) > 1), None)
        if self.on_error == "skip" and twice is not None:
            raise ValueError(f"the skipped rows of two files would both go to '{twice}': rename one of them")

    @property
    def skipping(self) -> _Skipping:
        """Keyword arguments of the readers for ``on_error`` and ``skipped_to``."""
        return {"on_error": self.on_error, "skipped_to": self.skipped_to}


class _Skipping(TypedDict):
    on_error: OnError
    skipped_to: str | None


class PackData(SkippingRows):
    """A folder of ``sources.json``, ``rated.jsonl.gz`` and ``preferences.jsonl.gz`` whose rows have a ``split``.

    Attributes:
        kind: ``pack``.
        folder: Path of the folder.
        limit: Maximum number of rows per source and split, in file order and before any other filter; None for all.
    """

    kind: Literal["pack"] = "pack"
    folder: str
    limit: int | None = Field(default=None, ge=1)


class FilesData(SkippingRows):
    """JSONL or Parquet files.

    If any row has ``split: test``, the rows' own splits are used; otherwise prompts are split at random. Rows with
    ``split: validation``, and their prompts, are never trained on; their number is logged.

    Attributes:
        kind: ``files``.
        ratings: Files of rated rows.
        preferences: Files of preferences.
        objectives: YAML file that declares the objectives of the ratings.
        test_share: Share of the prompts that is held out if the rows have no splits.
    """

    kind: Literal["files"] = "files"
    ratings: tuple[str, ...] = Field(min_length=1)
    preferences: tuple[str, ...] = Field(min_length=1)
    objectives: str
    test_share: float = Field(default=0.1, gt=0.0, lt=1.0)

    @model_validator(mode="after")
    def _one_side_file_each(self) -> FilesData:
        self.check_side_files((*self.ratings, *self.preferences))
        return self


class SourcesData(SkippingRows):
    """Registered public data sets.

    Attributes:
        kind: ``sources``.
        ratings: Names of sources of ratings.
        preferences: Names of sources of preferences.
        folder: Folder of local copies (``folder/NAME``, same schema); None to download from the Hub.
        limit: Maximum number of rows per source; None for all.
        test_share: Share of the prompts that is held out.
    """

    kind: Literal["sources"] = "sources"
    ratings: tuple[str, ...] = Field(min_length=1)
    preferences: tuple[str, ...] = Field(min_length=1)
    folder: str | None = None
    limit: int | None = Field(default=None, ge=1)
    test_share: float = Field(default=0.02, gt=0.0, lt=1.0)


DataSection = Annotated[WorldData | DeskData | PackData | FilesData | SourcesData, Field(discriminator="kind")]


@dataclass(frozen=True)
class Rows:
    """Training and test data of a run. No prompt of a test part occurs in a training part.

    Attributes:
        objectives: The K objectives, the columns of every label matrix.
        heads: Ratings for fitting the heads.
        heads_test: Held-out ratings.
        gate: Preferences for fitting the gate, two responses each.
        test: Test pairs: held-out preferences, two responses each.
        world: The generator of the rows, if the truth is known; else None.
        counts: Number of rows left out, by reason.
        reading: Counts of truncated conversations and of pairs that read the same; None before tokenisation.
    """

    objectives: tuple[Objective, ...]
    heads: list[Rating]
    heads_test: list[Rating]
    gate: list[Preference]
    test: list[Preference]
    world: KnownTruth[Any] | None
    counts: dict[str, int]
    reading: Reading | None = None

    @property
    def hash(self) -> str:
        """Fingerprint of all rows and objectives."""
        parts = (self.heads, self.heads_test, self.gate, self.test)
        return fingerprint(
            [[o.model_dump() for o in self.objectives], [fingerprint_of_all(r.model_dump() for r in p) for p in parts]]
        )


def load_rows(section: WorldData | DeskData | PackData | FilesData | SourcesData, *, seed: int) -> Rows:
    """Read or generate the rows of a run.

    Args:
        section: The recipe's ``data`` section.
        seed: Random seed of the split, if the rows have no splits of their own. The world and the desk have their own.

    Returns:
        The rows, with the number of rows left out.

    Raises:
        DataError: A file is missing, a row is malformed, a rating names an undeclared objective, or a part is empty.
    """
    if isinstance(section, GeneratedData):
        world = section.generator()
        rows = Rows(
            tuple(world.objectives),
            list(world.ratings(section.ratings, part="heads", every_rater=section.every_rater)),
            list(world.ratings(section.test, part="test", every_rater=section.every_rater)),
            list(world.preferences(section.preferences, part="gate")),
            list(world.preferences(section.test, part="test")),
            world,
            {},
        )
    elif isinstance(section, PackData):
        pack = read_pack(section.folder, **section.skipping)
        ratings, pairs = first_of_each(pack.ratings, section.limit), first_of_each(pack.preferences, section.limit)
        rows = assemble_rows(section, ratings, pairs, pack.objectives, split=GivenSplit(section.folder))
        beyond = {
            "ratings_beyond_the_limit": len(pack.ratings) - len(ratings),
            "preferences_beyond_the_limit": len(pack.preferences) - len(pairs),
        }
        rows = replace(rows, counts={**rows.counts, **{name: count for name, count in beyond.items() if count}})
    elif isinstance(section, FilesData):
        objectives = read_objectives(Path(section.objectives))
        rated = [read_rating_file(f, objectives=objectives, **section.skipping) for f in section.ratings]
        paired = [read_preference_file(f, **section.skipping) for f in section.preferences]
        ratings, pairs = [r for file in rated for r in file.records], [p for file in paired for p in file.records]
        given = any(part_of(r) == "test" for r in ratings) or any(part_of(p) == "test" for p in pairs)
        split: _Split = GivenSplit(section.objectives) if given else HashSplit(section.test_share, seed)
        rows = assemble_rows(section, ratings, pairs, objectives, split=split)
        rows = replace(rows, counts={**rows.counts, **lost_rows(rated, paired)})
    else:
        rows = _load_sources(section, seed)
    for name in ("heads", "gate", "test"):
        if not getattr(rows, name):
            raise DataError(f"no rows for part '{name}'", place=f"data ({section.kind})", fix="give more data")
    log("data", **{name: len(getattr(rows, name)) for name in ("heads", "heads_test", "gate", "test")}, **rows.counts)
    return rows


def first_of_each(records: list[R], limit: int | None) -> list[R]:
    """Return the first ``limit`` records of each source and split, in file order."""
    seen: Counter[tuple[str, str | None]] = Counter()
    kept = []
    for record in records:
        seen[record.source, part_of(record)] += 1
        if limit is None or seen[record.source, part_of(record)] <= limit:
            kept.append(record)
    return kept


def lost_rows(rated: Sequence[FileRead[Rating]], paired: Sequence[FileRead[Preference]]) -> dict[str, int]:
    """Return the number of rows without a usable label, and of skipped bad rows, by reason.

    Args:
        rated: Files of ratings.
        paired: Files of preferences.
    """
    counts: Counter[str] = Counter()
    for left_out in (*(f.left_out for f in rated), *(f.left_out for f in paired)):
        counts.update({f"{LOST}{reason.replace(' ', '_')}": count for reason, count in left_out.items()})
    counts[f"{LOST}bad_ratings"] = sum(file.skipped for file in rated)
    counts[f"{LOST}bad_preferences"] = sum(file.skipped for file in paired)
    return {reason: count for reason, count in counts.items() if count}


def lost_lines(counts: Mapping[str, int]) -> list[str]:
    """Return a sentence about the rows that were lost to bad or missing labels; empty if there are none.

    Args:
        counts: Number of rows left out, by reason.
    """
    lost = [f"{k.removeprefix(LOST).replace('_', ' ')} ({n})" for k, n in counts.items() if k.startswith(LOST)]
    return [f"Left out, without a usable label: {', '.join(lost)}."] if lost else []


def _load_sources(section: SourcesData, seed: int) -> Rows:
    objectives: dict[str, Objective] = {}
    records: list[Rating | Preference] = []
    check_sources(section.ratings, kind="rating")
    check_sources(section.preferences, kind="preference")
    for name in (*section.ratings, *section.preferences):
        path = None if section.folder is None else Path(section.folder) / name
        records.extend(load_source(name, path=path, limit=section.limit, **section.skipping))
        for objective in SOURCES[name].objectives:
            objectives.setdefault(objective.name, objective)
    ratings = [r for r in records if isinstance(r, Rating)]
    pairs = [r for r in records if isinstance(r, Preference)]
    return assemble_rows(section, ratings, pairs, list(objectives.values()), split=HashSplit(section.test_share, seed))


def check_sources(names: Sequence[str], *, kind: RecordKind) -> None:
    """Check the names of sources in ``data.ratings`` or ``data.preferences``.

    Args:
        names: Names of sources.
        kind: Kind of records that they must have.

    Raises:
        ConfigError: A source is not registered, or has the other kind of records.
    """
    for name in names:
        if name not in SOURCES:
            raise ConfigError(f"unknown source '{name}'", place=f"data.{kind}s", fix=did_you_mean(name, SOURCES))
        if SOURCES[name].kind != kind:
            raise ConfigError(
                f"source '{name}' holds {SOURCES[name].kind}s",
                place=f"data.{kind}s",
                fix=did_you_mean(name, [n for n, source in SOURCES.items() if source.kind == kind]),
            )


class _Split(Protocol):
    def __call__(self, records: Sequence[R], /) -> tuple[list[R], list[R]]: ...


class HashSplit:
    """Splits by a hash of the prompt, so that ratings and preferences of a prompt are on the same side."""

    def __init__(self, test_share: float, seed: int) -> None:
        self.fractions = {"train": 1.0 - test_share, "test": test_share}
        self.seed = seed

    def __call__(self, records: Sequence[R], /) -> tuple[list[R], list[R]]:
        """Return the training and the test records."""
        parts = split_by_prompt(records, self.fractions, seed=self.seed)
        return parts["train"], parts["test"]


class GivenSplit:
    """Splits by the ``split`` of each row."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __call__(self, records: Sequence[R], /) -> tuple[list[R], list[R]]:
        """Return the training and the test records."""
        return split_as_given(records, place=self.folder)


def assemble_rows(
    section: CleanedRows,
    ratings: Sequence[Rating],
    pairs: Sequence[Preference],
    objectives: Sequence[Objective],
    *,
    split: _Split,
) -> Rows:
    """Split ratings and preferences, remove rows that must not be trained on, and count the rows left out.

    Args:
        section: Which rows are removed from the training part.
        ratings: Ratings of all parts; may be empty.
        pairs: Preferences of all parts.
        objectives: Objectives of the ratings.
        split: Function that returns the training and the test records.
    """
    check_unique(objectives)
    counts: Counter[str] = Counter()
    overall = [p for p in pairs if p.aspect == "overall"]
    counts["preferences_about_another_aspect"] = len(pairs) - len(overall)
    ratings, validation = set_aside(ratings, "validation")
    overall, validation_pairs = set_aside(overall, "validation")
    counts["validation_ratings"], counts["validation_preferences"] = len(validation), len(validation_pairs)
    heads, heads_test = split(ratings)
    whole, whole_test = split(overall)
    clean = RowCleaner(section)
    heads, whole = clean(heads, "ratings"), clean(whole, "preferences")  # compare whole rankings, not their pairs
    counts.update(clean.counts)
    gate, test = ([pair for p in part for pair in as_pairs(p)] for part in (whole, whole_test))
    tested = {r.prompt_key for r in heads_test} | {p.prompt_key for p in test}
    held_out = tested | {r.prompt_key for r in validation} | {p.prompt_key for p in validation_pairs}
    for name, rows in (("ratings", heads), ("preferences", gate)):
        found = [r.prompt_key in tested for r in rows if r.prompt_key in held_out]
        counts[f"training_{name}_with_a_test_prompt"] = sum(found)
        counts[f"training_{name}_with_a_validation_prompt"] = len(found) - sum(found)
    return Rows(
        tuple(objectives),
        [r for r in heads if r.prompt_key not in held_out],
        heads_test,
        [p for p in gate if p.prompt_key not in held_out],
        test,
        None,
        {reason: count for reason, count in counts.items() if count},
    )
