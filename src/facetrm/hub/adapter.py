"""A reward model that was trained with PEFT: a LoRA and a linear head on a base that lies here.

    reward = head.weight @ hidden state of the conversation's last token (+ head.bias), base with the LoRA added

The base is only read from a folder on this machine: ``base_model_name_or_path`` of a foreign file is no reason to ask
the Hub.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoTokenizer

from facetrm.backbone.checkpoint import quiet_transformers, tokenizer_fingerprint
from facetrm.backbone.declared import check_files
from facetrm.backbone.lora.adapters import CONFIG_FILE, WEIGHTS_FILE
from facetrm.backbone.transformer import BackboneConfig, TransformerEncoder, load_encoder
from facetrm.core.config import parse_config
from facetrm.core.errors import ModelError, short
from facetrm.core.files import read_json
from facetrm.hub.classifier import linear_model
from facetrm.hub.heads import find_head
from facetrm.model.reward_model import RewardModel

_PREFIX: Final = "base_model.model."
_MERGE: Final = "merge the adapter into its base with PEFT, and give the merged folder"


def read_adapter(folder: Path, settings: Mapping[str, object]) -> RewardModel:
    """Return the model of a folder with a LoRA and a saved head, as PEFT writes it for sequence classification.

    Args:
        folder: with adapter_config.json and adapter_model.safetensors.
        settings: of the backbone.

    Raises:
        ModelError: it is an adapter of another kind, has no head of one label, or its base is not on this machine.
    """
    config = read_json(folder / CONFIG_FILE, ModelError, fix="fetch it again")
    kind, task = (config.get(key) if isinstance(config, dict) else None for key in ("peft_type", "task_type"))
    if kind != "LORA" or task not in ("SEQ_CLS", None):
        raise ModelError(
            f"an adapter of PEFT ({short(kind)}, made for {short(task)}), no reward model by itself",
            place=folder,
            fix="as a backbone's adapter, give it in backbone.adapter; for a reward model, "
            "give one of peft_type LORA and task_type SEQ_CLS",
        )
    weights = _head(folder)
    head = find_head(weights, place=folder)
    base = _base(folder, config)
    known = {"path": str(base), "adapter": str(folder), "kind": "decoder"}
    template = folder / "chat_template.jinja"
    if template.is_file():
        known["template"] = str(template)
    encoder = load_encoder(parse_config(BackboneConfig, {**known, **settings}, place=folder))
    _check_tokenizer(folder, encoder, templated=template.is_file() or "template" in settings)
    return linear_model(encoder, weights, head, place=folder, layout="a PEFT adapter for sequence classification")


def _head(folder: Path) -> dict[str, Any]:
    """Return the tensors beside the LoRA's and the trunk's, in float32."""
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise ModelError(f"an adapter of PEFT without {WEIGHTS_FILE}", place=folder, fix="save it as safetensors")
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as exc:
        raise ModelError(f"cannot be read ({' '.join(str(exc).split())[:200]})", place=path, fix="fetch it") from None
    names = {name: name.removeprefix(_PREFIX) for name in tensors if "lora_" not in name}
    return {short_name: tensors[name].float() for name, short_name in names.items()}


def _base(folder: Path, config: Mapping[str, Any]) -> Path:
    name = config.get("base_model_name_or_path")
    if isinstance(name, str) and name:
        for place in (folder / name, Path(name)):
            if place.is_dir():
                check_files(place, ModelError)
                return place
    raise ModelError(
        f"an adapter of PEFT whose base {short(name)} is no folder on this machine",
        place=folder,
        fix=f"write the folder of its base into 'base_model_name_or_path' of {CONFIG_FILE}, or {_MERGE}",
    )


def _check_tokenizer(folder: Path, encoder: TransformerEncoder, *, templated: bool) -> None:
    """Check that the tokenizer beside the adapter, where there is one, reads as the base's does."""
    if not (folder / "tokenizer_config.json").is_file():
        return
    try:
        with quiet_transformers():
            own = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as exc:  # loaders raise errors of every kind on files that others wrote
        reason = f"{type(exc).__name__}: {' '.join(str(exc).split())[:200]}"
        raise ModelError(f"its tokenizer cannot be loaded ({reason})", place=folder, fix=_MERGE) from None
    if tokenizer_fingerprint(own) != tokenizer_fingerprint(encoder.tokenizer):
        raise ModelError("its tokenizer is not that of its base", place=folder, fix=_MERGE)
    if not templated and own.chat_template not in (None, encoder.tokenizer.chat_template):
        raise ModelError(
            "its chat template is not that of its base", place=folder, fix="write it to chat_template.jinja beside it"
        )
