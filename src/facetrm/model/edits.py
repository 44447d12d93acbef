"""What a user changed about whom a model listens to, by number of expert: :class:`WeightEdit`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from facetrm.core.errors import ModelError


@dataclass(frozen=True)
class WeightEdit:
    """What a user changed about whom the model listens to; objectives are named by index 0..K-1.

    Attributes:
        drop: weight and penalty to zero, the other weights renormalised.
        scale: index to factor >= 0: its weight is multiplied, and so are the penalties that act through it. Nothing is
            renormalised.
        pin: index to weight in [0, 1], whatever the prompt; the gate shares out the rest. Weights that sum to 1 drop
            all other objectives, penalties included: "100% helpfulness" is helpfulness alone.
    """

    drop: tuple[int, ...] = ()
    scale: tuple[tuple[int, float], ...] = ()
    pin: tuple[tuple[int, float], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return {"drop": list(self.drop), "scale": [list(p) for p in self.scale], "pin": [list(p) for p in self.pin]}

    @staticmethod
    def from_dict(value: Mapping[str, Any]) -> WeightEdit:
        """Return the edit that :meth:`to_dict` wrote.

        Raises:
            ModelError: it did not write this.
        """
        try:
            scale, pin = (tuple((int(k), float(x)) for k, x in value[name]) for name in ("scale", "pin"))
            return WeightEdit(tuple(int(k) for k in value["drop"]), scale, pin)
        except (KeyError, TypeError, ValueError):
            raise ModelError(f"an edit that reads {value!r}", place="edit", fix="save the model again") from None

    def check(self, gated: Sequence[bool]) -> None:
        """Raise ModelError when the edit does not fit K objectives, of which ``gated`` may enter the gate."""
        size, place = len(gated), "edit"
        for k in (*self.drop, *(k for k, _ in self.scale), *(k for k, _ in self.pin)):
            if not 0 <= k < size:
                raise ModelError(f"objective number {k}", place=place, fix=f"give 0..{size - 1}")
        for k, factor in self.scale:
            if not (math.isfinite(factor) and factor >= 0):
                raise ModelError(f"scale of objective {k} is {factor}", place=place, fix="give a factor of 0 or more")
        for k, weight in self.pin:
            if not 0 <= weight <= 1:
                raise ModelError(f"pin of objective {k} is {weight}", place=place, fix="give a weight in [0, 1]")
            if k in self.drop:
                raise ModelError(f"objective {k} is dropped and pinned", place=place, fix="do one or the other")
        total, named = self.pinned_total, {k for k, _ in self.pin} | set(self.drop)
        if total > 1 + 1e-6:
            raise ModelError(f"the pinned weights sum to {total:g}", place=place, fix="let them sum to at most 1")
        if total < 1 - 1e-6 and not any(g and k not in named for k, g in enumerate(gated)):
            raise ModelError(
                f"no objective is left to take the remaining weight {1 - total:g}",
                place=place,
                fix="keep one that the gate may weigh, or pin weights that sum to 1",
            )

    @property
    def pinned_total(self) -> float:
        """Sum of the pinned weights."""
        return sum(weight for _, weight in self.pin)
