"""The doctor checks a model's files, scores the same conversations in several ways, and reports what is wrong."""

from typing import TYPE_CHECKING

from facetrm.core.lazy import lazy

__all__ = [
    "Diagnosis",
    "Finding",
    "diagnose",
    "diagnose_server",
    "show_diagnosis",
]

if TYPE_CHECKING:
    from facetrm.doctor.diagnosis import diagnose, diagnose_server
    from facetrm.doctor.findings import Diagnosis, Finding
    from facetrm.doctor.terminal import show_diagnosis
else:
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "facetrm.doctor.diagnosis": ["diagnose", "diagnose_server"],
            "facetrm.doctor.findings": ["Diagnosis", "Finding"],
            "facetrm.doctor.terminal": ["show_diagnosis"],
        },
    )
