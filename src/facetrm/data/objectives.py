"""Objectives: what a rating means, and its exact map to [0, 1] and back.

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
    """One thing that a rater judged.

    Attributes:
        name: unique, ``source-attribute``.
        low: the lower end of the source's own scale.
        high: the upper end of the source's own scale.
        kind: ``integer`` (bin centres; a mean of integers too), ``boolean``, ``continuous``.
        direction: which end is better; ``unknown`` is reported but never enters the gate.
        meaning: one plain sentence.
        rater: who rated.
        source: the data set.

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
        """Whether the gate may listen to it."""
        return self.direction != "unknown"

    def to_unit(self, raw: float) -> float:
        """Return the target in [0, 1], pointing up, of a raw rating."""
        width = self.high - self.low
        y = (raw - self.low + 0.5) / (width + 1.0) if self.kind == "integer" else (raw - self.low) / width
        return 1.0 - y if self.direction == "lower" else y

    def from_unit(self, unit: float) -> float:
        """Return the raw value of a unit prediction: the exact inverse of :meth:`to_unit`, not clipped."""
        y = 1.0 - unit if self.direction == "lower" else unit
        width = self.high - self.low
        return y * (width + 1.0) - 0.5 + self.low if self.kind == "integer" else y * width + self.low


def check_unique(objectives: Sequence[Objective]) -> None:
    """Raise DataError when two objectives share a name."""
    seen: set[str] = set()
    for objective in objectives:
        if objective.name in seen:
            raise DataError(f"objective '{objective.name}' is declared twice", fix="give each objective its own name")
        seen.add(objective.name)


def label_matrix(ratings: Iterable[Rating], objectives: Sequence[Objective]) -> NDArray[np.float64]:
    """Return targets in [0, 1], NaN where not rated: ``labels_NK``.

    Args:
        ratings: N rated conversations.
        objectives: K objectives, in the order of the columns.

    Raises:
        DataError: a rating that no objective declares, or one outside its objective's range.

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
