"""Parts of a run report about a model with a router: the router on held-out prompts, and the experts of each task."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from facetrm.core.config import Section
from facetrm.core.statistics import Interval


class Accuracy(Section):
    """Share of pairs that a system orders correctly.

    Attributes:
        value: The accuracy, from 0 to 1.
        low: Lower end of its interval, if known.
        high: Upper end of its interval, if known.
        pairs: Number of pairs, if known.
    """

    value: float
    low: float | None = None
    high: float | None = None
    pairs: int | None = None

    @staticmethod
    def of(interval: Interval, *, pairs: int | None = None) -> Accuracy:
        """Return an accuracy with its bootstrap interval.

        Args:
            interval: Accuracy and the ends of its interval.
            pairs: Number of pairs, if known.
        """
        return Accuracy(value=interval.value, low=interval.low, high=interval.high, pairs=pairs)


class ReliabilityRow(Section):
    """The router's calibration in one bin of confidence.

    Attributes:
        low: Lower end of the bin, exclusive.
        high: Upper end of the bin, inclusive.
        rows: Number of held-out rows in the bin.
        confidence: Mean confidence of these rows; None if there are none.
        accuracy: Share of these rows that are routed correctly; None if there are none.
    """

    low: float
    high: float
    rows: int
    confidence: float | None = None
    accuracy: float | None = None


class CoverageRow(Section):
    """The router's accuracy above and below a threshold of confidence.

    Attributes:
        threshold: Threshold of confidence.
        coverage: Share of rows whose confidence is at least the threshold.
        accuracy: Accuracy on these rows; None if there are none.
        accuracy_below: Accuracy on the other rows; None if there are none.
    """

    threshold: float
    coverage: float
    accuracy: float | None = None
    accuracy_below: float | None = None


class RouterPart(Section):
    """The router on held-out prompts.

    Attributes:
        names: Names of the tasks.
        rows: Number of held-out rows.
        accuracy: Top-1 accuracy.
        majority: Accuracy of always choosing the most frequent task.
        linear: Accuracy of a linear router.
        confusion: Number of rows by true task (rows) and chosen task (columns).
        calibration_error: Expected calibration error at the fitted temperature.
        uncalibrated: Expected calibration error at temperature 1.
        temperature: Fitted temperature.
        reliability: Accuracy by bin of confidence.
        coverage: Coverage and accuracy by threshold of confidence.
        given: Number of training rows that name their task, by task.
        routed: Number of training rows whose task the router chose, by task.
        below: Number of routed training rows whose confidence is below the threshold, by task.
        threshold: Confidence below which the fall-back scores a row; 0 for no fall-back.
    """

    names: tuple[str, ...]
    rows: int
    accuracy: Accuracy
    majority: float
    linear: Accuracy
    confusion: tuple[tuple[int, ...], ...]
    calibration_error: float
    uncalibrated: float
    temperature: float
    reliability: tuple[ReliabilityRow, ...] = ()
    coverage: tuple[CoverageRow, ...] = ()
    given: Mapping[str, int] = Field(default_factory=dict)
    routed: Mapping[str, int] = Field(default_factory=dict)
    below: Mapping[str, int] = Field(default_factory=dict)
    threshold: float = 0.0


class CapabilityRow(Section):
    """One expert of a task's mixture.

    Attributes:
        task: Name of the task.
        name: Name of the expert.
        preferences: Number of preferences that it was trained on.
        held_out: Accuracy on held-out preferences about its capability, which also chose the state that was kept.
        start: Accuracy on the same preferences before training, with a linear head.
        loss: Loss on the same preferences after training, in nats per prompt.
        start_loss: Loss on the same preferences before training, in nats per prompt.
        steps: Number of optimiser steps.
        change: Relative change of the vectors by training.
        kept: Whether the trained adapter was kept; otherwise the expert is a linear head.
        agrees: Share of its task's test pairs that its rating orders as the overall label does; None without pairs.
        share: Share of the absolute contributions to margins within its task; None without pairs.
        true: Share of the task's test pairs that its rating orders as the true levels do; None outside the world.
        measurable: Whether its held-out accuracy is clearly above chance, on enough prompts; None if unknown.
    """

    task: str
    name: str
    preferences: int
    held_out: float
    start: float
    loss: float
    start_loss: float
    steps: int
    change: float
    kept: bool
    agrees: float | None = None
    share: float | None = None
    true: float | None = None
    measurable: bool | None = None
