"""HTML pages: an explanation of one answer or pair, of a whole model, and the report of a run."""

from typing import TYPE_CHECKING

from facetrm.core.lazy import lazy

__all__ = [
    "RunReport",
    "build_report",
    "render_page",
    "render_report",
    "write_page",
    "write_whole_page",
]

if TYPE_CHECKING:
    from facetrm.report.build import build_report, render_report
    from facetrm.report.page import render_page, write_page
    from facetrm.report.run_report import RunReport
    from facetrm.report.whole import write_whole_page
else:
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "facetrm.report.build": ["build_report", "render_report"],
            "facetrm.report.page": ["render_page", "write_page"],
            "facetrm.report.run_report": ["RunReport"],
            "facetrm.report.whole": ["write_whole_page"],
        },
    )
