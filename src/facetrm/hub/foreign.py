"""Reward models of others: which kind a folder is, by its ``config.json`` and the names of its tensors.

    *ForRewardModelWithGating                        ArmoRM's layout
    *ForSequenceClassification, *ForRewardModel,     a trunk and one linear head on the last token, whatever its name
    *ForCausalLM with a head and no ``lm_head``
    adapter_config.json                              a LoRA of PEFT with a saved head

All else is named as what it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from facetrm.backbone.lora.adapters import CONFIG_FILE
from facetrm.backbone.transformer import BackboneConfig, load_encoder
from facetrm.core.config import parse_config
from facetrm.core.errors import ModelError, short
from facetrm.core.files import read_json
from facetrm.hub.adapter import read_adapter
from facetrm.hub.classifier import read_classifier
from facetrm.hub.heads import find_head, has_head
from facetrm.hub.layout import GATED_ARCHITECTURE, read_layout, tensor_files
from facetrm.hub.published import check_gate_names, read_published
from facetrm.model.door import MODEL_TYPE
from facetrm.model.reward_model import RewardModel
from facetrm.model.store import MODEL_MANIFEST

CLASSIFIER: Final = "ForSequenceClassification"
_TOKENS, _REWARD, _LANGUAGE = "ForTokenClassification", "ForRewardModel", "ForCausalLM"
_NORMALISED: Final = ("normalize_reward", "reward_normalization", "mean", "std")


def read_foreign(folder: Path, settings: Mapping[str, object]) -> RewardModel:
    """Return the reward model of a folder that facetrm did not write.

    Args:
        folder: of the model.
        settings: of the backbone.

    Raises:
        ModelError: it is no reward model that can be read; it says what the folder is and what to do.
    """
    for key in ("path", "kind", "adapter"):
        if key in settings:
            raise ModelError(f"the setting '{key}' would read another model", place=folder, fix="take it out")
    path = folder / "config.json"
    value = read_json(path, ModelError, fix="fetch it again") if path.is_file() else None
    if value is None and (folder / CONFIG_FILE).is_file():
        return read_adapter(folder, settings)
    if not isinstance(value, dict) or value.get("model_type") == MODEL_TYPE:
        raise _no_model(folder)
    names = value.get("architectures")
    architecture = str(names[0]) if isinstance(names, list) and names else "none"
    _check_kind(folder, architecture, value)
    if (folder / CONFIG_FILE).exists():
        raise ModelError("an adapter beside the weights", place=folder, fix="merge the adapter into its model first")
    gated = architecture.endswith(GATED_ARCHITECTURE)
    if gated:
        check_gate_names(folder)
    if gated and "dtype" not in settings:
        layout = read_layout(folder)
        if layout.objectives is not None and layout.dtype in ("float32", "bfloat16", "float16"):
            settings = {**settings, "dtype": layout.dtype}  # one of ours: it scores as it did
    config = parse_config(BackboneConfig, {"path": str(folder), "kind": "decoder", **settings}, place=folder)
    encoder = load_encoder(config)
    return read_published(folder, encoder) if gated else read_classifier(folder, encoder, architecture=architecture)


def _no_model(folder: Path) -> ModelError:
    quantised = next(iter(sorted(path.name for path in folder.glob("*.gguf"))), None)
    if quantised is not None:
        return ModelError(
            f"a GGUF file ({short(quantised)}), which is made for llama.cpp and holds no head that is known here",
            place=folder,
            fix="give the folder of safetensors that it was made from",
        )
    return ModelError(
        f"no file '{MODEL_MANIFEST}'",
        place=folder,
        fix="give a folder that RewardModel.save or 'facetrm run' wrote, whole",
    )


def _check_kind(folder: Path, architecture: str, config: Mapping[str, Any]) -> None:
    """Refuse an architecture that is no reward model, or whose reward is not told by its tensors."""
    path = folder / "config.json"
    if architecture.endswith((GATED_ARCHITECTURE, CLASSIFIER)):
        return
    if architecture.endswith(_TOKENS):
        raise ModelError(
            f"architecture '{architecture}' scores every token (a tagger, or a process reward model), and no rule says "
            "which of the scores is the reward",
            place=path,
            fix=f"give a model whose architecture ends with {GATED_ARCHITECTURE} or {CLASSIFIER}",
        )
    if architecture.endswith(_REWARD):
        changed = next((key for key in _NORMALISED if config.get(key)), None)
        if config.get("auto_map") or changed is not None:
            why = "code that comes with it" if changed is None else f"'{changed}' of config.json"
            raise ModelError(
                f"architecture '{architecture}': its reward also depends on {why}",
                place=path,
                fix=f"give a model whose architecture ends with {GATED_ARCHITECTURE} or {CLASSIFIER}",
            )
        return
    if architecture.endswith(_LANGUAGE) and any(folder.glob("*.safetensors")):
        beside = [name for name in tensor_files(folder) if _is_outside(name)]
        if has_head(beside):
            find_head(beside, place=folder)
            return
    raise ModelError(
        f"architecture '{architecture}' is no reward model",
        place=path,
        fix=f"give a model whose architecture ends with {GATED_ARCHITECTURE} or {CLASSIFIER}; "
        "a language model is a backbone: fit heads on it with 'facetrm run'",
    )


def _is_outside(name: str) -> bool:
    """Return whether a tensor of a language model stands beside its trunk; trunks have prefixes of their own."""
    return not name.startswith(("model.", "transformer.", "gpt_neox.", "backbone.", "language_model."))
