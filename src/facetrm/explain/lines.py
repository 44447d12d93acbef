"""What one expert says about one answer, and the scale on which its source rated."""

from __future__ import annotations

from dataclasses import dataclass

from facetrm.core.shown import show_number
from facetrm.data.objectives import Direction, Objective


@dataclass(frozen=True)
class RawScale:
    """The source's own scale of an objective: its ends, its direction, and how far one unit of score reaches."""

    low: float
    high: float
    direction: Direction
    per_unit: float
    meaning: str = ""

    @staticmethod
    def of(objective: Objective) -> RawScale:
        """Return the scale of ``objective``; ``per_unit`` is negative where lower is better."""
        per_unit = objective.from_unit(1.0) - objective.from_unit(0.0)
        return RawScale(objective.low, objective.high, objective.direction, per_unit, objective.meaning)

    @property
    def ends(self) -> str:
        """Such as ``1..5``."""
        return f"{self.low:.4g}..{self.high:.4g}"

    def holds(self, rating: float) -> bool:
        """Whether ``rating`` lies on the scale, its ends included (to rounding)."""
        slack = 1e-6 * (self.high - self.low)
        return self.low - slack <= rating <= self.high + slack


@dataclass(frozen=True)
class ExpertLine:
    """What one expert says about one answer.

    Attributes:
        objective: the expert's name; ``position``: its place in the model.
        contribution: reward owed to it; ``share``: percent of the sum of absolute contributions.
        score: in [0, 1] terms; ``rating``: the same on the source's scale; ``scale``: its ends, None if not known.
        weight: the gate's; ``coefficient``: reward per unit of score; both None where the reward is no weighted sum.
    """

    objective: str
    position: int
    contribution: float
    share: float
    score: float
    rating: float
    scale: RawScale | None
    weight: float | None
    coefficient: float | None

    @property
    def reading(self) -> str:
        """The rating on its scale, such as ``3.40 of 1..5``."""
        rating = show_number(self.rating)
        if self.scale is None:
            return rating
        return f"{rating} of {self.scale.ends}" + (" (lower is better)" if self.scale.direction == "lower" else "")
