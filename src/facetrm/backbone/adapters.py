"""LoRA adapters on a trunk: made, read with checks, written and merged, in PEFT's own files.

    y = W x + scale * B A x        A [R, inputs], B [outputs, R], scale = alpha / R (or alpha / sqrt(R) under rslora)

PEFT's layers take the place of the trunk's linear layers, and the trunk stays the Transformers model that it was; so
everything that reads a bare trunk (packing included) reads one with an adapter. An adapter has a name, and a trunk
may hold several. The tensors of an adapter are float32 whatever the trunk's type.

Reference: Hu et al., LoRA (arXiv 2106.09685).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, cast

import torch
from peft import LoraConfig, PeftConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor
from transformers import PreTrainedModel

from facetrm.backbone.checkpoint import new_folder, quiet_transformers
from facetrm.core.config import Section
from facetrm.core.errors import BackboneError
from facetrm.core.files import read_json, write_bytes, write_json

NAME: Final = "default"
ADAPTER_FOLDER: Final = "adapter"
CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
_PEFT_PREFIX: Final = "base_model.model."
# What does not change what an adapter computes, or is told by its tensors and by the scale of each layer.
_TOLD: Final = frozenset(
    {
        "alpha_pattern",
        "auto_mapping",
        "base_model_name_or_path",
        "exclude_modules",
        "inference_mode",
        "init_lora_weights",
        "layers_pattern",
        "layers_to_transform",
        "lora_alpha",
        "lora_dropout",
        "peft_version",
        "r",
        "rank_pattern",
        "revision",
        "target_modules",
        "task_type",
        "use_rslora",
    }
)


class LoraSettings(Section):
    """The size and place of a new adapter.

    Attributes:
        rank: R. alpha: of the scale alpha / R. dropout: of the adapter's input, in training only.
        targets: ``all-linear``, or the last names of the layers that get one, such as ``q_proj``.
        rslora: scale by alpha / sqrt(R).
    """

    rank: int = Field(default=16, ge=1)
    alpha: float = Field(default=32.0, gt=0.0)
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    targets: str | tuple[str, ...] = "all-linear"
    rslora: bool = False


def add_adapter(trunk: PreTrainedModel, settings: LoraSettings, *, seed: int, name: str = NAME) -> None:
    """Put a new adapter into ``trunk``; until it is trained the trunk computes what it did (B starts at zero).

    Args:
        trunk: changed in place; its own tensors are frozen. settings: size and place. name: of the adapter.

    Raises:
        BackboneError: no layer of the trunk is named like the targets, or there is an adapter of this name.
    """
    targets = settings.targets if isinstance(settings.targets, str) else list(settings.targets)
    if isinstance(targets, str) and targets != "all-linear":
        targets = [targets]
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # PEFT says int and divides
        lora_dropout=settings.dropout,
        target_modules=targets,
        use_rslora=settings.rslora,
        exclude_modules=["pooler.dense"] if hasattr(trunk, "pooler") else None,  # what no feature passes through
        base_model_name_or_path=str(trunk.config._name_or_path or "") or None,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        _inject(trunk, config, name, place="lora.targets")


def load_adapter(trunk: PreTrainedModel, folder: str | Path, *, name: str = NAME) -> None:
    """Read the adapter in ``folder`` into ``trunk``, checked: nothing stays at its random start.

    Args:
        trunk: changed in place. folder: as PEFT writes it. name: of the adapter in this trunk.

    Raises:
        BackboneError: no such folder, not a LoRA adapter, made for a trunk of another size, or a tensor that is
            missing, unknown or not finite; it names the tensor.
    """
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
        found = load_tensors((folder / WEIGHTS_FILE).read_bytes())
    except FileNotFoundError:
        raise BackboneError(f"no file '{WEIGHTS_FILE}'", place=folder, fix=fix) from None
    except (SafetensorError, TypeError, ValueError) as exc:
        raise BackboneError(f"cannot be read ({' '.join(str(exc).split())[:200]})", place=folder, fix=fix) from None
    config.inference_mode = True
    _refuse_variants(config, folder)
    patterns = [_for_trunk(trunk, config, key) for key in ("alpha_pattern", "rank_pattern")]
    found = {_trunk_key(trunk, key): tensor for key, tensor in found.items()}
    _inject(trunk, config, name, place=folder)
    _check_patterns(trunk, name, [key for pattern in patterns for key in pattern], folder)
    wanted = adapter_tensors(trunk, name=name)
    _refuse("missing from the adapter", wanted.keys() - found.keys(), folder)
    _refuse("in the adapter and not in the trunk's layers", found.keys() - wanted.keys(), folder)
    for key, tensor in sorted(found.items()):
        if tensor.shape != wanted[key].shape:
            raise BackboneError(
                f"tensor '{key}' has shape {list(tensor.shape)}, and this trunk asks for {list(wanted[key].shape)}",
                place=folder,
                fix=f"give the trunk that the adapter was trained on ({config.base_model_name_or_path or 'unknown'})",
            )
        if not bool(torch.isfinite(tensor).all()):
            raise BackboneError(f"tensor '{key}' is not finite", place=folder, fix="train or fetch the adapter again")
        wanted[key].data.copy_(tensor)


def adapter_names(trunk: PreTrainedModel) -> tuple[str, ...]:
    """Return the names of the adapters in ``trunk``, sorted; none for a bare one."""
    return tuple(sorted(getattr(trunk, "peft_config", {})))


def adapter_tensors(trunk: PreTrainedModel, *, name: str = NAME) -> dict[str, Tensor]:
    """Return the tensors of the adapter ``name``, by their names in ``trunk`` without it: they are its own, no copies.

    Such as ``layers.0.self_attn.q_proj.lora_A.weight``.
    """
    return {_without(key, name): tensor for key, tensor in trunk.state_dict().items() if _belongs(key, name)}


def adapter_settings(trunk: PreTrainedModel) -> dict[str, dict[str, Any]]:
    """Return what each adapter of ``trunk`` computes with beside its tensors, by name.

    That is the scale of each layer, and every setting of a variant of LoRA that is not PEFT's default.
    """
    usual = cast(Any, LoraConfig()).to_dict()
    found: dict[str, dict[str, Any]] = {}
    for name in adapter_names(trunk):
        layers = {path: m for path, m in trunk.named_modules() if isinstance(m, LoraLayer) and name in m.scaling}
        known = _settings(trunk, name)
        found[name] = {
            "scales": {path: float(layer.scaling[name]) for path, layer in layers.items()},
            "variant": {k: _plain(v) for k, v in known.items() if k not in _TOLD and v != usual.get(k)},
        }
    return found


def base_tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the ``state`` (a state dict) of a trunk without its adapters, under the names of the bare trunk."""
    return {key.replace(".base_layer.", "."): t for key, t in state.items() if "lora_" not in key}


