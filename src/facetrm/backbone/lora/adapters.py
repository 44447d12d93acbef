"""LoRA adapters on a trunk: made, read with checks, written and merged, in PEFT's own files.

    y = W x + scale * B A x        A [R, inputs], B [outputs, R], scale = alpha / R (or alpha / sqrt(R) under rslora)

PEFT's layers take the place of the trunk's linear layers, and the trunk stays the Transformers model that it was; so
everything that reads a bare trunk (packing included) reads one with an adapter. An adapter has a name, and a trunk
may hold several. The tensors of an adapter are float32 whatever the trunk's type.

Reference: Hu et al., LoRA (arXiv 2106.09685).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import torch
from pydantic import Field, field_validator
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor
from transformers import PreTrainedModel

from facetrm.backbone.checkpoint import quiet_transformers
from facetrm.backbone.exclusive import exclusive, making
from facetrm.backbone.lora.layers import is_layers, layer_list, linear_names, peft_layers
from facetrm.backbone.lora.names import TRUNK_ADAPTER, bare_name, belongs_to, name_problem, without_adapter
from facetrm.backbone.lora.patterns import check_patterns, for_trunk, refuse_variants
from facetrm.backbone.lora.switching import adapter_names, named_adapters, tuned_layers
from facetrm.core.config import Section
from facetrm.core.errors import BackboneError
from facetrm.core.files import read_json, write_bytes, write_json
from facetrm.core.folders import new_folder

if TYPE_CHECKING:
    from peft import PeftConfig
    from peft.tuners.tuners_utils import BaseTunerLayer

ADAPTER_FOLDER, NAMED_FOLDER = "adapter", "adapters"
CONFIG_FILE, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PEFT_PREFIX: Final = "base_model.model."
# These keys do not change what an adapter computes, or its tensors and scales already tell them.
_TOLD: Final = frozenset(
    """alpha_pattern auto_mapping base_model_name_or_path exclude_modules inference_mode init_lora_weights
    layers_to_transform lora_alpha lora_dropout peft_version r rank_pattern revision target_modules task_type
    use_rslora layers_pattern""".split()  # noqa: SIM905
)


class LoraSettings(Section):
    """The size and place of a new adapter.

    Attributes:
        rank: R.
        alpha: numerator of the scale alpha / R.
        dropout: of the adapter's input, in training only.
        targets: ``all-linear``, or the last names of the layers that get one, such as ``q_proj``.
        rslora: scale by alpha / sqrt(R).
        layers: which layers get one: ``all`` (as if left out), ``last 8``, or ``8-15``, counted from 0. What K adapters
            leave alone at the bottom is computed once for all of them.

    Example:
        >>> from facetrm import LoraSettings
        >>> assert LoraSettings(rank=8).rank == 8
    """

    rank: int = Field(default=16, ge=1)
    alpha: float = Field(default=32.0, gt=0.0)
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    targets: str | tuple[str, ...] = "all-linear"
    rslora: bool = False
    layers: str | None = None

    @field_validator("layers")
    @classmethod
    def _known_layers(cls, layers: str | None) -> str | None:
        if layers is not None and not is_layers(layers):
            raise ValueError(f"'{layers}' names no layers: write all, last 8, or 8-15")
        return layers


@exclusive
def add_adapter(trunk: PreTrainedModel, settings: LoraSettings, *, seed: int, name: str = TRUNK_ADAPTER) -> None:
    """Put a new adapter into ``trunk``; until it is trained the trunk computes what it did (B starts at zero).

    Args:
        trunk: changed in place; its own tensors are frozen.
        settings: the size of the adapter and the layers that get it.
        seed: seeds the adapter's initial weights.
        name: the adapter's name.

    Raises:
        BackboneError: no layer of the trunk is named like the targets, it has not the layers that are asked, there is
            an adapter of this name, or the name will not do.
    """
    from peft import LoraConfig  # PEFT takes seconds to load, and scoring without an adapter needs none of it

    targets = settings.targets if isinstance(settings.targets, str) else list(settings.targets)
    if isinstance(targets, str) and targets != "all-linear":
        targets = [targets]
    chosen = peft_layers(trunk, settings.layers)
    if chosen and targets == "all-linear":  # which PEFT does not join with a choice of layers
        targets = linear_names(trunk)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # PEFT says int and divides
        lora_dropout=settings.dropout,
        target_modules=targets,
        use_rslora=settings.rslora,
        exclude_modules=["pooler.dense"] if hasattr(trunk, "pooler") else None,  # what no feature passes through
        base_model_name_or_path=str(trunk.config._name_or_path or "") or None,
        **chosen,
    )
    with making, torch.random.fork_rng():
        torch.manual_seed(seed)
        _inject(trunk, config, name, place="lora.targets")


@exclusive
def load_adapter(trunk: PreTrainedModel, folder: str | Path, *, name: str = TRUNK_ADAPTER) -> None:
    """Read the adapter in ``folder`` into ``trunk``, checked: nothing stays at its random start.

    Args:
        trunk: changed in place.
        folder: as PEFT writes it.
        name: of the adapter in this trunk.

    Raises:
        BackboneError: no such folder, not a LoRA adapter, made for a trunk of another size, or a tensor that is
            missing, unknown or not finite; it names the tensor.
    """
    from peft import LoraConfig, PeftConfig

    folder = Path(folder).expanduser()
    fix = "give a folder with adapter_config.json and adapter_model.safetensors, as PEFT writes it"
    if not folder.is_dir():
        raise BackboneError("no such adapter folder", place=folder, fix=fix)
    raw = read_json(folder / CONFIG_FILE, BackboneError, fix=fix)
    kind = raw.get("peft_type") if isinstance(raw, dict) else None
    if kind != "LORA":
        raise BackboneError(f"an adapter of kind {kind!r}, not LORA", place=folder / CONFIG_FILE, fix="give a LoRA")
    try:
        config = PeftConfig.from_pretrained(str(folder))
        found = load_tensors((folder / ADAPTER_WEIGHTS).read_bytes())
    except FileNotFoundError:
        raise BackboneError(f"no file '{ADAPTER_WEIGHTS}'", place=folder, fix=fix) from None
    except (SafetensorError, TypeError, ValueError) as exc:
        raise BackboneError(f"cannot be read ({' '.join(str(exc).split())[:200]})", place=folder, fix=fix) from None
    config.inference_mode = True
    saved = getattr(config, "modules_to_save", None) or ()
    cast(Any, config).modules_to_save = None  # a head is none of the trunk's; what else was saved is refused below
    refuse_variants(config, folder)
    patterns = [for_trunk(trunk, config, key) for key in ("alpha_pattern", "rank_pattern")]
    layers = layer_list(trunk)
    some = isinstance(config, LoraConfig) and config.layers_to_transform is not None
    if some and layers and not config.layers_pattern:
        # PEFT looks for the number behind a dot and a word, and the path may begin with that word here.
        config.layers_pattern = layers[0].split(".")[-1]
    found = {_trunk_key(trunk, key): tensor for key, tensor in found.items()}
    heads = {name for name in saved if name not in dict(trunk.named_children())}
    found = {key: tensor for key, tensor in found.items() if key.split(".")[0] not in heads or "lora_" in key}
    _inject(trunk, config, name, place=folder)
    try:
        check_patterns(trunk, name, [key for pattern in patterns for key in pattern], folder)
        _check_scales(trunk, name, folder)
        _fill(trunk, found, name, folder=folder, made_for=config.base_model_name_or_path)
    except BackboneError:
        remove_adapter(trunk, name=name)
        raise


def _check_scales(trunk: PreTrainedModel, name: str, folder: Path) -> None:
    for path, scale in adapter_settings(trunk, [name])[name]["scales"].items():
        if not math.isfinite(scale):
            raise BackboneError(
                f"the scale of '{path}' is {scale}", place=folder / CONFIG_FILE, fix="write lora_alpha and r as numbers"
            )


def _fill(
    trunk: PreTrainedModel, found: Mapping[str, Tensor], name: str, *, folder: Path, made_for: str | None
) -> None:
    """Copy ``found`` into the adapter ``name``, which must have just these tensors."""
    wanted = adapter_tensors(trunk, name=name)
    _refuse("missing from the adapter", wanted.keys() - found.keys(), folder)
    _refuse("in the adapter and not in the trunk's layers", found.keys() - wanted.keys(), folder)
    for key, tensor in sorted(found.items()):
        if tensor.shape != wanted[key].shape:
            raise BackboneError(
                f"tensor '{key}' has shape {list(tensor.shape)}, and this trunk asks for {list(wanted[key].shape)}",
                place=folder,
                fix=f"give the trunk that the adapter was trained on ({made_for or 'unknown'})",
            )
        if not bool(torch.isfinite(tensor).all()):
            raise BackboneError(f"tensor '{key}' is not finite", place=folder, fix="train or fetch the adapter again")
        wanted[key].data.copy_(tensor)


@exclusive
def remove_adapter(trunk: PreTrainedModel, *, name: str) -> None:
    """Take the adapter ``name`` out of ``trunk``; without any, the trunk is the bare one again.

    Raises:
        BackboneError: there is none.
    """
    if name not in adapter_names(trunk):
        raise BackboneError(f"no adapter '{name}'", fix=f"name one of {', '.join(adapter_names(trunk)) or 'none'}")
    for path, layer in list(tuned_layers(trunk)):
        layer._active_adapter = [TRUNK_ADAPTER]
        layer.delete_adapter(name)
        if not layer._get_available_adapters():
            _unwrap(trunk, path, layer)
    cast(Any, trunk).peft_config.pop(name)
    if not adapter_names(trunk):
        vars(trunk).pop("peft_config")


@exclusive
def adapter_tensors(trunk: PreTrainedModel, *, name: str = TRUNK_ADAPTER) -> dict[str, Tensor]:
    """Return the tensors of the adapter ``name``, by their names in ``trunk`` without it: they are its own, no copies.

    Such as ``layers.0.self_attn.q_proj.lora_A.weight``.
    """
    return {without_adapter(key, name): tensor for key, tensor in trunk.state_dict().items() if belongs_to(key, name)}


@exclusive
def adapter_settings(trunk: PreTrainedModel, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return what the adapters ``names`` of ``trunk`` compute with beside their tensors, by name.

    That is the scale of each layer, and every setting of a variant of LoRA that is not PEFT's default.
    """
    if not names:
        return {}
    from peft import LoraConfig
    from peft.tuners.lora import LoraLayer

    usual = cast(Any, LoraConfig()).to_dict()
    found: dict[str, dict[str, Any]] = {}
    for name in names:
        layers = {path: m for path, m in trunk.named_modules() if isinstance(m, LoraLayer) and name in m.scaling}
        known = _settings(trunk, name)
        found[name] = {
            "scales": {path: float(layer.scaling[name]) for path, layer in layers.items()},
            "variant": {k: _plain(v) for k, v in known.items() if k not in _TOLD and v != usual.get(k)},
        }
    return found


