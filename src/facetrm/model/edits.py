"""The changes that a user makes to the weights of the experts: :class:`WeightEdit`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from facetrm.core.errors import ModelError


@dataclass(frozen=True)
class WeightEdit:
    """A user's changes to the weights of the experts. Objectives are given by their index, 0 to K - 1.

    Attributes:
        drop: the objectives to drop. Their weights and penalties become 0, and the other weights are renormalised.
        scale: pairs of an objective and a factor of 0 or more. The factor multiplies the weight and the penalties that
            act through it. Nothing is renormalised.
        pin: pairs of an objective and a weight in [0, 1] that is the same for every prompt. The gate distributes the
            rest. Pinned weights that sum to 1 drop all other objectives with their penalties, so "100% helpfulness"
            uses only helpfulness.
    """

    drop: tuple[int, ...] = ()
    scale: tuple[tuple[int, float], ...] = ()
    pin: tuple[tuple[int, float], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return {"drop": list(self.drop), "scale": [list(p) for p in self.scale], "pin": [list(p) for p in self.pin]}

    @staticmethod
    def from_dict(value: Mapping[str, Any]) -> WeightEdit:
        """Restore an edit from the output of :meth:`to_dict`.

        Raises:
            ModelError: the value is malformed.
        """
        try:
            scale, pin = (tuple((int(k), float(x)) for k, x in value[name]) for name in ("scale", "pin"))
            return WeightEdit(tuple(int(k) for k in value["drop"]), scale, pin)
        except (KeyError, TypeError, ValueError):
            raise ModelError(f"malformed edit {value!r}", place="edit", fix="save the model again") from None

    def check(self, gated: Sequence[bool]) -> None:
        """Check that the edit fits the objectives of a gate.

        Args:
            gated: K flags; True for each objective to which the gate can give weight.

        Raises:
            ModelError: an index or a value is out of range, or no objective can take the remaining weight.
        """
        size, place = len(gated), "edit"
        for k in (*self.drop, *(k for k, _ in self.scale), *(k for k, _ in self.pin)):
            if not 0 <= k < size:
                raise ModelError(f"there is no objective number {k}", place=place, fix=f"give 0 to {size - 1}")
        for k, factor in self.scale:
            if not (math.isfinite(factor) and factor >= 0):
                raise ModelError(
                    f"the scale of objective {k} is {factor}", place=place, fix="give a factor of 0 or more"
                )
        for k, weight in self.pin:
            if not 0 <= weight <= 1:
                raise ModelError(f"the pin of objective {k} is {weight}", place=place, fix="give a weight in [0, 1]")
            if k in self.drop:
                raise ModelError(f"objective {k} is both dropped and pinned", place=place, fix="choose one")
        total, named = self.pinned_total, {k for k, _ in self.pin} | set(self.drop)
        if total > 1 + 1e-6:
            raise ModelError(
                f"the pinned weights sum to {total:g}", place=place, fix="give weights that sum to at most 1"
            )
        if total < 1 - 1e-6 and not any(g and k not in named for k, g in enumerate(gated)):
            raise ModelError(
                f"no objective is left to take the remaining weight {1 - total:g}",
                place=place,
                fix="keep one to which the gate can give weight, or pin weights that sum to 1",
            )

    @property
    def pinned_total(self) -> float:
        """The sum of the pinned weights."""
        return sum(weight for _, weight in self.pin)
