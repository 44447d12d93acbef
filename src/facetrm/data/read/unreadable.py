"""What stands for a cell of a file that Python cannot hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final


@final
@dataclass(frozen=True)
class Unreadable:
    """A cell that Python cannot represent (invalid UTF-8, a date out of range). It is an error only if it is used.

    Attributes:
        reason: Why the cell cannot be read.
    """

    reason: str
