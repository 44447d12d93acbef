"""Save and load model folders: ``manifest.json`` describes the model, safetensors files hold its tensors. No pickle.

    manifest.json          format, kind, hash, encoder, router, mixtures (objectives, gate, beta, edit), provenance, ...
    mixture-0.safetensors  experts, aggregator and maybe uncertainty of the first task, and so on; the manifest holds
                           the file's sha256
    router.safetensors     the router, if there is one; ``routing`` in the manifest holds the fallback, if there is one
    backbone/              the backbone, if it was copied
    config.json, tokenizer files: for AutoModelForSequenceClassification, if the backbone is a decoder

``hash`` identifies what the model computes and its provenance. It does not include the backbone's location or the
versions of libraries, so moving a folder does not change the hash.
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

from facetrm.backbone.encoder import Encoder, encoder_warnings
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

MODEL_FORMAT, LAYERS_FORMAT = 1, 2  # the second for experts that read inner layers, which earlier releases would ignore
KIND = "facetrm-reward-model"
MODEL_MANIFEST = "manifest.json"
_PLACES = ("path", "adapter", "adapters")  # paths in a spec; all are copied with the backbone
_BACKBONE = "backbone"
# Files of an earlier model that are not kept when a new model replaces it.
_OURS = re.compile(r"manifest\.json|config\.json|facetrm-checksums\.json|mixture-\d+\.safetensors|router\.safetensors")
_FETCH = "fetch or save the whole folder again"
_MOST_TASKS = 1_000


@runtime_checkable
class PortableEncoder(Protocol):
    """An encoder that can write its backbone to a folder."""

    def save_backbone(self, folder: Path) -> Section:
        """Write weights, tokenizer and template to an empty ``folder``; return the settings that load them from it."""


@dataclass(frozen=True)
class Described:
    """A model in the form in which it is written.

    Attributes:
        encoder: the encoder of the model.
        manifest: the content of ``manifest.json`` without its checksum.
        files: the content of each weight file, by file name.
        objectives: the names of the objectives of all tasks, each once.
        adapters: the names of the adapters of all experts, each once.
    """

    encoder: Encoder
    manifest: dict[str, Any]
    files: dict[str, bytes]
    objectives: tuple[str, ...]
    adapters: tuple[str, ...]


@dataclass(frozen=True)
class Saved:
    """A loaded model without its encoder.

    Attributes:
        manifest: the content of ``manifest.json``.
        mixtures: the mixture of each task, by task name.
        router: the gate over the tasks; None if there is only one task.
        fallback: the task for rows where the router is unsure; None for no fallback.
    """

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
    """Return the manifest and the weight files of a model. Equal models give equal bytes.

    Args:
        encoder: the encoder of the model.
        mixtures: the mixture of each task, by task name.
        router: the gate over the tasks; None if there is only one task.
        fallback: the task for rows where the router is unsure; None for no fallback.
        provenance: JSON-ready facts about how the model was made.
    """
    files: dict[str, bytes] = {}

    def entry(name: str, state: tuple[dict[str, Tensor], dict[str, Any]]) -> dict[str, Any]:
        files[name] = save_tensors({key: state[0][key] for key in sorted(state[0])})
        return {"file": name, "sha256": hashlib.sha256(files[name]).hexdigest(), "spec": state[1]}

    manifest: dict[str, Any] = {
        "format": LAYERS_FORMAT if any(mixture.layers for mixture in mixtures.values()) else MODEL_FORMAT,
        "kind": KIND,
        "encoder": {
            "spec": encoder.spec(),
            "fingerprint": encoder.fingerprint,
            "template_hash": encoder.template_hash,
            "hidden_size": encoder.hidden_size,
            "backbone": "reference",
            **({"warnings": list(told)} if (told := encoder_warnings(encoder)) else {}),
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
    """Return the fingerprint of a manifest without its hash, its versions and the location of the backbone."""
    kept = {key: value for key, value in manifest.items() if key not in ("hash", "checksum", "versions")}
    encoder = {key: value for key, value in manifest["encoder"].items() if key not in ("spec", "backbone")}
    return fingerprint({**kept, "encoder": encoder})


def _checksum(manifest: Mapping[str, Any]) -> str:
    """Return the fingerprint of a whole manifest, except the location of the backbone."""
    encoder = dict(manifest["encoder"])
    if isinstance(encoder["spec"], dict):
        encoder["spec"] = {key: value for key, value in encoder["spec"].items() if key not in _PLACES}
    return fingerprint({**{key: value for key, value in manifest.items() if key != "checksum"}, "encoder": encoder})


def save(folder: Path, described: Described, *, backbone: Literal["copy", "reference"]) -> None:
    """Write a model folder. At any moment, the folder holds either the complete old model or the complete new one.

    Other files in the folder, such as a model card, are kept.

    Args:
        folder: a new or empty folder, or an earlier model folder, which is replaced.
        described: the model to write.
        backbone: ``copy`` copies the backbone into the folder; ``reference`` stores only its path.

    Raises:
        ModelError: the folder is not empty and not a model folder, or the backbone cannot be copied.
    """
    restore_folder(folder)
    held = () if not folder.is_dir() else tuple(path for path in folder.iterdir() if not is_leftover(path.name))
    if folder.is_file() or (held and not (folder / MODEL_MANIFEST).is_file()):
        raise ModelError("already exists and is not a model folder", place=folder, fix="give a new or an empty folder")
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
    """Load a model folder, except the encoder.

    Raises:
        ModelError: a file or an entry is missing, changed, malformed or of an unknown version.
    """
    restore_folder(folder)
    path = folder / MODEL_MANIFEST
    manifest = read_json(path, ModelError, fix="give a folder that RewardModel.save wrote")
    if not isinstance(manifest, dict) or manifest.get("kind") != KIND:
        kind = manifest.get("kind") if isinstance(manifest, dict) else type(manifest).__name__
        raise ModelError(f"kind is {kind!r}, not '{KIND}'", place=path, fix="give a folder that RewardModel.save wrote")
    if manifest.get("format") not in (MODEL_FORMAT, LAYERS_FORMAT):
        raise ModelError(
            f"the format version is {manifest.get('format')!r}, but this release reads 1 and {LAYERS_FORMAT}",
            place=path,
            fix="load it with the release of facetrm that wrote it" + _wrote(manifest),
        )
    try:
        if manifest["hash"] != model_hash(manifest):
            raise ModelError("the manifest does not match its hash: it was edited by hand", place=path, fix=_FETCH)
        _check_mixtures(manifest["mixtures"], path)
        mixtures = {
            item["task"]: Mixture.from_state(_read(folder, item), item["spec"]) for item in manifest["mixtures"]
        }
        router = manifest["router"]
        gate = None if router is None else Gate.from_state(_read(folder, router), router["spec"])
        fallback = Fallback.from_dict(manifest["routing"]) if "routing" in manifest else None
        manifest["encoder"]["spec"], manifest["encoder"]["fingerprint"]
        if manifest.get("checksum", _checksum(manifest)) != _checksum(manifest):
            raise ModelError("the manifest does not match its checksum: it was edited by hand", place=path, fix=_FETCH)
        if not isinstance(manifest["provenance"], dict):
            raise ModelError(f"the provenance is {manifest['provenance']!r}", place=path, fix=_FETCH)
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
    """Load the encoder and check that it is the one that the model was fitted on.

    Args:
        folder: the model folder, which may hold a copy of the backbone.
        manifest: the manifest, as :func:`load` returned it.
        load_encoder: builds an encoder from its ``spec()``.

    Raises:
        ModelError: the weights, template or settings of the encoder differ, or its spec is malformed.
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
            f"the encoder's fingerprint is {found}, but the model was fitted on {wanted}",
            place=path,
            fix="restore the backbone's weights, chat template and settings, or fit the model again",
        )
    return encoder


