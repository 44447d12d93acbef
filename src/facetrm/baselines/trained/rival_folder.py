"""The folder of a rival: a manifest, and if it was trained a causal language model in Transformers' format.

FOLDER/
  rival.json        kind, settings, how conversations are read, and the hash of the scorer
  config.json ...   the language model, which Transformers loads by itself
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

from facetrm.backbone.config import BackboneConfig
from facetrm.backbone.declared import check_files
from facetrm.core.config import parse_config
from facetrm.core.errors import ModelError
from facetrm.core.files import read_json, write_json
from facetrm.model.door import RIVAL_MANIFEST

RivalKind = Literal["pairwise", "implicit", "ensemble", "direction", "length-calibration"]
_VERSION: Final = 1
_FREE: Final = ("path", "device", "mode", "token_budget", "compile", "trust_remote_code", "revision")


@dataclass(frozen=True)
class RivalManifest:
    """What the manifest of a rival's folder says.

    Attributes:
        kind: Kind of the rival.
        hash: Hash of the scorer that the folder holds.
        reading: Settings of the backbone that determine how conversations are read; empty without a backbone.
        settings: Settings of the scorer.
    """

    kind: RivalKind
    hash: str
    reading: dict[str, Any]
    settings: dict[str, Any]

    def backbone(self, folder: Path, *, device: str) -> BackboneConfig:
        """Return settings that load the language model.

        Args:
            folder: Folder of the rival.
            device: Device of the model.

        Raises:
            ModelError: The weights are not safetensors.
            ConfigError: The manifest has an unknown or wrong setting.
        """
        if not any(folder.glob("*.safetensors")):
            raise ModelError("the model is not stored as safetensors", place=folder, fix="run the recipe again")
        fixed = {"path": str(folder), "device": device, "template": None, "trust_remote_code": False}
        return parse_config(BackboneConfig, {**self.reading, **fixed}, place=folder / RIVAL_MANIFEST)


def write_manifest(
    folder: Path, kind: RivalKind, *, hash: str, backbone: BackboneConfig | None, settings: Mapping[str, Any]
) -> None:
    """Write the manifest of a rival into its folder.

    Args:
        folder: Folder of the rival, with its language model if it was trained.
        kind: Kind of the rival.
        hash: Hash of the scorer.
        backbone: Settings that read conversations from the folder; None if it holds no language model.
        settings: Settings of the scorer, JSON-ready.
    """
    read = {} if backbone is None else backbone.model_dump(mode="json")
    reading = {key: value for key, value in read.items() if key not in _FREE}
    found = RivalManifest(kind, hash, reading, dict(settings))
    write_json(folder / RIVAL_MANIFEST, {"facetrm_rival": _VERSION, **asdict(found)})


def rival_folder(folder: str | Path) -> Path:
    """Return the folder that holds the manifest: the folder itself, or the ``model`` folder of a run.

    Args:
        folder: Folder of a rival, or of the run that made it.

    Raises:
        ModelError: Neither holds a manifest.
    """
    place = Path(folder).expanduser()
    for found in (place, place / "model"):
        if (found / RIVAL_MANIFEST).is_file():
            return found
    raise ModelError(
        f"no file '{RIVAL_MANIFEST}'" if place.is_dir() else "no such folder",
        place=folder,
        fix="give the run folder of a recipe of a rival, such as 'pairwise'; facetrm.load_model loads reward models",
    )


def read_manifest(folder: Path) -> RivalManifest:
    """Read and check the manifest in ``folder``.

    Raises:
        ModelError: The manifest is missing or broken, or was written by another version.
    """
    path, fix = folder / RIVAL_MANIFEST, "run the recipe again"
    check_files(folder, ModelError)
    value = read_json(path, ModelError, fix=fix)
    if not isinstance(value, dict) or value.get("facetrm_rival") != _VERSION:
        raise ModelError("not a manifest of a rival that this version reads", place=path, fix=fix)
    if value.get("kind") not in get_args(RivalKind):
        raise ModelError(f"unknown kind {value.get('kind')!r}", place=path, fix=fix)
    if not all(isinstance(value.get(key), dict) for key in ("reading", "settings")):
        raise ModelError("'reading' or 'settings' is not a section", place=path, fix=fix)
    return RivalManifest(value["kind"], str(value.get("hash")), value["reading"], value["settings"])


def check_hash(manifest: RivalManifest, found: str, *, place: Path) -> None:
    """Check that a loaded scorer is the one that was saved.

    Args:
        manifest: Manifest of the folder.
        found: Hash of the loaded scorer.
        place: Folder of the rival.

    Raises:
        ModelError: The hashes differ.
    """
    if manifest.hash != found:
        raise ModelError(
            f"the hash is {found[:12]}..., but the manifest says {manifest.hash[:12]}...: the files were changed",
            place=place,
            fix="run the recipe again, or fetch the folder again",
        )