def save_adapter(trunk: PreTrainedModel, folder: Path, *, name: str = NAME, beside: bool = False) -> None:
    """Write the adapter ``name`` of ``trunk`` to a new or empty ``folder``, whole or not at all, in PEFT's format.

    Args:
        trunk: that holds it. folder: where to. name: of the adapter.
        beside: the trunk is written as it stands too, so that a start which changes it (PiSSA) must not run again.

    Raises:
        BackboneError: the folder holds something already.
    """
    tensors = adapter_tensors(trunk, name=name)
    kept = {f"{_PEFT_PREFIX}{key}": tensor.detach().cpu().contiguous() for key, tensor in sorted(tensors.items())}
    settings = {key: _plain(value) for key, value in _settings(trunk, name).items()}
    if beside:
        settings["init_lora_weights"] = True
    with new_folder(folder) as temporary:
        write_bytes(temporary / WEIGHTS_FILE, save_tensors(kept, metadata={"format": "pt"}))
        write_json(temporary / CONFIG_FILE, settings | {"inference_mode": True})


def merge_adapter(trunk: PreTrainedModel, *, name: str = NAME) -> None:
    """Add the adapter ``name`` into the weights of ``trunk`` and take every adapter layer out: W <- W + scale * B A.

    Raises:
        BackboneError: the sum is not finite.
    """
    for path, layer in list(trunk.named_modules()):
        if not isinstance(layer, BaseTunerLayer):
            continue
        try:
            layer.merge(safe_merge=True, adapter_names=[name])
        except ValueError as exc:
            raise BackboneError(f"'{path}' cannot be merged ({exc})", fix="train the adapter again") from None
        parent, _, child = path.rpartition(".")
        setattr(trunk.get_submodule(parent), child, layer.get_base_layer())
    vars(trunk).pop("peft_config", None)


