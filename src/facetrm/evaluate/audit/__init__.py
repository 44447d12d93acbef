"""Audits of a reward model: biases, counterfactual edits, calibration, and the use of its objectives."""

from typing import TYPE_CHECKING

from facetrm.core.lazy import lazy

__all__ = [
    "Audit",
    "AuditConfig",
    "audit",
    "without_debiasing",
]

if TYPE_CHECKING:
    from facetrm.evaluate.audit.settings import AuditConfig
    from facetrm.evaluate.audit.undebiased import without_debiasing
    from facetrm.evaluate.audit.whole import Audit, audit
else:
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "facetrm.evaluate.audit.settings": ["AuditConfig"],
            "facetrm.evaluate.audit.undebiased": ["without_debiasing"],
            "facetrm.evaluate.audit.whole": ["Audit", "audit"],
        },
    )
