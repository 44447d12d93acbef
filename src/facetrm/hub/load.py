"""Reward models in, whatever wrote them: the loader looks at what is there and never lets a tensor be made up.

manifest.json                                      a folder of facetrm (or of a run: its ``model`` folder)
architectures: [*ForRewardModelWithGating]         ArmoRM's layout, QRM's variant of it, our exports
architectures: [*ForSequenceClassification]        a trunk and one linear head: a scalar reward model
adapter_config.json                                a LoRA of PEFT and a linear head, on a base that lies here
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

from facetrm.backbone.checkpoint import name_on_hub
from facetrm.backbone.config import Mode
from facetrm.backbone.declared import check_files
from facetrm.backbone.encoder import Encoder
from facetrm.backbone.transformer import BackboneConfig, TransformerEncoder, load_encoder
from facetrm.core.config import parse_config
from facetrm.core.errors import ModelError
from facetrm.hub.checksums import check_checksums
from facetrm.hub.foreign import read_foreign
from facetrm.model.reward_model import RewardModel
from facetrm.model.store import MODEL_MANIFEST

_USELESS: Final = ["*.bin", "*.pt", "*.pth", "*.ckpt", "*.gguf", "*.onnx", "*.msgpack", "*.h5", "original/*"]


def load_model(
    folder: str | Path,
    *,
    device: str = "auto",
    mode: Mode | None = None,
    token_budget: int | None = None,
    revision: str | None = None,
    settings: Mapping[str, object] | None = None,
    trust_remote_code: bool = False,
) -> RewardModel:
    """Read a reward model: a folder of ours, ArmoRM's or QRM's checkpoint, or a scalar reward model of Transformers.

    Args:
        folder: the model's, or a run's (its ``model`` folder is taken), or ``hf://owner/name`` on the Hub.
        device: where the backbone computes: ``auto``, ``cpu``, ``cuda``.
        mode: ``exact`` (one conversation a pass) or ``fast``; None keeps what the model was fitted with.
        token_budget: tokens of one pass; None keeps what the model was fitted with.
        revision: a commit or branch on the Hub.
        settings: of the backbone, such as ``{"dtype": "bfloat16", "truncation": "drop_oldest"}``. One of ours is read
            as it was fitted, so only ``truncation`` and a smaller ``max_tokens`` may change; each score says so.
        trust_remote_code: let Python code that comes with the backbone run. Nothing in a folder can ask for it.

    Returns:
        The model; its scores are those of the model that was saved.

    Raises:
        ModelError: no model, a broken or changed one, or one with a tensor missing or unexpected.
        BackboneError: its backbone is not available.

    Example:
        >>> from tempfile import mkdtemp
        >>> from facetrm import load_model, toy_model
        >>> folder = mkdtemp() + "/model"
        >>> toy_model().save(folder, backbone="copy")
        >>> load_model(folder, device="cpu").hash == toy_model().hash
        True
    """
    place = local_folder(folder, revision=revision)
    check_files(place, ModelError)
    check_checksums(place)
    changes: dict[str, object] = {"device": device, **({} if mode is None else {"mode": mode})}
    if trust_remote_code:
        changes["trust_remote_code"] = True
    if token_budget is not None:
        changes["token_budget"] = token_budget
    if not (place / MODEL_MANIFEST).exists():
        return read_foreign(place, {**changes, **(settings or {})})
    other = next((key for key in settings or {} if key not in ("truncation", "max_tokens")), None)
    if other is not None:
        raise ModelError(
            f"the setting '{other}' cannot be changed: the model is read as it was fitted",
            place=place,
            fix="take it out, or fit the model with it (truncation and max_tokens can be changed)",
        )

    def make(spec: dict[str, object]) -> Encoder:
        config = parse_config(BackboneConfig, dict(spec), place=place / MODEL_MANIFEST)
        _check_backbone(config, place / MODEL_MANIFEST, trusted=trust_remote_code)
        return load_encoder(config.model_copy(update=changes))

    model = RewardModel.load(place, load_encoder=make)
    return _shortened(model, settings, place) if settings else model


def _shortened(model: RewardModel, settings: Mapping[str, object], place: Path) -> RewardModel:
    """Return one of our models, reading less of long conversations."""
    if not isinstance(model.encoder, TransformerEncoder):
        raise ModelError(f"a {type(model.encoder).__name__} has no limit of tokens", place=place, fix="take --set out")
    asked = parse_config(BackboneConfig, {"path": str(place), **settings}, place="--set")
    wanted = asked.model_dump(include=set(settings))
    routing = {} if model.fallback is None else model.fallback.to_dict()
    encoder = model.encoder.shortened(**wanted)
    return RewardModel(encoder, model.mixtures, model.router, **routing, provenance=model.provenance)


def local_folder(folder: str | Path, *, revision: str | None = None) -> Path:
    """Return the folder of a model that lies here, or is fetched from the Hub where ``hf://`` asks for it.

    Args:
        folder: a model's, a run's, or ``hf://owner/name``. A name without ``hf://`` is never looked up on the Hub.
        revision: a commit or branch on the Hub.

    Raises:
        ModelError: there is none.
    """
    name = str(folder)
    if (hub_name := name_on_hub(name)) is not None:
        return _fetched(hub_name, revision=revision)
    if name.startswith(("http:/", "https:/")):
        raise ModelError("an address of a server", place=folder, fix="only 'facetrm doctor' reads from a server")
    place = Path(folder).expanduser()
    if place.is_dir():
        inner = place / "model"
        return inner if (inner / MODEL_MANIFEST).exists() and not (place / MODEL_MANIFEST).exists() else place
    if place.is_file():
        raise ModelError("a file, not a model folder", place=place, fix="give the folder that holds manifest.json")
    on_hub = f", or hf://{name} for the model of this name on the Hub" if re.fullmatch(r"[\w.-]+/[\w.-]+", name) else ""
    raise ModelError("no such model folder", place=place, fix=f"give the folder that 'facetrm run' wrote{on_hub}")


def _fetched(name: str, *, revision: str | None) -> Path:
    try:
        return Path(snapshot_download(name, revision=revision, ignore_patterns=_USELESS))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as exc:
        reason = " ".join(str(exc).split())[:200]
        raise ModelError(
            f"not to be had from the Hub ({type(exc).__name__}: {reason})",
            place=f"hf://{name}",
            fix="check the name, the network and your access, or give a folder",
        ) from None


def _check_backbone(config: BackboneConfig, path: Path, *, trusted: bool) -> None:
    """Refuse what a manifest must not decide: code that runs, and weights that are not safetensors.

    Args:
        config: the encoder of the manifest.
        path: the manifest.
        trusted: whether the caller lets code run.

    Raises:
        ModelError: names the key.
    """
    if config.trust_remote_code and not trusted:
        raise ModelError(
            "'encoder.spec.trust_remote_code' is true: the backbone needs code that comes with it",
            place=path,
            fix="read that code, then give trust_remote_code=True (--trust-remote-code)",
        )
    folder = Path(config.path).expanduser()
    if folder.is_dir() and not any(folder.glob("*.safetensors")):
        raise ModelError("its backbone is not in safetensors", place=folder, fix="save the model again")
