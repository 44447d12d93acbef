"""The ``data`` section of the recipes of rivals: preferences alone, split into a training and a test part."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from facetrm.core.errors import DataError
from facetrm.core.progress import log
from facetrm.data.desk import Desk, DeskConfig
from facetrm.data.pack import read_pack
from facetrm.data.read.files import read_preference_file
from facetrm.data.records import Preference
from facetrm.data.sources import load_source
from facetrm.data.synthetic.known import KnownTruth
from facetrm.data.views import part_of
from facetrm.data.world import World, WorldConfig
from facetrm.recipes.armorm.rows import (
    GivenSplit,
    HashSplit,
    PackData,
    Rows,
    SkippingRows,
    assemble_rows,
    check_sources,
    first_of_each,
    lost_rows,
)
from facetrm.recipes.generated import Generated


class GeneratedPairs(Generated):
    """Pairs of a generator.

    Attributes:
        preferences: Number of training pairs.
        test: Number of held-out pairs.
    """

    preferences: int = Field(default=2000, ge=2)
    test: int = Field(default=1000, ge=2)


class WorldPairs(GeneratedPairs):
    """Pairs of the embedded world.

    Attributes:
        world: Settings of the world.
    """

    source: ClassVar[type[KnownTruth[Any]]] = World
    kind: Literal["world"] = "world"
    world: WorldConfig = WorldConfig()


class DeskPairs(GeneratedPairs):
    """Pairs of the embedded desk: plain English whose truth is known.

    Attributes:
        desk: Settings of the desk.
    """

    source: ClassVar[type[KnownTruth[Any]]] = Desk
    kind: Literal["desk"] = "desk"
    desk: DeskConfig = DeskConfig()


class FilePairs(SkippingRows):
    """Files of preferences, in any format that facetrm reads.

    If any row has ``split: test``, the rows' own splits are used; otherwise prompts are split at random.

    Attributes:
        preferences: Files of preferences.
        test_share: Share of the prompts that is held out if the rows have no splits.
    """

    kind: Literal["files"] = "files"
    preferences: tuple[str, ...] = Field(min_length=1)
    test_share: float = Field(default=0.1, gt=0.0, lt=1.0)

    @model_validator(mode="after")
    def _one_side_file_each(self) -> Self:
        self.check_side_files(self.preferences)
        return self


class SourcePairs(SkippingRows):
    """Registered public data sets of preferences.

    Attributes:
        preferences: Names of the sources.
        folder: Folder of local copies (``folder/NAME``, same schema); None to download from the Hub.
        limit: Maximum number of rows per source; None for all.
        test_share: Share of the prompts that is held out.
    """

    kind: Literal["sources"] = "sources"
    preferences: tuple[str, ...] = Field(min_length=1)
    folder: str | None = None
    limit: int | None = Field(default=None, ge=1)
    test_share: float = Field(default=0.02, gt=0.0, lt=1.0)


PairSection = Annotated[WorldPairs | DeskPairs | PackData | FilePairs | SourcePairs, Field(discriminator="kind")]


def load_pairs(section: WorldPairs | DeskPairs | PackData | FilePairs | SourcePairs, *, seed: int) -> Rows:
    """Read or generate the pairs of a run: ``gate`` holds those for training, ``test`` those that are held out.

    Args:
        section: The recipe's ``data`` section.
        seed: Random seed of the split, if the rows have no splits of their own. The world and the desk have their own.

    Returns:
        The rows, without ratings, and with the number of rows left out.

    Raises:
        DataError: A file is missing, a row is malformed, or a part is empty.
        ConfigError: A source is unknown.
    """
    counts: dict[str, int] = {}
    if isinstance(section, GeneratedPairs):
        world = section.generator()
        train = list(world.preferences(section.preferences, part="gate"))
        test = list(world.preferences(section.test, part="test"))
        rows = Rows((), [], [], train, test, world, {})
    else:
        given: str | None = None
        if isinstance(section, PackData):
            pairs = first_of_each(read_pack(section.folder, **section.skipping).preferences, section.limit)
            given = section.folder
        elif isinstance(section, FilePairs):
            files = [read_preference_file(file, **section.skipping) for file in section.preferences]
            pairs, counts = [p for file in files for p in file.records], lost_rows([], files)
            given = section.preferences[0] if any(part_of(p) == "test" for p in pairs) else None
        else:
            pairs = _of_sources(section)
        share = 0.0 if isinstance(section, PackData) else section.test_share
        split = HashSplit(share, seed) if given is None else GivenSplit(given)
        found = assemble_rows(section, [], pairs, [], split=split)
        rows = Rows((), [], [], found.gate, found.test, None, {**found.counts, **counts})
    for name, part in (("training", rows.gate), ("test", rows.test)):
        if not part:
            raise DataError(f"no pairs for the {name} part", place=f"data ({section.kind})", fix="give more data")
    log("data", training=len(rows.gate), test=len(rows.test), **rows.counts)
    return rows


def _of_sources(section: SourcePairs) -> list[Preference]:
    check_sources(section.preferences, kind="preference")
    found = []
    for name in section.preferences:
        path = None if section.folder is None else Path(section.folder) / name
        found += list(load_source(name, path=path, limit=section.limit, **section.skipping))
    return [row for row in found if isinstance(row, Preference)]
