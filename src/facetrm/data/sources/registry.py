"""Sources: public data sets by name. Each source is one file that turns raw rows into records.

To add a source, write one file with a generator over one raw row (or, with ``group_by``, over all raw rows of a prompt)
and decorate it with :func:`source`. The generator yields :class:`Dropped` for what it leaves out, so it is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar, final

from facetrm.core.errors import DataError
from facetrm.core.registry import Registry
from facetrm.data.objectives import Objective
from facetrm.data.read.columns import Row
from facetrm.data.read.formats import RecordKind
from facetrm.data.records import Preference, Rating

GroupKey: TypeAlias = Callable[[Row], str]


@final
@dataclass(frozen=True)
class Dropped:
    """A row or pair that a source leaves out by its documented rule, with the reason under which it is counted."""

    reason: str


Records: TypeAlias = Iterator[Rating | Preference | Dropped]


@final
@dataclass(frozen=True)
class Source:
    """A public data set.

    Attributes:
        name: Unique name of the source in facetrm.
        hub: Name of the data set on the Hub.
        kind: Kind of its records.
        licence: Licence of the data set.
        citation: Citation of the data set.
        read: Generator of records from one raw row, or with ``group_by`` from the raw rows of one group.
        objectives: Objectives of its ratings; every rating must be declared here and be within range.
        task: Task of all its rows, or None.
        splits: Map from our split names to the Hub's, if they differ.
        files: Files of a split in the data set, if the Hub does not define the split; ``{split}`` is filled in.
        group_by: Function that returns the prompt's key of a raw row, for sources that need all responses to a prompt.
        columns: Columns that no other data set has together, by which a file of it is recognised; empty if there are
            none.
    """

    name: str
    hub: str
    kind: RecordKind
    licence: str
    citation: str
    read: Callable[[Any], Records]
    objectives: tuple[Objective, ...] = ()
    task: str | None = None
    splits: dict[str, str] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    group_by: GroupKey | None = None
    columns: frozenset[str] = frozenset()

    @property
    def rule(self) -> str:
        """The rule that turns raw rows into records, from the docstring of ``read``."""
        return (self.read.__doc__ or "").strip()

    def records(self, rows: Iterable[Row]) -> Records:
        """Yield the records of raw rows; raise DataError at a malformed row."""

        def reject(error: DataError, number: int, row: Row) -> None:
            raise error

        for _, value in self.units(enumerate(rows, start=1), reject):
            yield from self.read(value)

    def units(
        self, rows: Iterable[tuple[int, Row]], reject: Callable[[DataError, int, Row], None]
    ) -> Iterator[tuple[int, Any]]:
        """Yield the inputs of ``read`` (single rows or groups of rows), each with the number of its first row.

        Args:
            rows: raw rows with their numbers.
            reject: function called with error, number and row for a row without a group key.
        """
        if self.group_by is None:
            yield from rows
            return
        groups: dict[str, tuple[int, list[Row]]] = {}
        for number, row in rows:
            try:
                key = self.group_by(row)
            except DataError as exc:
                reject(exc, number, row)
            else:
                groups.setdefault(key, (number, []))[1].append(row)
        yield from groups.values()


SOURCES: Registry[Source] = Registry("source")

F = TypeVar("F", bound=Callable[[Any], Records])


def source(
    name: str,
    *,
    hub: str,
    kind: RecordKind,
    licence: str,
    citation: str,
    objectives: Sequence[Objective] = (),
    task: str | None = None,
    splits: dict[str, str] | None = None,
    files: Sequence[str] = (),
    group_by: GroupKey | None = None,
    columns: Sequence[str] = (),
) -> Callable[[F], F]:
    """Return a decorator that registers a generator of records as a source.

    Args:
        name: unique name of the source in facetrm.
        hub: name of the data set on the Hub.
        kind: kind of its records.
        licence: licence of the data set.
        citation: citation of the data set.
        objectives: objectives of its ratings.
        task: task of all its rows; None if they have different tasks.
        splits: map from our split names to the Hub's, if they differ.
        files: files of a split in the data set; ``{split}`` is filled in.
        group_by: function that returns the prompt's key of a raw row; None reads every row alone.
        columns: columns by which a file of it is recognised; empty if others have them too.

    Raises:
        ConfigError: The name is already registered.
    """

    def register(read: F) -> F:
        SOURCES.add(
            name,
            Source(
                name=name,
                hub=hub,
                kind=kind,
                licence=licence,
                citation=citation,
                read=read,
                objectives=tuple(objectives),
                task=task,
                splits=splits or {},
                files=tuple(files),
                group_by=group_by,
                columns=frozenset(columns),
            ),
        )
        return read

    return register
