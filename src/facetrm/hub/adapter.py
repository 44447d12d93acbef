"""A reward model trained with PEFT: a LoRA and a linear head on a base model in a local folder.

    reward = head.weight @ hidden state of the conversation's last token (+ head.bias), base with the LoRA added

The base is read only from a folder on this machine. ``base_model_name_or_path`` comes from a foreign file, so it never
triggers a download.
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
from facetrm.backbone.lora.adapters import ADAPTER_WEIGHTS, CONFIG_FILE
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
    """Read a LoRA with a saved head, in the format that PEFT writes for sequence classification.

    Args:
        folder: the folder with adapter_config.json and adapter_model.safetensors.
        settings: settings of the backbone, as in ``load_model``.

    Raises:
        ModelError: the adapter is of another kind, has no head with one output, or its base is not on this machine.
    """
    config = read_json(folder / CONFIG_FILE, ModelError, fix="fetch it again")
    kind, task = (config.get(key) if isinstance(config, dict) else None for key in ("peft_type", "task_type"))
    if kind != "LORA" or task not in ("SEQ_CLS", None):
        raise ModelError(
            f"a PEFT adapter ({short(kind)}, made for {short(task)}) is not a reward model",
            place=folder,
            fix="to use it as the adapter of a backbone, give it in backbone.adapter; a reward model needs peft_type "
            "LORA and task_type SEQ_CLS",
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
    """Return the tensors that belong neither to the LoRA nor to the trunk, in float32."""
    path = folder / ADAPTER_WEIGHTS
    if not path.is_file():
        raise ModelError(f"the PEFT adapter has no {ADAPTER_WEIGHTS}", place=folder, fix="save it as safetensors")
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as exc:
        raise ModelError(
            f"cannot be read ({' '.join(str(exc).split())[:200]})", place=path, fix="fetch it again"
        ) from None
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
        f"the base {short(name)} of this PEFT adapter is not a folder on this machine",
        place=folder,
        fix=f"write the folder of its base into 'base_model_name_or_path' of {CONFIG_FILE}, or {_MERGE}",
    )


def _check_tokenizer(folder: Path, encoder: TransformerEncoder, *, templated: bool) -> None:
    """Check that the adapter's tokenizer, if it has one, is the same as that of the base."""
    if not (folder / "tokenizer_config.json").is_file():
        return
    try:
        with quiet_transformers():
            own = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as exc:  # loaders raise all kinds of error on malformed files
        reason = f"{type(exc).__name__}: {' '.join(str(exc).split())[:200]}"
        raise ModelError(f"the adapter's tokenizer cannot be loaded ({reason})", place=folder, fix=_MERGE) from None
    if tokenizer_fingerprint(own) != tokenizer_fingerprint(encoder.tokenizer):
        raise ModelError("the adapter's tokenizer differs from that of its base", place=folder, fix=_MERGE)
    if not templated and own.chat_template not in (None, encoder.tokenizer.chat_template):
        raise ModelError(
            "the adapter's chat template differs from that of its base",
            place=folder,
            fix="write the template to chat_template.jinja in the adapter's folder",
        )
