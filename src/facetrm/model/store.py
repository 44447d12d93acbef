"""A model folder: ``manifest.json`` says what everything is, safetensors hold the numbers; no pickle anywhere.

    manifest.json          format, kind, hash, encoder, router, mixtures (objectives, gate, beta, edit), provenance, ...
    mixture-0.safetensors  experts and aggregator of the first task, and so on; its sha256 stands in the manifest
    router.safetensors     where there is a router; ``routing`` in the manifest names its fall-back, where there is one
    backbone/              where the backbone was copied
    config.json, tokenizer files: what AutoModelForSequenceClassification needs, where the backbone is a decoder

``hash`` names what the model computes and where it came from. It leaves out where the backbone lies and the versions of
libraries, so moving a folder does not rename the model.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from facetrm.backbone.encoder import Encoder
from facetrm.core.config import Section
from facetrm.core.errors import ModelError, short
from facetrm.core.files import is_leftover, read_json, why_unread, write_bytes, write_json
from facetrm.core.fingerprint import fingerprint
from facetrm.core.folders import link_tree, new_folder, restore_folder
from facetrm.core.progress import log
from facetrm.model.door import open_to_others
from facetrm.model.gate import Gate
from facetrm.model.mixture import Mixture
from facetrm.model.routing import Fallback

MODEL_FORMAT = 1
KIND = "facetrm-reward-model"
MODEL_MANIFEST = "manifest.json"
_PLACES = ("path", "adapter", "adapters")  # what a spec names that is copied with the backbone, one or some by name
_BACKBONE = "backbone"
# What an old model wrote and a new one does not need.
_OURS = re.compile(r"manifest\.json|config\.json|facetrm-checksums\.json|mixture-\d+\.safetensors|router\.safetensors")
_FETCH = "fetch or save the whole folder again"
_MOST_TASKS = 1_000


@runtime_checkable
class PortableEncoder(Protocol):
    """An encoder that can write its backbone to a folder; it returns the settings that load it from there."""

    def save_backbone(self, folder: Path) -> Section:
        """Write weights, tokenizer and template to ``folder``, which holds nothing yet."""


@dataclass(frozen=True)
class Described:
    """A model as it is written: the manifest, the bytes of each weight file, objectives and adapters of all tasks."""

    encoder: Encoder
    manifest: dict[str, Any]
    files: dict[str, bytes]
    objectives: tuple[str, ...]
    adapters: tuple[str, ...]


@dataclass(frozen=True)
class Saved:
    """A model as it was read, without its encoder."""

    manifest: dict[str, Any]
    mixtures: dict[str, Mixture] = field(default_factory=dict)
    router: Gate | None = None
    fallback: Fallback | None = None


def describe(
    encoder: Encoder,
    mixtures: Mapping[str, Mixture],
    router: Gate | None,
    *,
    fallback: Fallback | None,
    provenance: Mapping[str, Any],
) -> Described:
    """Return the manifest and the weight files of a model (see :class:`Described`); equal models give equal bytes."""
    files: dict[str, bytes] = {}

    def entry(name: str, state: tuple[dict[str, Tensor], dict[str, Any]]) -> dict[str, Any]:
        files[name] = save_tensors({key: state[0][key] for key in sorted(state[0])})
        return {"file": name, "sha256": hashlib.sha256(files[name]).hexdigest(), "spec": state[1]}

    manifest: dict[str, Any] = {
        "format": MODEL_FORMAT,
        "kind": KIND,
        "encoder": {
            "spec": encoder.spec(),
            "fingerprint": encoder.fingerprint,
            "template_hash": encoder.template_hash,
            "hidden_size": encoder.hidden_size,
            "backbone": "reference",
        },
        "router": None if router is None else entry("router.safetensors", router.state()),
        "mixtures": [
            {"task": task, **entry(f"mixture-{i}.safetensors", mixture.state())}
            for i, (task, mixture) in enumerate(mixtures.items())
        ],
        "provenance": dict(provenance),
        "versions": _versions(),
    }
    if fallback is not None:
        manifest["routing"] = fallback.to_dict()
    manifest["hash"] = model_hash(manifest)
    objectives = tuple(dict.fromkeys(name for mixture in mixtures.values() for name in mixture.names))
    adapters = tuple(dict.fromkeys(name for mixture in mixtures.values() for name in mixture.adapters))
    return Described(encoder, manifest, files, objectives, adapters)


def model_hash(manifest: Mapping[str, Any]) -> str:
    """Return the fingerprint of a manifest without its hash, the versions and the place of the backbone."""
    kept = {key: value for key, value in manifest.items() if key not in ("hash", "checksum", "versions")}
    encoder = {key: value for key, value in manifest["encoder"].items() if key not in ("spec", "backbone")}
    return fingerprint({**kept, "encoder": encoder})


def _checksum(manifest: Mapping[str, Any]) -> str:
    """Return the fingerprint of a whole manifest, except where the backbone lies."""
    encoder = dict(manifest["encoder"])
    if isinstance(encoder["spec"], dict):
        encoder["spec"] = {key: value for key, value in encoder["spec"].items() if key not in _PLACES}
    return fingerprint({**{key: value for key, value in manifest.items() if key != "checksum"}, "encoder": encoder})


def save(folder: Path, described: Described, *, backbone: Literal["copy", "reference"]) -> None:
    """Write a model folder; at every moment the old model is there whole, or the new one.

    What else lies in the folder, such as a model card, is kept.

    Args:
        folder: new, empty, or an earlier model folder, which is replaced.
        described: what to write.
        backbone: ``copy`` puts the backbone into the folder; ``reference`` writes down where it is.

    Raises:
        ModelError: the folder holds other things, or the encoder cannot be copied.
    """
    restore_folder(folder)
    held = () if not folder.is_dir() else tuple(path for path in folder.iterdir() if not is_leftover(path.name))
    if folder.is_file() or (held and not (folder / MODEL_MANIFEST).is_file()):
        raise ModelError("it exists and is no model folder", place=folder, fix="give a new or an empty folder")
    manifest = {**described.manifest, "encoder": {**described.manifest["encoder"], "backbone": backbone}}
    with new_folder(folder, ModelError, replace=True, last=MODEL_MANIFEST) as fresh:
        if backbone == "copy":
            manifest["encoder"]["spec"] = _copy_backbone(described.encoder, folder, fresh)
        for name, data in described.files.items():
            write_bytes(fresh / name, data)
        open_to_others(fresh, described.encoder, described.objectives, adapters=described.adapters)
        for path in held:
            if not _OURS.fullmatch(path.name) and not os.path.lexists(fresh / path.name):
                link_tree(path, fresh / path.name)
        write_json(fresh / MODEL_MANIFEST, {**manifest, "checksum": _checksum(manifest)})
    if backbone == "reference":
        _warn_of_places(folder, manifest["encoder"]["spec"])


def load(folder: Path) -> Saved:
    """Read everything but the encoder.

    Raises:
        ModelError: names what is missing, changed, malformed or of an unknown version.
    """
    restore_folder(folder)
    path = folder / MODEL_MANIFEST
    manifest = read_json(path, ModelError, fix="give a folder that RewardModel.save wrote")
    if not isinstance(manifest, dict) or manifest.get("kind") != KIND:
        kind = manifest.get("kind") if isinstance(manifest, dict) else type(manifest).__name__
        raise ModelError(f"kind is {kind!r}, not '{KIND}'", place=path, fix="give a folder that RewardModel.save wrote")
    if manifest.get("format") != MODEL_FORMAT:
        raise ModelError(
            f"format version {manifest.get('format')!r}, this release reads {MODEL_FORMAT}",
            place=path,
            fix="load it with the release of facetrm that wrote it" + _wrote(manifest),
        )
    try:
        if manifest["hash"] != model_hash(manifest):
            raise ModelError("hash does not fit the manifest: it was edited by hand", place=path, fix=_FETCH)
        _check_mixtures(manifest["mixtures"], path)
        mixtures = {
            item["task"]: Mixture.from_state(_read(folder, item), item["spec"]) for item in manifest["mixtures"]
        }
        router = manifest["router"]
        gate = None if router is None else Gate.from_state(_read(folder, router), router["spec"])
        fallback = Fallback.from_dict(manifest["routing"]) if "routing" in manifest else None
        manifest["encoder"]["spec"], manifest["encoder"]["fingerprint"]
        if manifest.get("checksum", _checksum(manifest)) != _checksum(manifest):
            raise ModelError("checksum does not fit the manifest: it was edited by hand", place=path, fix=_FETCH)
        if not isinstance(manifest["provenance"], dict):
            raise ModelError(f"provenance is {manifest['provenance']!r}", place=path, fix=_FETCH)
    except KeyError as exc:
        raise ModelError(f"key {exc} is missing", place=path, fix=_FETCH) from None
    except (TypeError, AttributeError, ValueError, OverflowError, RecursionError) as exc:
        raise ModelError(f"malformed ({exc})", place=path, fix=_FETCH) from None
    except ModelError as exc:
        if exc.place is not None and exc.place.startswith(str(folder)):
            raise
        place = folder if exc.place is None else f"{folder}, {exc.place}"
        raise ModelError(exc.problem, place=place, fix=exc.fix) from None
    return Saved(manifest, mixtures, gate, fallback)


def load_same_encoder(
    folder: Path, manifest: Mapping[str, Any], load_encoder: Callable[[dict[str, object]], Encoder]
) -> Encoder:
    """Make the encoder again and check that it is the one the model was fitted on.

    Args:
        folder: of the model, for a backbone that was copied into it.
        manifest: as :func:`load` read it.
        load_encoder: makes an encoder from its ``spec()``.

    Raises:
        ModelError: its fingerprint differs: other weights, template or settings.
    """
    saved, path = manifest["encoder"], folder / MODEL_MANIFEST
    spec, kept = saved["spec"], saved.get("backbone")
    if not isinstance(spec, dict):
        raise ModelError(f"the encoder's spec is {spec!r}", place=path, fix=_FETCH)
    if kept not in ("copy", "reference"):
        raise ModelError(f"the encoder's backbone is {kept!r}, not copy or reference", place=path, fix=_FETCH)
    spec = dict(spec)
    if kept == "copy":
        if not isinstance(spec.get("path"), str):
            raise ModelError(f"the backbone's path is {spec.get('path')!r}", place=path, fix=_FETCH)
        spec = _with_places(spec, lambda place: _inside(folder, place))
        if spec.get("template") not in (None, "plain"):
            raise ModelError("'encoder.spec.template' names a file", place=path, fix=_FETCH)
    encoder = load_encoder(spec)
    if encoder.fingerprint != saved["fingerprint"]:
        found, wanted = encoder.fingerprint[:12], str(saved["fingerprint"])[:12]
        raise ModelError(
            f"the encoder's fingerprint is {found}, the model was fitted on {wanted}",
            place=path,
            fix="restore the backbone's weights, chat template and settings, or fit the model again",
        )
    return encoder


def _warn_of_places(folder: Path, spec: Mapping[str, object]) -> None:
    """Say which absolute path of this machine a saved model refers to, and how to do without."""
    places: list[str] = []

    def look(place: str) -> str:
        places.append(place)
        return place

    _with_places(spec, look)
    absolute = next((place for place in places if os.path.isabs(place)), None)
    if absolute is not None:
        log(
            "the model refers to its backbone by a path of this machine",
            warning="another machine will not find it",
            path=absolute,
            fix=f"to share it: facetrm export {folder} --out DIR --self-contained",
        )


def _check_mixtures(entries: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Raise ModelError where two of the ``entries`` of a manifest are about one task or one file."""
    for key in ("task", "file"):
        names = [str(entry[key]) for entry in entries]
        twice = next((name for name in names if names.count(name) > 1), None) if len(names) <= _MOST_TASKS else names[0]
        if twice is not None:
            problem = f"{len(names)} mixtures, of which several have the {key} {short(twice)}"
            raise ModelError(problem, place=path, fix=_FETCH)


