"""``facetrm report``: evaluations and runs as one page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from facetrm.core.errors import ConfigError
from facetrm.recipes.evaluation.gathered import gather_results
from facetrm.recipes.evaluation.run_files import METRICS
from facetrm.report.evaluated.build import report_json, write_evaluation_report


@final
@dataclass(frozen=True)
class Reported:
    """A finished report.

    Attributes:
        content: Content of ``report.json``.
        paths: The files.
    """

    content: dict[str, Any]
    paths: tuple[Path, ...]


def report_on(places: Sequence[Path], *, out: Path | None = None) -> Reported:
    """Write the report of evaluations and runs.

    Args:
        places: Folders that ``facetrm eval`` or ``facetrm run`` wrote, or files ``results.json``, ``metrics.json`` or
            ``audit.json`` of them.
        out: Folder of the report; None for the first of ``places``, which must then be a folder.

    Raises:
        ConfigError: There is no folder, or the report would replace that of a run.
        DataError: A place is none of these, or a file in it is broken.
    """
    if not places:
        raise ConfigError("no folder", place="report", fix="give a folder that 'facetrm eval' wrote")
    report = gather_results(places)
    place = places[0] if out is None else out
    if place.is_file():
        raise ConfigError(
            f"'{place}' is a file", place="--out", fix="give the folder of the report, such as --out report"
        )
    if (place / METRICS).exists():
        raise ConfigError(
            f"'{place}' has the report of its run, which would be replaced",
            place="--out",
            fix="give another folder, such as --out report",
        )
    return Reported(report_json(report), write_evaluation_report(report, place))
