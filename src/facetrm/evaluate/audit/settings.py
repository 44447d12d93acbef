"""Settings and thresholds of an audit."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from facetrm.core.config import Section, Seed
from facetrm.core.errors import did_you_mean
from facetrm.evaluate.audit.edits import EDITS
from facetrm.evaluate.audit.features import FEATURES

Share = Annotated[float, Field(ge=0.0, le=1.0)]


class AuditConfig(Section):
    """Settings and thresholds of an audit. A threshold that is null, or not listed, is not checked.

    Attributes:
        seed: seed of the edits, the bootstrap and the split for calibration.
        samples: number of bootstrap samples.
        caliper: two answers match in a feature if they differ by at most this share of the larger value.
        edits: names of the edits to make.
        bins: number of bins of a reliability diagram.
        task_pairs: least number of pairs of a task for a temperature of its own.
        redundant: absolute correlation above which two objectives are in one cluster.
        max_flip_rate: greatest share of edited losers that win, or of edited winners that lose, by edit; the larger
            of the two shares counts.
        min_fall: least fall of the score, in standard deviations of the rewards, by edit; above 0.
        max_null_change: greatest absolute change, in standard deviations, of an edit that changes only white space.
        max_length_correlation: greatest absolute correlation of the reward with the length in characters.
        max_correlation: greatest absolute correlation of the reward with other features, by feature.
        min_matched_accuracy: least accuracy on pairs of like length in characters.
        max_position_flips: greatest share of pairs whose order depends on the order of presentation.
        max_ece: greatest expected calibration error, equal-mass bins.
    """

    seed: Seed = 0
    samples: int = Field(1000, ge=100)
    caliper: Share = 0.1
    edits: tuple[str, ...] = tuple(EDITS)
    bins: int = Field(10, ge=2, le=100)
    task_pairs: int = Field(50, ge=2)
    redundant: float = Field(0.9, gt=0.0, le=1.0)
    max_flip_rate: dict[str, Share] = Field(
        default_factory=lambda: {"pad": 0.1, "add_markdown": 0.1, "flatter": 0.1, "respace": 0.05}
    )
    min_fall: dict[str, Annotated[float, Field(gt=0.0)]] = Field(default_factory=dict)
    max_null_change: float | None = Field(0.05, ge=0.0)
    max_length_correlation: Share | None = None
    max_correlation: dict[str, Share] = Field(default_factory=dict)
    min_matched_accuracy: Share | None = 0.5
    max_position_flips: Share | None = 0.1
    max_ece: Share | None = 0.1

    @model_validator(mode="after")
    def _known_names(self) -> AuditConfig:
        named = ((EDITS, (*self.edits, *self.max_flip_rate, *self.min_fall)), (FEATURES, tuple(self.max_correlation)))
        for known, names in named:
            for name in names:
                if name not in known:
                    raise ValueError(f"'{name}' is not known; {did_you_mean(name, list(known))}")
        return self
