"""Changes to the files of a model, and what the doctor finds in them without a score."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from facetrm.doctor.artefact import read_artefact
from facetrm.doctor.findings import Finding
from facetrm.doctor.inspection import inspect_files

WEIGHTS = "model.safetensors"


def found(folder: Path) -> dict[str, Finding]:
    """Return the findings of the files of ``folder``, by code."""
    return {finding.code: finding for finding in inspect_files(read_artefact(str(folder)))}


def config(folder: Path, name: str = "config.json", **changes: object) -> None:
    """Change entries of a JSON file of ``folder``; None takes one out."""
    path = folder / name
    value = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in value.items() if v is not None}))


def weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Change the tensors of ``folder`` in place."""
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
