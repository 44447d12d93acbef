"""Load reward models that facetrm did not write. The kind follows from ``config.json`` and the tensor names.

    *ForRewardModelWithGating                        ArmoRM's layout
    *ForSequenceClassification, *ForRewardModel,     a trunk and one linear head of any name on the last token
    *ForCausalLM with a head and no ``lm_head``
    adapter_config.json                              a PEFT LoRA with a saved head

Other folders are refused with an error that says what they hold.
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
    """Load a reward model from a folder that facetrm did not write.

    Args:
        folder: the model folder.
        settings: settings of the backbone, as in ``load_model``.

    Raises:
        ModelError: the folder does not hold a supported reward model; the message says what it holds and what to do.
    """
    for key in ("path", "kind", "adapter"):
        if key in settings:
            raise ModelError(f"the setting '{key}' would load a different model", place=folder, fix="remove it")
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
        raise ModelError(
            "the folder holds both full weights and an adapter",
            place=folder,
            fix="merge the adapter into the model first",
        )
    gated = architecture.endswith(GATED_ARCHITECTURE)
    if gated:
        check_gate_names(folder)
    if gated and "dtype" not in settings:
        layout = read_layout(folder)
        if layout.objectives is not None and layout.dtype in ("float32", "bfloat16", "float16"):
            settings = {**settings, "dtype": layout.dtype}  # an export of facetrm: keep its scores
    config = parse_config(BackboneConfig, {"path": str(folder), "kind": "decoder", **settings}, place=folder)
    encoder = load_encoder(config)
    return read_published(folder, encoder) if gated else read_classifier(folder, encoder, architecture=architecture)


def _no_model(folder: Path) -> ModelError:
    quantised = next(iter(sorted(path.name for path in folder.glob("*.gguf"))), None)
    if quantised is not None:
        return ModelError(
            f"{short(quantised)} is a GGUF file for llama.cpp, from which facetrm cannot read a reward head",
            place=folder,
            fix="give the safetensors folder that it was converted from",
        )
    return ModelError(
        f"no file '{MODEL_MANIFEST}'",
        place=folder,
        fix="give a complete folder that RewardModel.save or 'facetrm run' wrote",
    )


def _check_kind(folder: Path, architecture: str, config: Mapping[str, Any]) -> None:
    """Refuse an architecture that is not a reward model, or whose reward does not follow from its tensors."""
    path = folder / "config.json"
    if architecture.endswith((GATED_ARCHITECTURE, CLASSIFIER)):
        return
    if architecture.endswith(_TOKENS):
        raise ModelError(
            f"architecture '{architecture}' scores every token (a tagger or a process reward model), and it is not "
            "defined which score is the reward",
            place=path,
            fix=f"give a model whose architecture ends with {GATED_ARCHITECTURE} or {CLASSIFIER}",
        )
    if architecture.endswith(_REWARD):
        changed = next((key for key in _NORMALISED if config.get(key)), None)
        if config.get("auto_map") or changed is not None:
            why = "Python code in its folder" if changed is None else f"'{changed}' in config.json"
            raise ModelError(
                f"the reward of architecture '{architecture}' also depends on {why}",
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
        f"architecture '{architecture}' is not a reward model",
        place=path,
        fix=f"give a model whose architecture ends with {GATED_ARCHITECTURE} or {CLASSIFIER}; "
        "to use a language model as a backbone, fit heads on it with 'facetrm run'",
    )


def _is_outside(name: str) -> bool:
    """Return whether a tensor of a language model is outside its trunk, judged by the usual prefixes of trunks."""
    return not name.startswith(("model.", "transformer.", "gpt_neox.", "backbone.", "language_model."))
