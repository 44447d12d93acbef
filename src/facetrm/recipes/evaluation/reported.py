"""``facetrm report``: evaluations and runs as one page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from facetrm.core.errors import ConfigError
from facetrm.recipes.evaluation.gathered import METRICS, gather_results
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


def report_on(folders: Sequence[Path], *, out: Path | None = None) -> Reported:
    """Write the report of evaluations and runs.

    Args:
        folders: Folders that ``facetrm eval`` or ``facetrm run`` wrote.
        out: Folder of the report; None for the first of ``folders``.

    Raises:
        ConfigError: There is no folder, or the report would replace that of a run.
        DataError: A folder is neither, or a file in it is broken.
    """
    if not folders:
        raise ConfigError("no folder", place="report", fix="give a folder that 'facetrm eval' wrote")
    report = gather_results(folders)
    place = folders[0] if out is None else out
    if (place / METRICS).exists():
        raise ConfigError(
            f"'{place}' has the report of its run, which would be replaced",
            place="--out",
            fix="give another folder, such as --out report",
        )
    return Reported(report_json(report), write_evaluation_report(report, place))
