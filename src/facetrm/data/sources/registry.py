"""Sources: public data sets by name, each one file that turns its raw rows into records.

A new source is one file: a generator over one raw row (or, with ``group_by``, over all raw rows of a prompt), under
:func:`source`. What a generator leaves out it yields as :class:`Dropped`, so that everything left out is counted.
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
    """Something that a source leaves out by its documented rule, with the reason under which it is counted."""

    reason: str


Records: TypeAlias = Iterator[Rating | Preference | Dropped]


@final
@dataclass(frozen=True)
class Source:
    """A public data set.

    Attributes:
        name: how we call it, unique.
        hub: its name on the Hub.
        kind: the records it gives.
        licence: licence of the data.
        citation: how to cite the data.
        read: turns one raw row, or with ``group_by`` the raw rows of one group, into records.
        objectives: what its ratings mean; every rating is declared here and within range.
        task: the task of all its rows, where it has one.
        splits: our split name -> the Hub's, where they differ.
        files: the files of a split inside the data set, where a split is not simply a split; ``{split}`` is filled in.
        group_by: the key of a prompt, for sources that must see all answers to it.
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

    @property
    def rule(self) -> str:
        """How raw rows become records: the docstring of ``read``."""
        return (self.read.__doc__ or "").strip()

    def records(self, rows: Iterable[Row]) -> Records:
        """Yield the records of raw rows; a malformed row raises (see ``load_source`` for places and skipping)."""

        def reject(error: DataError, number: int, row: Row) -> None:
            raise error

        for _, value in self.units(enumerate(rows, start=1), reject):
            yield from self.read(value)

    def units(
        self, rows: Iterable[tuple[int, Row]], reject: Callable[[DataError, int, Row], None]
    ) -> Iterator[tuple[int, Any]]:
        """Yield what ``read`` takes, each with the number of its first row: single rows, or groups of rows.

        Args:
            rows: numbered raw rows.
            reject: what to do with a row that has no group key.
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
) -> Callable[[F], F]:
    """Return a decorator that registers a generator of records as a source.

    Args:
        name: as in :class:`Source`.
        hub: as in :class:`Source`.
        kind: as in :class:`Source`.
        licence: as in :class:`Source`.
        citation: as in :class:`Source`.
        objectives: as in :class:`Source`, where they are needed.
        task: as in :class:`Source`.
        splits: as in :class:`Source`.
        files: as in :class:`Source`.
        group_by: as in :class:`Source`.

    Raises:
        ConfigError: the name is taken.
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
            ),
        )
        return read

    return register
