"""Reward models in, whatever wrote them: the loader looks at what is there and never lets a tensor be made up.

manifest.json                                      a folder of facetrm (or of a run: its ``model`` folder)
architectures: [*ForRewardModelWithGating]         ArmoRM's layout, QRM's variant of it, our exports
architectures: [*ForSequenceClassification]        a trunk and one linear head: a scalar reward model
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

from facetrm.backbone.config import Mode
from facetrm.backbone.encoder import Encoder
from facetrm.backbone.transformer import BackboneConfig, TransformerEncoder, load_encoder
from facetrm.core.config import parse_config
from facetrm.core.errors import ModelError
from facetrm.core.files import read_json
from facetrm.core.folders import restore_folder
from facetrm.hub.classifier import read_classifier
from facetrm.hub.layout import GATED_ARCHITECTURE, read_layout
from facetrm.hub.published import check_gate_names, read_published
from facetrm.model.door import MODEL_TYPE
from facetrm.model.reward_model import RewardModel
from facetrm.model.store import MODEL_MANIFEST

CLASSIFIER: Final = "ForSequenceClassification"
_USELESS: Final = ["*.bin", "*.pt", "*.pth", "*.ckpt", "*.gguf", "*.onnx", "*.msgpack", "*.h5", "original/*"]


def load_model(
    folder: str | Path,
    *,
    device: str = "auto",
    mode: Mode | None = None,
    token_budget: int | None = None,
    revision: str | None = None,
    settings: Mapping[str, object] | None = None,
) -> RewardModel:
    """Read a reward model: a folder of ours, ArmoRM's or QRM's checkpoint, or a scalar reward model of Transformers.

    Args:
        folder: the model's, or a run's (its ``model`` folder is taken), or a name on the Hub.
        device: where the backbone computes: ``auto``, ``cpu``, ``cuda``.
        mode: ``exact`` (one conversation a pass) or ``fast``; None keeps what the model was fitted with.
        token_budget: tokens of one pass; None keeps what the model was fitted with.
        revision: a commit or branch on the Hub.
        settings: of the backbone, such as ``{"dtype": "bfloat16", "truncation": "drop_oldest"}``. One of ours is read
            as it was fitted, so only ``truncation`` and a smaller ``max_tokens`` may change; each score says so.

    Returns:
        The model; its scores are those of the model that was saved.

    Raises:
        ModelError: no model, a broken or changed one, or one with a tensor missing or unexpected.
        BackboneError: its backbone is not to be had.

    Example:
        >>> from tempfile import mkdtemp
        >>> from facetrm import load_model, toy_model
        >>> folder = mkdtemp() + "/model"
        >>> toy_model().save(folder, backbone="copy")
        >>> load_model(folder, device="cpu").hash == toy_model().hash
        True
    """
    place = local_folder(folder, revision=revision)
    changes: dict[str, object] = {"device": device, **({} if mode is None else {"mode": mode})}
    if token_budget is not None:
        changes["token_budget"] = token_budget
    if not (place / MODEL_MANIFEST).exists():
        return _load_foreign(place, {**changes, **(settings or {})})
    other = next((key for key in settings or {} if key not in ("truncation", "max_tokens")), None)
    if other is not None:
        raise ModelError(
            f"the setting '{other}' cannot be changed: the model is read as it was fitted",
            place=place,
            fix="take it out, or fit the model with it (truncation and max_tokens can be changed)",
        )

    def make(spec: dict[str, object]) -> Encoder:
        config = parse_config(BackboneConfig, dict(spec), place=place / MODEL_MANIFEST)
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
    """Return the folder of a model that lies here, or is fetched from the Hub.

    Args:
        folder: a model's, a run's, or a name on the Hub.
        revision: a commit or branch on the Hub.

    Raises:
        ModelError: there is none.
    """
    place = Path(folder).expanduser()
    if str(folder).startswith(("http:/", "https:/")):
        raise ModelError("an address of a server", place=folder, fix="only 'facetrm doctor' reads from a server")
    for kept in (place, place / "model"):
        restore_folder(kept)
    if place.is_dir():
        inner = place / "model"
        return inner if (inner / MODEL_MANIFEST).exists() and not (place / MODEL_MANIFEST).exists() else place
    name = str(folder)
    if place.is_file():
        raise ModelError("a file, not a model folder", place=place, fix="give the folder that holds manifest.json")
    if name.startswith((".", "~", "/")) or name.count("/") != 1:
        raise ModelError(
            "no such model folder", place=place, fix="give the folder that 'facetrm run' wrote, or a name on the Hub"
        )
    try:
        return Path(snapshot_download(name, revision=revision, ignore_patterns=_USELESS))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as exc:
        reason = " ".join(str(exc).split())[:200]
        raise ModelError(
            f"neither a folder nor to be had from the Hub ({type(exc).__name__}: {reason})",
            place=name,
            fix="give the folder that 'facetrm run' wrote, or check the name, the network and your access",
        ) from None


def _load_foreign(folder: Path, settings: dict[str, object]) -> RewardModel:
    path = folder / "config.json"
    value = read_json(path, ModelError, fix="fetch it again") if path.is_file() else None
    if value is None or (isinstance(value, dict) and value.get("model_type") == MODEL_TYPE):
        raise ModelError(
            f"no file '{MODEL_MANIFEST}'",
            place=folder,
            fix="give a folder that RewardModel.save or 'facetrm run' wrote, whole",
        )
    names = value.get("architectures") if isinstance(value, dict) else None
    architecture = str(names[0]) if isinstance(names, list) and names else "none"
    if not architecture.endswith((GATED_ARCHITECTURE, CLASSIFIER)):
        raise ModelError(
            f"architecture '{architecture}' is no reward model",
            place=path,
            fix=f"give a model whose architecture ends with {GATED_ARCHITECTURE} or {CLASSIFIER}; "
            "a language model is a backbone: fit heads on it with 'facetrm run'",
        )
    if (folder / "adapter_config.json").exists():
        raise ModelError("an adapter beside the weights", place=folder, fix="merge the adapter into its model first")
    gated = architecture.endswith(GATED_ARCHITECTURE)
    if gated:
        check_gate_names(folder)
    for key in ("path", "kind", "adapter"):
        if key in settings:
            raise ModelError(f"the setting '{key}' would read another model", place=folder, fix="take it out")
    if gated and "dtype" not in settings:
        layout = read_layout(folder)
        if layout.objectives is not None and layout.dtype in ("float32", "bfloat16", "float16"):
            settings = {**settings, "dtype": layout.dtype}  # one of ours: it scores as it did
    config = parse_config(BackboneConfig, {"path": str(folder), "kind": "decoder", **settings}, place=folder)
    encoder = load_encoder(config)
    return (read_published if gated else read_classifier)(folder, encoder)
