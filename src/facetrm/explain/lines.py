"""The rating and contribution of one expert for one answer, and the scale that the source rated on."""

from __future__ import annotations

from dataclasses import dataclass

from facetrm.core.shown import show_number
from facetrm.data.objectives import Direction, Objective
from facetrm.model.validity import Validity


@dataclass(frozen=True)
class RawScale:
    """The scale on which the source of an objective gave its ratings.

    Attributes:
        low: lower end of the scale.
        high: upper end of the scale.
        direction: whether higher or lower ratings are better.
        per_unit: change of the rating when the score goes from 0 to 1; negative if lower ratings are better.
        meaning: what the objective measures; empty if not given.
    """

    low: float
    high: float
    direction: Direction
    per_unit: float
    meaning: str = ""

    @staticmethod
    def of(objective: Objective) -> RawScale:
        """Return the scale of ``objective``."""
        per_unit = objective.from_unit(1.0) - objective.from_unit(0.0)
        return RawScale(objective.low, objective.high, objective.direction, per_unit, objective.meaning)

    @property
    def ends(self) -> str:
        """Both ends of the scale as text, such as ``1..5``."""
        return f"{self.low:.4g}..{self.high:.4g}"

    def holds(self, rating: float) -> bool:
        """Whether ``rating`` lies on the scale, ends included (with a tolerance for rounding)."""
        slack = 1e-6 * (self.high - self.low)
        return self.low - slack <= rating <= self.high + slack


@dataclass(frozen=True)
class ExpertLine:
    """The rating and contribution of one expert for one answer.

    Attributes:
        objective: name of the expert.
        position: index of the expert in the mixture, from 0.
        contribution: part of the reward that comes from the expert.
        share: absolute contribution in percent of the sum of absolute contributions.
        score: score of the answer on the [0, 1] scale.
        rating: the same score on the scale of the source.
        scale: scale of the source; None if unknown.
        weight: gate weight of the expert; None if the reward is not a weighted sum.
        coefficient: reward per unit of score; None if the reward is not a weighted sum.
        validity: how well the expert was predicted on held-out rows; None if unknown.
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
    validity: Validity | None = None

    @property
    def unproven(self) -> bool:
        """Whether it is known that the expert's ratings are not predicted on held-out rows."""
        return self.validity is not None and not self.validity.measurable

    @property
    def reading(self) -> str:
        """The rating on its scale, such as ``3.40 of 1..5``."""
        rating = show_number(self.rating)
        if self.scale is None:
            return rating
        return f"{rating} of {self.scale.ends}" + (" (lower is better)" if self.scale.direction == "lower" else "")
