"""The content of the report of evaluations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from facetrm.report.evaluated.audit_part import AuditPart
from facetrm.report.evaluated.measured import BenchmarkPart, CalibrationPart, RatedPart, RunPart


@final
@dataclass(frozen=True)
class EvaluationReport:
    """Content of the report.

    Attributes:
        models: Hash and kind of each model, by name.
        benchmarks: Models on benchmarks.
        runs: Training runs.
        made: Command, date, seed and samples of each evaluation.
        calibration: CalibrationPart by benchmark and model.
        rated: Models on files of ratings.
        audits: Audits of models.
        notes: What the reader should know about the merge.
    """

    models: Mapping[str, Mapping[str, Any]]
    benchmarks: tuple[BenchmarkPart, ...]
    runs: tuple[RunPart, ...]
    made: tuple[Mapping[str, Any], ...]
    calibration: Mapping[tuple[str, str], CalibrationPart]
    rated: tuple[RatedPart, ...] = ()
    audits: tuple[AuditPart, ...] = ()
    notes: tuple[str, ...] = ()