def write_trunk(trunk: PreTrainedModel, folder: Path, *, state: Mapping[str, Tensor] | None = None) -> None:
    """Write ``trunk`` to ``folder`` as Transformers does, and its adapter, if it has one, to a folder below.

    Args:
        trunk: the model. state: its tensors, where they do not lie in it (training that was spread over devices).

    Raises:
        BackboneError: the trunk holds several adapters.
    """
    names = adapter_names(trunk)
    if len(names) > 1:
        raise BackboneError(f"a trunk with {len(names)} adapters", place=folder, fix="save the adapters one by one")
    with quiet_transformers():
        trunk.save_pretrained(folder, state_dict=base_tensors(trunk.state_dict() if state is None else state))
    for name in names:
        save_adapter(trunk, folder / ADAPTER_FOLDER, name=name, beside=True)


def _inject(trunk: PreTrainedModel, config: PeftConfig, name: str, *, place: object) -> None:
    if name in adapter_names(trunk):
        raise BackboneError(f"the trunk has an adapter '{name}' already", place=place, fix="give it another name")
    training = trunk.training
    try:
        with quiet_transformers():
            inject_adapter_in_model(config, trunk, adapter_name=name)
    except ValueError as exc:
        raise BackboneError(
            f"does not fit a {type(trunk).__name__} ({' '.join(str(exc).split())[:300]})",
            place=place,
            fix="name linear layers of this trunk",
        ) from None
    for key, parameter in trunk.named_parameters():
        if _belongs(key, name):
            parameter.data = parameter.data.float()
    trunk.train(training)


def _refuse_variants(config: PeftConfig, folder: Path) -> None:
    for key, what in (("use_dora", "DoRA"), ("lora_bias", "a LoRA with biases")):
        if getattr(config, key, False):
            raise BackboneError(f"{what} is not read", place=folder, fix="merge the adapter into its trunk with PEFT")


def _for_trunk(trunk: PreTrainedModel, config: PeftConfig, key: str) -> dict[str, Any]:
    """Return a pattern of ``config`` by the names of a bare trunk, and put it there: it may have had a head around."""
    prefix = re.escape(trunk.base_model_prefix)
    inside = any(child == trunk.base_model_prefix for child, _ in trunk.named_children())
    pattern = dict(getattr(config, key, None) or {})
    if not inside:
        outer = re.compile(rf"^(\^?)(?:base_model\\?\.model\\?\.)?{prefix}\\?\.")
        pattern = {outer.sub(r"\1", name): value for name, value in pattern.items()}
    setattr(config, key, pattern)
    return pattern


def _check_patterns(trunk: PreTrainedModel, name: str, keys: Iterable[str], place: object) -> None:
    """Refuse a pattern that no layer follows: its scale or rank would be lost without a word."""
    paths = [path for path, m in trunk.named_modules() if isinstance(m, LoraLayer) and name in m.scaling]
    for key in keys:
        if not any(re.match(rf"(.*\.)?({key})$", path) for path in paths):
            raise BackboneError(
                f"the pattern '{key}' fits no layer that has the adapter",
                place=place,
                fix="give a LoRA of this trunk, as it was saved",
            )


def _settings(trunk: PreTrainedModel, name: str) -> dict[str, Any]:
    return dict(cast(Any, trunk.peft_config[name]).to_dict())


def _belongs(key: str, name: str) -> bool:
    return "lora_" in key and re.search(rf"\.{re.escape(name)}(\.|$)", key) is not None


def _without(key: str, name: str) -> str:
    return re.sub(rf"\.{re.escape(name)}(\.|$)", r"\1", key)


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
    return plain if plain is None or isinstance(plain, str | int | float | bool) else str(plain)
