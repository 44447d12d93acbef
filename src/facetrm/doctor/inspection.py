"""All checks of a model's files that need no scores."""

from __future__ import annotations

from facetrm.doctor.artefact import Artefact
from facetrm.doctor.findings import Finding
from facetrm.doctor.origin import check_origin
from facetrm.doctor.settings import check_settings
from facetrm.doctor.template import check_template
from facetrm.doctor.weights import check_weights


def inspect_files(artefact: Artefact) -> list[Finding]:
    """Check the files of a third-party model. Of a facetrm folder, only the origin: the loader checks it.

    Args:
        artefact: the files of the model.
    """
    if artefact.kind == "gguf":
        return []
    found = check_origin(artefact)
    if artefact.kind == "native":
        return found
    found += check_weights(artefact)
    if artefact.kind == "adapter":
        return found
    return [*found, *check_settings(artefact), *check_template(artefact)]
