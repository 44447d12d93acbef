"""What stands for a cell of a file that Python cannot hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final


@final
@dataclass(frozen=True)
class Unreadable:
    """A cell that Python cannot hold (bytes that are no UTF-8, a date out of range); it matters only where it is read.

    Attributes:
        reason: what is wrong with it.
    """

    reason: str
