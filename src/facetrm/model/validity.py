"""How well each objective of a model was predicted on held-out rows, as its provenance records it.

An objective without measurable validity still has a weight and a rating, but its rating may be noise:

    spearman   rank correlation with held-out ratings                      must be clearly above 0
    accuracy   share of held-out preferences about the objective           must be clearly above 1/2
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

VALIDITY: Final = "validity"
"""Key of the provenance."""
FEW_ROWS: Final = 20
"""Number of held-out rows below which nothing counts as measured: intervals of so few rows are too narrow."""
_Z: Final = 1.959963984540054
_CHANCE: Final = {"spearman": 0.0, "accuracy": 0.5}


@dataclass(frozen=True)
class Validity:
    """How well one objective is predicted on held-out rows.

    Attributes:
        measure: ``spearman`` or ``accuracy``.
        value: the figure; None if it is undefined.
        low: lower end of its 95% interval; None if it is undefined.
        high: upper end of its 95% interval; None if it is undefined.
        rows: number of held-out rows.
    """

    measure: str
    value: float | None
    low: float | None
    high: float | None
    rows: int

    @staticmethod
    def of(measure: str, value: float, interval: tuple[float, float], rows: int) -> Validity:
        """Return the validity with figures that are not finite replaced by None.

        Args:
            measure: ``spearman`` or ``accuracy``.
            value: the figure.
            interval: ends of its 95% interval.
            rows: number of held-out rows.
        """
        known = [float(x) if math.isfinite(x) else None for x in (value, *interval)]
        return Validity(measure, known[0], known[1], known[2], rows)

    @staticmethod
    def of_accuracy(value: float, rows: int) -> Validity:
        """Return the validity of an accuracy on independent rows, with Wilson's interval.

        Args:
            value: the accuracy, 0 to 1.
            rows: number of held-out rows.
        """
        if rows < 1:
            return Validity("accuracy", None, None, None, rows)
        middle = (value + _Z**2 / (2 * rows)) / (1 + _Z**2 / rows)
        half = _Z / (1 + _Z**2 / rows) * math.sqrt(value * (1 - value) / rows + _Z**2 / (4 * rows**2))
        return Validity.of("accuracy", value, (middle - half, middle + half), rows)

    @property
    def measurable(self) -> bool:
        """Whether the whole interval lies above chance, on enough rows."""
        return self.rows >= FEW_ROWS and self.low is not None and self.low > _CHANCE[self.measure]

    @property
    def words(self) -> str:
        """The figure with its interval, such as ``Spearman 0.42 (0.31 to 0.52)``; why there is none otherwise."""
        name = "Spearman" if self.measure == "spearman" else "accuracy"
        if self.value is None:
            return f"{name} undefined on {self.rows} held-out rows"
        ends = "" if self.low is None or self.high is None else f" ({self.low:.2f} to {self.high:.2f})"
        few = f" on only {self.rows} held-out rows" if self.rows < FEW_ROWS else ""
        return f"{name} {self.value:.2f}{ends}{few}"

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return asdict(self)


def validity_of(provenance: Mapping[str, Any]) -> dict[str, Validity]:
    """Return the validity of each objective that a model's provenance records; models of earlier releases have none.

    Args:
        provenance: provenance of a model. Entries of another form are left out: they explain a model, and a model
            that scores must not fail because of them.
    """
    found = provenance.get(VALIDITY)
    if not isinstance(found, Mapping):
        return {}
    read = {str(name): _read(entry) for name, entry in found.items()}
    return {name: validity for name, validity in read.items() if validity is not None}


def _read(entry: object) -> Validity | None:
    if not isinstance(entry, Mapping) or entry.get("measure") not in _CHANCE or not isinstance(entry.get("rows"), int):
        return None
    figures = [entry.get(key) for key in ("value", "low", "high")]
    if not all(x is None or (isinstance(x, (int, float)) and math.isfinite(x)) for x in figures):
        return None
    value, low, high = (None if x is None else float(x) for x in figures)
    return Validity(entry["measure"], value, low, high, entry["rows"])
