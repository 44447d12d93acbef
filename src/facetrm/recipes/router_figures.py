"""The router section of a report."""

from __future__ import annotations

from dataclasses import asdict

from facetrm.fit.router.assign import AssignmentCounts
from facetrm.fit.router.fit import RouterFit
from facetrm.report.task_parts import Accuracy, CoverageRow, ReliabilityRow, RouterPart


def router_part(fit: RouterFit | None, assigned: AssignmentCounts | None, *, threshold: float) -> RouterPart | None:
    """Return the router section of a report; None without a router.

    Args:
        fit: Fit of the router; None without a router.
        assigned: Number of training rows whose task was given or chosen by the router; None if none were routed.
        threshold: Confidence below which the fall-back scores a row; 0 for no fall-back.
    """
    if fit is None:
        return None
    report = fit.report
    return RouterPart(
        names=report.names,
        rows=report.rows,
        accuracy=Accuracy.of(report.accuracy),
        majority=report.majority,
        linear=Accuracy.of(fit.linear.accuracy),
        confusion=tuple(tuple(row) for row in report.confusion),
        calibration_error=report.calibration_error,
        uncalibrated=fit.uncalibrated["calibration_error"],
        temperature=fit.temperature,
        reliability=tuple(ReliabilityRow(**asdict(b)) for b in report.reliability),
        coverage=tuple(CoverageRow(**asdict(c)) for c in report.coverage),
        given={} if assigned is None else assigned.given,
        routed={} if assigned is None else assigned.routed,
        below={} if assigned is None else assigned.below,
        threshold=threshold,
    )
