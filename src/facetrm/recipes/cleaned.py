"""Training rows without copies and without the prompts of benchmarks, where a recipe's ``data`` asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar, final

from facetrm.core.config import Section
from facetrm.data.read.conversations import read_conversations
from facetrm.data.records import Preference, Rating
from facetrm.data.views import decontaminate, deduplicate

R = TypeVar("R", Rating, Preference)


class CleanedRows(Section):
    """What is taken out of the training rows; test rows stay as they are.

    ``deduplicate: true`` takes out copies: rows with the same conversation and labels as an earlier one.
    ``decontaminate`` names files of benchmarks, in any convention: rows whose prompt is one of theirs, or shares 30% of
    its eight-word sequences with one, are taken out. Both numbers stand in the log and in ``metrics.json``.
    """

    deduplicate: bool = False
    decontaminate: tuple[str, ...] = ()


@final
class RowCleaner:
    """Takes out what ``section`` asks for, and counts it.

    Args:
        section: the recipe's ``data``.

    Attributes:
        counts: training rows taken out, by reason; a ranking counts once. Reasons without a row are absent.

    Raises:
        DataError: a benchmark's file that is missing or holds a bad row.
    """

    def __init__(self, section: CleanedRows) -> None:
        self.counts: dict[str, int] = {}
        self._deduplicate = section.deduplicate
        self._benchmark = [
            Rating(id=row.place, messages=row.answers[0], ratings={})
            for file in section.decontaminate
            for row in read_conversations(file)
        ]

    def __call__(self, rows: Sequence[R], name: str) -> list[R]:
        """Return the training ``rows`` that stay, in order; ``name`` is that of their kind in the counts."""
        kept = list(rows)
        if self._deduplicate:
            kept = deduplicate(kept).records
            self._count(f"training_{name}_that_are_copies", len(rows) - len(kept))
        if self._benchmark:
            found = decontaminate(kept, self._benchmark)
            self._count(f"training_{name}_with_a_benchmark_prompt", len(found.removed))
            kept = found.records
        return kept

    def _count(self, reason: str, rows: int) -> None:
        if rows:
            self.counts[reason] = rows