def _warn_of_places(folder: Path, spec: Mapping[str, object]) -> None:
    """Log a warning if a saved model refers to its backbone by an absolute path."""
    places: list[str] = []

    def look(place: str) -> str:
        places.append(place)
        return place

    _with_places(spec, look)
    absolute = next((place for place in places if os.path.isabs(place)), None)
    if absolute is not None:
        log(
            "the model refers to its backbone by a path on this machine",
            warning="another machine will not find it",
            path=absolute,
            fix=f"to share it: facetrm export {folder} --out DIR --self-contained",
        )


def _check_mixtures(entries: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Raise ModelError if two mixtures in a manifest have the same task or the same file."""
    for key in ("task", "file"):
        names = [str(entry[key]) for entry in entries]
        twice = next((name for name in names if names.count(name) > 1), None) if len(names) <= _MOST_TASKS else names[0]
        if twice is not None:
            problem = f"several of the {len(names)} mixtures have the {key} {short(twice)}"
            raise ModelError(problem, place=path, fix=_FETCH)


def _inside(folder: Path, place: str) -> str:
    """Return the path of a copied part of the backbone; raise ModelError if it is outside the model folder."""
    found = (folder / place).resolve()
    if os.path.isabs(place) or not found.is_relative_to(folder.resolve()):
        raise ModelError(f"{short(place)} is outside the folder", place=folder / MODEL_MANIFEST, fix=_FETCH)
    return str(folder / place)


def _read(folder: Path, entry: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors of a weight file after checking its sha256 against the manifest."""
    path = folder / str(entry["file"])
    if path.parent != folder:
        raise ModelError(
            f"weight file '{entry['file']}' is outside the folder", place=folder / MODEL_MANIFEST, fix=_FETCH
        )
    try:
        data = path.read_bytes()
    except OSError as exc:
        problem, fix = why_unread(exc, missing="is missing", fix=_FETCH)
        raise ModelError(f"weight file '{path.name}' {problem}", place=folder, fix=fix) from None
    digest = hashlib.sha256(data).hexdigest()
    if digest != entry["sha256"]:
        raise ModelError(
            f"the sha256 is {digest[:12]}, but the manifest says {str(entry['sha256'])[:12]}: the file was changed",
            place=path,
            fix=_FETCH,
        )
    try:
        return load_tensors(data)
    except SafetensorError as exc:
        raise ModelError(f"not a safetensors file ({exc})", place=path, fix=_FETCH) from None


def _held_fingerprint(path: Path) -> str | None:
    """Return the encoder's fingerprint in an earlier manifest; None if there is no readable one."""
    try:
        value = read_json(path, ModelError, fix=_FETCH)
    except ModelError:
        return None
    encoder = value.get("encoder") if isinstance(value, dict) else None
    return str(encoder.get("fingerprint")) if isinstance(encoder, dict) else None


def _copy_backbone(encoder: Encoder, old: Path, fresh: Path) -> dict[str, object]:
    """Copy the backbone into the model folder ``fresh``; return its spec with paths relative to that folder.

    If the ``old`` folder already holds this backbone, its files are linked instead of copied.
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
    """Return an encoder's spec with ``change`` applied to each of its paths."""
    changed: dict[str, object] = {}
    for key in _PLACES:
        found = spec.get(key)
        if isinstance(found, Mapping):
            changed[key] = {name: change(str(place)) for name, place in found.items()}
        elif isinstance(found, str):
            changed[key] = change(found)
    return {**spec, **changed}


def _versions() -> dict[str, str]:
    """Return the versions of facetrm, PyTorch and Python."""
    try:
        own = version("facetrm")
    except PackageNotFoundError:
        own = "unknown"
    return {"facetrm": own, "torch": torch.__version__, "python": platform.python_version()}


def _wrote(manifest: Mapping[str, Any]) -> str:
    versions = manifest.get("versions")
    return f" ({versions['facetrm']})" if isinstance(versions, dict) and "facetrm" in versions else ""
