"""Objectives: the meaning of a rating, and its exact map to [0, 1] and back.

    integer      y = (r - low + 0.5) / (high - low + 1)     bin centres: 0..4 -> 0.1, 0.3, 0.5, 0.7, 0.9
    boolean      y = r                                        False -> 0, True -> 1
    continuous   y = (r - low) / (high - low)
    lower is better: y <- 1 - y, so that every objective points up

Reference: ArmoRM (arXiv 2406.12845), section 3; the maps of its released data.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from facetrm.core.config import Section
from facetrm.core.errors import DataError, did_you_mean
from facetrm.data.records import Rating

RatingKind = Literal["integer", "boolean", "continuous"]
Direction = Literal["higher", "lower", "unknown"]


class Objective(Section):
    """One quality that raters judged, and the scale of its ratings.

    Attributes:
        name: Unique name, ``source-attribute``.
        low: Lower end of the source's scale.
        high: Upper end of the source's scale.
        kind: Kind of scale: ``integer`` (bin centres; also for means of integers), ``boolean`` or ``continuous``.
        direction: Which end is better; an objective of ``unknown`` direction is reported but never enters the gate.
        meaning: Meaning of the objective in one plain sentence.
        rater: Who rated it.
        source: Name of the data set.

    Example:
        >>> from facetrm import Objective
        >>> helpful = Objective(name="helpful", low=0, high=4, meaning="the answer does what was asked")
        >>> helpful.high
        4.0
    """

    name: str
    low: float
    high: float
    kind: RatingKind = "integer"
    direction: Direction = "higher"
    meaning: str = ""
    rater: str = ""
    source: str = ""

    @model_validator(mode="after")
    def _range(self) -> Objective:
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            raise ValueError("low and high must be finite numbers")
        if not self.low < self.high:
            raise ValueError(f"low {self.low} must be below high {self.high}")
        if self.kind == "boolean" and (self.low, self.high) != (0.0, 1.0):
            raise ValueError("a boolean objective has low 0 and high 1")
        return self

    @property
    def gated(self) -> bool:
        """Whether the gate may use this objective."""
        return self.direction != "unknown"

    def to_unit(self, raw: float) -> float:
        """Return the target in [0, 1] of a raw rating; higher is better."""
        width = self.high - self.low
        y = (raw - self.low + 0.5) / (width + 1.0) if self.kind == "integer" else (raw - self.low) / width
        return 1.0 - y if self.direction == "lower" else y

    def from_unit(self, unit: float) -> float:
        """Return the raw value of a prediction on the unit scale: the exact inverse of :meth:`to_unit`, not clipped."""
        y = 1.0 - unit if self.direction == "lower" else unit
        width = self.high - self.low
        return y * (width + 1.0) - 0.5 + self.low if self.kind == "integer" else y * width + self.low


def check_unique(objectives: Sequence[Objective]) -> None:
    """Raise DataError if two objectives have the same name."""
    seen: set[str] = set()
    for objective in objectives:
        if objective.name in seen:
            raise DataError(f"objective '{objective.name}' is declared twice", fix="give each objective its own name")
        seen.add(objective.name)


def label_matrix(ratings: Iterable[Rating], objectives: Sequence[Objective]) -> NDArray[np.float64]:
    """Return the targets in [0, 1] of all ratings, [N, K], with NaN for missing ratings.

    Args:
        ratings: N rated conversations.
        objectives: K objectives, in column order.

    Raises:
        DataError: A rating has no declared objective, or is outside the range of its objective.

    Example:
        >>> from facetrm import World, label_matrix
        >>> world = World()
        >>> label_matrix(list(world.ratings(5)), world.objectives).shape == (5, len(world.objectives))
        True
    """
    column = {objective.name: k for k, objective in enumerate(objectives)}
    rows = []
    for n, rating in enumerate(ratings):
        row = np.full(len(objectives), np.nan)
        for name, raw in rating.ratings.items():
            place = f"rating {rating.id or n}"
            if name not in column:
                raise DataError(f"objective '{name}' is not declared", place=place, fix=did_you_mean(name, column))
            objective = objectives[column[name]]
            if not objective.low <= raw <= objective.high:
                raise DataError(
                    f"'{name}' is {raw:g}, outside {objective.low:g}..{objective.high:g}",
                    place=place,
                    fix="fix the value or the objective's range",
                )
            row[column[name]] = objective.to_unit(raw)
        rows.append(row)
    return np.stack(rows) if rows else np.empty((0, len(objectives)))
