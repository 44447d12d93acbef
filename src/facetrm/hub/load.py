"""Load reward models of all supported kinds. The loader never initialises a missing tensor at random.

manifest.json                                      a facetrm model folder (or the ``model`` folder of a run)
architectures: [*ForRewardModelWithGating]         ArmoRM's layout, QRM's variant of it, facetrm's exports
architectures: [*ForSequenceClassification]        a trunk and one linear head: a scalar reward model
adapter_config.json                                a PEFT LoRA and a linear head, on a base in a local folder
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
from facetrm.backbone.gguf.found import gguf_in
from facetrm.backbone.transformer import BackboneConfig, TransformerEncoder, load_encoder
from facetrm.core.config import parse_config
from facetrm.core.errors import ModelError
from facetrm.hub.checksums import check_checksums
from facetrm.hub.foreign import read_foreign
from facetrm.hub.shipped import shipped_models
from facetrm.model.door import CONFIG, holds_rival
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
    """Load a reward model: a facetrm folder, an ArmoRM or QRM checkpoint, or a scalar reward model of Transformers.

    Args:
        folder: a model folder, a run folder (its ``model`` folder is used), the name of a shipped model such as
            ``desk``, or ``hf://owner/name`` on the Hub.
        device: the device of the backbone: ``auto``, ``cpu`` or ``cuda``.
        mode: ``exact`` (one conversation per pass) or ``fast`` (packed); None keeps the saved mode.
        token_budget: the most tokens per forward pass; None keeps the saved value.
        revision: a commit or branch on the Hub.
        settings: settings of the backbone, such as ``{"dtype": "bfloat16", "truncation": "drop_oldest"}``. For a
            facetrm model only ``truncation`` and a smaller ``max_tokens`` may change, and each score reports it.
        trust_remote_code: whether to run Python code that comes with the backbone. A folder cannot turn this on itself.

    Returns:
        The model. Its scores equal those of the model that was saved.

    Raises:
        ModelError: the model does not exist, is broken or was changed, or has missing or unexpected tensors.
        BackboneError: the backbone is not available.

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
        _check_no_rival(place)
        return read_foreign(place, {**changes, **(settings or {})})
    other = next((key for key in settings or {} if key not in ("truncation", "max_tokens")), None)
    if other is not None:
        raise ModelError(
            f"the setting '{other}' cannot be changed after fitting",
            place=place,
            fix="remove it, or fit the model with it (truncation and max_tokens can be changed)",
        )

    def make(spec: dict[str, object]) -> Encoder:
        config = parse_config(BackboneConfig, dict(spec), place=place / MODEL_MANIFEST)
        _check_backbone(config, place / MODEL_MANIFEST, trusted=trust_remote_code)
        return load_encoder(config.model_copy(update=changes))

    model = RewardModel.load(place, load_encoder=make)
    return _shortened(model, settings, place) if settings else model


def _shortened(model: RewardModel, settings: Mapping[str, object], place: Path) -> RewardModel:
    """Return a facetrm model with other truncation settings."""
    if not isinstance(model.encoder, TransformerEncoder):
        raise ModelError(f"a {type(model.encoder).__name__} has no token limit", place=place, fix="remove --set")
    asked = parse_config(BackboneConfig, {"path": str(place), **settings}, place="--set")
    wanted = asked.model_dump(include=set(settings))
    routing = {} if model.fallback is None else model.fallback.to_dict()
    encoder = model.encoder.shortened(**wanted)
    return RewardModel(encoder, model.mixtures, model.router, **routing, provenance=model.provenance)


def local_folder(folder: str | Path, *, revision: str | None = None) -> Path:
    """Return the local folder of a model. A model named ``hf://owner/name`` is downloaded from the Hub.

    Args:
        folder: a model folder, a run folder, the name of a shipped model such as ``desk``, or ``hf://owner/name``.
            Other names are never looked up on the Hub.
        revision: a commit or branch on the Hub.

    Raises:
        ModelError: the folder does not exist, or the download failed.
    """
    name = str(folder)
    if (hub_name := name_on_hub(name)) is not None:
        return _fetched(hub_name, revision=revision)
    if name.startswith(("http:/", "https:/")):
        raise ModelError(
            "the address of a server, not a model folder",
            place=folder,
            fix="only 'facetrm doctor' and 'facetrm eval' read from a server",
        )
    place = Path(folder).expanduser()
    if place.is_dir():
        inner = place / "model"
        if any((place / name).exists() for name in (MODEL_MANIFEST, CONFIG)):
            return place
        return inner if any((inner / name).exists() for name in (MODEL_MANIFEST, CONFIG)) else place
    if place.is_file():
        raise ModelError("a file, not a model folder", place=place, fix="give the folder that holds manifest.json")
    if name in (known := shipped_models()):
        return known[name]
    on_hub = f", or hf://{name} for the model of this name on the Hub" if re.fullmatch(r"[\w.-]+/[\w.-]+", name) else ""
    raise ModelError("no such model folder", place=place, fix=f"give the folder that 'facetrm run' wrote{on_hub}")


def _fetched(name: str, *, revision: str | None) -> Path:
    try:
        return Path(snapshot_download(name, revision=revision, ignore_patterns=_USELESS))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as exc:
        reason = " ".join(str(exc).split())[:200]
        raise ModelError(
            f"cannot be downloaded from the Hub ({type(exc).__name__}: {reason})",
            place=f"hf://{name}",
            fix="check the name, the network and your access, or give a folder",
        ) from None


def _check_no_rival(place: Path) -> None:
    """Raise ModelError if a folder holds a rival that is fitted to other models, not a model."""
    if not (place / CONFIG).exists() and holds_rival(place):
        fix = "give it to 'facetrm eval', or to facetrm.baselines.load_rival in Python"
        raise ModelError("a rival that is made of other models, not a reward model", place=place, fix=fix)


def _check_backbone(config: BackboneConfig, path: Path, *, trusted: bool) -> None:
    """Refuse remote code that the caller has not allowed, and weights that are not safetensors.

    Args:
        config: the backbone settings in the manifest.
        path: the path of the manifest.
        trusted: whether the caller allows remote code.

    Raises:
        ModelError: the manifest asks for remote code, or the backbone is not in safetensors.
    """
    if config.trust_remote_code and not trusted:
        raise ModelError(
            "'encoder.spec.trust_remote_code' is true: the backbone needs Python code from its folder",
            place=path,
            fix="review that code, then give trust_remote_code=True (--trust-remote-code)",
        )
    folder = Path(config.path).expanduser()
    if folder.is_dir() and not any(folder.glob("*.safetensors")) and gguf_in(folder) is None:
        raise ModelError("the backbone is not stored as safetensors", place=folder, fix="save the model again")