def _inside(folder: Path, place: str) -> str:
    """Return where a copied part of the backbone lies.

    Raises:
        ModelError: that is not below the model's folder.
    """
    found = (folder / place).resolve()
    if os.path.isabs(place) or not found.is_relative_to(folder.resolve()):
        raise ModelError(f"{short(place)} lies outside the folder", place=folder / MODEL_MANIFEST, fix=_FETCH)
    return str(folder / place)


def _read(folder: Path, entry: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors of a weight file whose bytes are those of the manifest."""
    path = folder / str(entry["file"])
    if path.parent != folder:
        raise ModelError(
            f"weight file '{entry['file']}' lies outside the folder", place=folder / MODEL_MANIFEST, fix=_FETCH
        )
    try:
        data = path.read_bytes()
    except OSError as exc:
        problem, fix = why_unread(exc, missing="is missing", fix=_FETCH)
        raise ModelError(f"weight file '{path.name}' {problem}", place=folder, fix=fix) from None
    digest = hashlib.sha256(data).hexdigest()
    if digest != entry["sha256"]:
        raise ModelError(
            f"sha256 is {digest[:12]}, the manifest says {str(entry['sha256'])[:12]}: the file was changed",
            place=path,
            fix=_FETCH,
        )
    try:
        return load_tensors(data)
    except SafetensorError as exc:
        raise ModelError(f"not safetensors ({exc})", place=path, fix=_FETCH) from None


def _held_fingerprint(path: Path) -> str | None:
    """Return the fingerprint of the encoder that an earlier manifest names, None without one that can be read."""
    try:
        value = read_json(path, ModelError, fix=_FETCH)
    except ModelError:
        return None
    encoder = value.get("encoder") if isinstance(value, dict) else None
    return str(encoder.get("fingerprint")) if isinstance(encoder, dict) else None


def _copy_backbone(encoder: Encoder, old: Path, fresh: Path) -> dict[str, object]:
    """Put the backbone into the model folder ``fresh``; return its spec, with paths inside the model.

    Where it lies in the ``old`` folder as it is, its files are the same ones.
    """
    spec, home = encoder.spec(), (old / _BACKBONE).resolve()
    lies_inside: list[bool] = []

    def look(place: str) -> str:
        lies_inside.append(Path(place).resolve().is_relative_to(home))
        return place

    _with_places(spec, look)
    same = encoder.fingerprint == _held_fingerprint(old / MODEL_MANIFEST)
    if lies_inside and all(lies_inside) and same and home.is_dir():
        link_tree(home, fresh / _BACKBONE)
    elif isinstance(encoder, PortableEncoder):
        spec, home = encoder.save_backbone(fresh / _BACKBONE).model_dump(mode="json"), (fresh / _BACKBONE).resolve()
    else:
        raise ModelError(
            f"the backbone of a {type(encoder).__name__} cannot be copied",
            place=old,
            fix="save with backbone='reference'",
        )
    return _with_places(spec, lambda place: str(Path(place).resolve().relative_to(home.parent)))


def _with_places(spec: Mapping[str, object], change: Callable[[str], str]) -> dict[str, object]:
    """Return the spec of an encoder with every place that it names changed."""
    changed: dict[str, object] = {}
    for key in _PLACES:
        found = spec.get(key)
        if isinstance(found, Mapping):
            changed[key] = {name: change(str(place)) for name, place in found.items()}
        elif isinstance(found, str):
            changed[key] = change(found)
    return {**spec, **changed}


def _versions() -> dict[str, str]:
    """Return the versions that wrote the folder."""
    try:
        own = version("facetrm")
    except PackageNotFoundError:
        own = "unknown"
    return {"facetrm": own, "torch": torch.__version__, "python": platform.python_version()}


def _wrote(manifest: Mapping[str, Any]) -> str:
    versions = manifest.get("versions")
    return f" ({versions['facetrm']})" if isinstance(versions, dict) and "facetrm" in versions else ""
