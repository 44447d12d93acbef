"""Check what a model says about weights that were converted from another format."""

from __future__ import annotations

from facetrm.backbone.gguf.origin import ORIGIN, origin_warnings
from facetrm.core.errors import ModelError
from facetrm.core.files import read_json
from facetrm.doctor.artefact import Artefact
from facetrm.doctor.findings import Finding
from facetrm.model.store import MODEL_MANIFEST


def check_origin(artefact: Artefact) -> list[Finding]:
    """Return a finding for each doubt that the conversion of the backbone left.

    Args:
        artefact: the files of the model; a facetrm folder keeps the doubts in its manifest, others in ``config.json``.
    """
    config = artefact.config
    if artefact.kind == "native":
        try:
            manifest = read_json(artefact.folder / MODEL_MANIFEST, ModelError, fix="fetch the folder again")
        except ModelError:
            return []  # the loader says so
        encoder = manifest.get("encoder") if isinstance(manifest, dict) else None
        config = {ORIGIN: encoder}
    return [
        Finding(
            "conversion",
            "warning",
            "the backbone was converted from a GGUF file, and something in it is doubtful",
            told,
            "the file does not say how its vocabulary or its positions are meant, or the conversion does not read it",
            "use the model's own safetensors folder, or compare its token ids with those of the original tokenizer",
        )
        for told in origin_warnings(config)
    ]