def base_tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the ``state`` (a state dict) of a trunk without its adapters, under the names of the bare trunk."""
    return {bare_name(key): t for key, t in state.items() if "lora_" not in key}


@exclusive
def trunk_tensors(trunk: PreTrainedModel) -> dict[str, Tensor]:
    """Return the tensors of ``trunk`` and of its own adapter, by the names that they have without named adapters."""
    named = named_adapters(trunk)
    if not named:
        return trunk.state_dict()
    wrapped = [
        f"{path}." for path, layer in tuned_layers(trunk) if TRUNK_ADAPTER not in layer._get_available_adapters()
    ]
    kept = {key: t for key, t in trunk.state_dict().items() if not any(belongs_to(key, name) for name in named)}
    return {bare_name(key) if any(key.startswith(path) for path in wrapped) else key: t for key, t in kept.items()}


@exclusive
def save_adapter(
    trunk: PreTrainedModel, folder: Path, *, name: str = TRUNK_ADAPTER, beside: bool = False, replace: bool = False
) -> None:
    """Write the adapter ``name`` of ``trunk`` to ``folder``, whole or not at all, in PEFT's format.

    Args:
        trunk: that holds it.
        folder: where to: new or empty.
        name: of the adapter.
        beside: the trunk is written as it stands too, so that a start which changes it (PiSSA) must not run again.
        replace: the folder may hold something, which is replaced in one step.

    Raises:
        BackboneError: the folder holds something already.
    """
    tensors = adapter_tensors(trunk, name=name)
    kept = {f"{_PEFT_PREFIX}{key}": tensor.detach().cpu().contiguous() for key, tensor in sorted(tensors.items())}
    settings = {key: _plain(value) for key, value in _settings(trunk, name).items()}
    if beside:
        settings["init_lora_weights"] = True
    with new_folder(folder, BackboneError, replace=replace) as temporary:
        write_bytes(temporary / ADAPTER_WEIGHTS, save_tensors(kept, metadata={"format": "pt"}))
        write_json(temporary / CONFIG_FILE, settings | {"inference_mode": True})


@exclusive
def merge_adapter(trunk: PreTrainedModel, *, name: str = TRUNK_ADAPTER) -> None:
    """Add the adapter ``name`` into the weights of ``trunk`` and take every adapter layer out: W <- W + scale * B A.

    Raises:
        BackboneError: the sum is not finite, or the trunk holds other adapters, which would be lost.
    """
    others = [other for other in adapter_names(trunk) if other != name]
    if others:
        raise BackboneError(
            f"the trunk holds '{others[0]}' beside '{name}'", fix="take it out with remove_adapter first"
        )
    for path, layer in list(tuned_layers(trunk)):
        try:
            layer.merge(safe_merge=True, adapter_names=[name])
        except ValueError as exc:
            raise BackboneError(f"'{path}' cannot be merged ({exc})", fix="train the adapter again") from None
        _unwrap(trunk, path, layer)
    vars(trunk).pop("peft_config", None)


@exclusive
def write_trunk(trunk: PreTrainedModel, folder: Path, *, state: Mapping[str, Tensor] | None = None) -> None:
    """Write ``trunk`` to ``folder`` as Transformers does, and its adapters, if it has any, to folders below.

    Args:
        trunk: the model.
        folder: the folder to write to: the trunk's own adapter to ``adapter``, a named one to ``adapters/NAME``.
        state: the model's tensors, if they are not in ``trunk`` (training that was spread over devices).
    """
    with quiet_transformers():
        trunk.save_pretrained(folder, state_dict=base_tensors(trunk.state_dict() if state is None else state))
    for name in adapter_names(trunk):
        place = folder / (ADAPTER_FOLDER if name == TRUNK_ADAPTER else f"{NAMED_FOLDER}/{name}")
        save_adapter(trunk, place, name=name, beside=True)


def _inject(trunk: PreTrainedModel, config: PeftConfig, name: str, *, place: object) -> None:
    if name != TRUNK_ADAPTER and (problem := name_problem(name)) is not None:
        raise BackboneError(f"an adapter cannot be named '{name}': {problem}", place=place, fix="give another name")
    if name in adapter_names(trunk):
        raise BackboneError(f"the trunk has an adapter '{name}' already", place=place, fix="give it another name")
    from peft import inject_adapter_in_model

    training = trunk.training
    try:
        with making, quiet_transformers(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Already found a `peft_config`|fan_in_fan_out is set to False")
            inject_adapter_in_model(config, trunk, adapter_name=name)
    except ValueError as exc:
        if name in adapter_names(trunk):
            remove_adapter(trunk, name=name)
        raise BackboneError(
            f"does not fit a {type(trunk).__name__} ({' '.join(str(exc).split())[:300]})",
            place=place,
            fix="name linear layers of this trunk",
        ) from None
    for key, parameter in trunk.named_parameters():
        if belongs_to(key, name):
            parameter.data = parameter.data.float()
    for _, layer in tuned_layers(trunk):
        layer._active_adapter = [TRUNK_ADAPTER]  # a named one works where it is asked for only
    trunk.train(training)


def _unwrap(trunk: PreTrainedModel, path: str, layer: BaseTunerLayer) -> None:
    parent, _, child = path.rpartition(".")
    setattr(trunk.get_submodule(parent), child, layer.get_base_layer())


def _settings(trunk: PreTrainedModel, name: str) -> dict[str, Any]:
    return dict(cast(Any, trunk.peft_config[name]).to_dict())


def _trunk_key(trunk: PreTrainedModel, key: str) -> str:
    """Return a tensor's name in the trunk, of one in a file that may have been written with a head around the trunk."""
    key, prefix = key.removeprefix(_PEFT_PREFIX), f"{trunk.base_model_prefix}."
    inside = any(child == trunk.base_model_prefix for child, _ in trunk.named_children())
    return key if inside else key.removeprefix(prefix)


def _refuse(what: str, keys: Iterable[str], place: object) -> None:
    names = sorted(keys)
    if names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise BackboneError(
            f"tensors {what}: {', '.join(names[:3])}{more}",
            place=place,
            fix="give a LoRA of the trunk alone, for this trunk, as it was saved",
        )


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in sorted(value.items())}
    if isinstance(value, set | frozenset):
        return sorted(map(str, value))
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    plain = getattr(value, "value", value)
    if isinstance(plain, float) and not math.isfinite(plain):
        return str(plain)
    return plain if plain is None or isinstance(plain, str | int | float | bool) else str(plain)
