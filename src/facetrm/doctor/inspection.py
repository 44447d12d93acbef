"""Everything that the files of a model tell, without a score."""

from __future__ import annotations

from facetrm.doctor.artefact import Artefact
from facetrm.doctor.findings import Finding
from facetrm.doctor.settings import check_settings
from facetrm.doctor.template import check_template
from facetrm.doctor.weights import check_weights


def inspect_files(artefact: Artefact) -> list[Finding]:
    """Return what is wrong with a foreign folder; one of ours checks itself when it is loaded.

    Args:
        artefact: its files; of a GGUF file the loader says what it is.
    """
    if artefact.kind in ("native", "gguf"):
        return []
    found = [*check_weights(artefact)]
    if artefact.kind == "adapter":
        return found
    return [*found, *check_settings(artefact), *check_template(artefact)]
