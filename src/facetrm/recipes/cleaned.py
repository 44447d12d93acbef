"""Remove duplicates and benchmark prompts from the training rows, if a recipe's ``data`` section asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar, final

from facetrm.core.config import Section
from facetrm.data.read.conversations import read_conversations
from facetrm.data.records import Preference, Rating
from facetrm.data.views import decontaminate, deduplicate

R = TypeVar("R", Rating, Preference)


class CleanedRows(Section):
    """Which rows are removed from the training part. Test rows are never removed.

    The number of rows removed for each reason is logged and written to ``metrics.json``.

    Attributes:
        deduplicate: Whether to remove rows with the same conversation and labels as an earlier row.
        decontaminate: Files of benchmarks, in any supported format. Rows are removed if their prompt is in such a file,
            or shares 30% of its eight-word sequences with a prompt in it.
    """

    deduplicate: bool = False
    decontaminate: tuple[str, ...] = ()


@final
class RowCleaner:
    """Removes the rows that ``section`` asks to remove, and counts them.

    Args:
        section: The recipe's ``data`` section.

    Attributes:
        counts: Number of training rows removed, by reason; a ranking counts once. Reasons without rows are absent.

    Raises:
        DataError: A benchmark file is missing or has a malformed row.
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
        """Return the training rows that are kept, in order.

        Args:
            rows: Training rows.
            name: Name of their kind in the counts, such as ``ratings``.
        """
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
