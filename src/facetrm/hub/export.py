"""Export facetrm models, in the layout of ArmoRM's checkpoint (Transformers loads it without facetrm) or in facetrm's.

    gate         centring, scaling and projection are folded into the first layer: W (((x - c) * s) P) + b
    transform    units of weight, penalties and edits are folded into reward_transform_matrix, so that
                 score = sum(gating_output * (rewards @ transform)) is the reward
    config.json  holds what the layout has no tensor for: intercepts, a length expert, names and scales

Shapes: K objectives, D hidden size, R gate input size.
"""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from huggingface_hub import save_torch_state_dict
from torch import Tensor
from transformers import PreTrainedModel

from facetrm.backbone.encoder import shown_layers
from facetrm.backbone.lora.adapters import merge_adapter, remove_adapter
from facetrm.backbone.lora.names import TRUNK_ADAPTER
from facetrm.backbone.lora.switching import adapter_names, named_adapters
from facetrm.backbone.transformer import TransformerEncoder
from facetrm.core.errors import BackboneError, ModelError
from facetrm.core.files import read_json, write_json
from facetrm.core.folders import new_folder
from facetrm.hub import modeling_custom
from facetrm.hub.checksums import write_checksums
from facetrm.hub.layout import GATED_ARCHITECTURE
from facetrm.model.aggregate import GatedSum
from facetrm.model.gate import Gate
from facetrm.model.mixture import Mixture
from facetrm.model.reward_model import RewardModel

MODELING: Final = "modeling_custom"
_NEVER: Final = -1e9  # a logit whose softmax is exactly 0 in every dtype


def export_published(model: RewardModel, folder: str | Path) -> Path:
    """Write ``model`` in ArmoRM's layout. In float32, its scores equal the model's up to rounding.

    A LoRA of the backbone is merged, which adds one rounding step if the trunk is not in float32.

    Args:
        model: a model with one task, one gated sum and a decoder as its backbone.
        folder: the folder to write; it must be new or empty.

    Returns:
        The folder, with weights, tokenizer, config.json and a modelling file that needs only Transformers.

    Raises:
        ModelError: the model does not fit the layout.
        BackboneError: the folder is not empty, or Transformers' tokenizer would produce other ids than facetrm.

    Example:
        >>> from tempfile import mkdtemp
        >>> from facetrm import export_published, load_model, toy_model
        >>> folder = export_published(toy_model(), mkdtemp() + "/exported")
        >>> load_model(folder, device="cpu").tasks
        ('all',)
    """
    folder = Path(folder)
    encoder = model.encoder
    if not isinstance(encoder, TransformerEncoder) or encoder.kind != "decoder":
        kind = encoder.kind if isinstance(encoder, TransformerEncoder) else type(encoder).__name__
        raise ModelError(f"the backbone is not a decoder ({kind})", place=folder, fix="export a model on a decoder")
    if len(model.mixtures) > 1:
        problem = f"the model has {len(model.mixtures)} tasks and a router, but the layout has a single task"
        raise ModelError(problem, place=folder, fix="share the folder that RewardModel.save writes")
    if model.adapters or not isinstance(model.mixture().aggregator, GatedSum):
        problem = f"the layout has one gated sum on one vector, but the experts use {len(model.adapters)} adapters"
        raise ModelError(problem, place=folder, fix="share the folder that RewardModel.save writes")
    if model.layers:
        problem = f"the layout has the vector of the last layer only, but the experts read {shown_layers(model.layers)}"
        raise ModelError(problem, place=folder, fix="share the folder that RewardModel.save writes")
    with new_folder(folder, BackboneError) as temporary:
        _write(model, encoder, temporary)
    return folder


def export_self_contained(model: RewardModel, folder: str | Path) -> Path:
    """Write ``model`` with its backbone and adapters into one folder that can be moved to another machine.

    The content is that of ``RewardModel.save(folder, backbone="copy")``, plus checksums of all files.

    Args:
        model: a model of any kind.
        folder: the folder to write; it must be new or empty.

    Returns:
        The folder. :func:`~facetrm.hub.load.load_model` reads it from any location, with the same scores.

    Raises:
        ModelError: the folder is not empty, or the backbone cannot be copied.

    Example:
        >>> from tempfile import mkdtemp
        >>> from facetrm import export_self_contained, load_model, toy_model
        >>> folder = export_self_contained(toy_model(), mkdtemp() + "/whole")
        >>> load_model(folder, device="cpu").hash == toy_model().hash
        True
    """
    folder = Path(folder)
    with new_folder(folder, ModelError) as temporary:
        model.save(temporary / "model", backbone="copy")
        for path in (temporary / "model").iterdir():
            path.rename(temporary / path.name)
        (temporary / "model").rmdir()
        for path in temporary.rglob("adapter_config.json"):  # PEFT stores the path of the base on this machine
            settings = read_json(path, ModelError, fix="export the model again")
            write_json(path, {**settings, "base_model_name_or_path": None})
        write_checksums(temporary)
    return folder


def _write(model: RewardModel, encoder: TransformerEncoder, temporary: Path) -> None:
    mixture = model.mixture()
    portable = encoder.save_tokenizer(temporary)
    trunk = _merged(encoder.model)
    tensors = {f"{trunk.base_model_prefix}.{name}": tensor for name, tensor in trunk.state_dict().items()}
    save_torch_state_dict(tensors | heads(mixture), temporary, max_shard_size="5GB")
    name = type(trunk).__name__.removesuffix("Model")
    settings = trunk.config.to_dict()
    config = {
        **settings,
        **older_positions(settings),
        "architectures": [f"{name}{GATED_ARCHITECTURE}"],
        "auto_map": {"AutoModelForSequenceClassification": f"{MODELING}.{name}{GATED_ARCHITECTURE}"},
        "id2label": {"0": "LABEL_0"},
        "label2id": {"LABEL_0": 0},
        "problem_type": "regression",
        "hidden_size": encoder.hidden_size,
        "pad_token_id": portable.pad,
        "bos_token_id": portable.bos,
        "eos_token_id": portable.eos,
        "gating_token_pattern": list(portable.pattern),
        "response_header": list(portable.header),
        "opening_token_id": portable.opening,
        **_entries(mixture),
    }
    (temporary / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    source = inspect.getsource(modeling_custom)
    (temporary / f"{MODELING}.py").write_text(source.replace("Llama", name), encoding="utf-8")
    write_checksums(temporary)


def older_positions(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the rotary settings under the names of Transformers 4, which ignores ``rope_parameters`` without a word.

    Args:
        settings: the entries of a trunk's config.json as Transformers 5 writes them.

    Example:
        >>> older_positions({"rope_parameters": {"rope_type": "default", "rope_theta": 1e5}})
        {'rope_theta': 100000.0, 'rope_scaling': None}
    """
    found = settings.get("rope_parameters") or {}
    local = found.get("sliding_attention")
    whole = found.get("full_attention", found)
    if "rope_theta" not in whole:
        return {}
    scaling = {name: value for name, value in whole.items() if name != "rope_theta"}
    share = scaling.pop("partial_rotary_factor", None)
    older = {"rope_theta": whole["rope_theta"], "rope_scaling": None}
    if scaling.get("rope_type", "default") != "default":
        older["rope_scaling"] = scaling
    if share is not None:
        older["partial_rotary_factor"] = share
    if settings.get("model_type") == "gpt_neox":
        older |= {"rotary_emb_base": whole["rope_theta"], "rotary_pct": 1.0 if share is None else share}
    if local:
        older["rope_local_base_freq"] = local["rope_theta"]
    return older


def _merged(trunk: PreTrainedModel) -> PreTrainedModel:
    """Return the trunk, or a copy with its own adapter merged into the weights and without named adapters."""
    names = adapter_names(trunk)
    if not names:
        return trunk
    copied = copy.deepcopy(trunk)
    for name in named_adapters(trunk):
        remove_adapter(copied, name=name)
    if TRUNK_ADAPTER in names:
        merge_adapter(copied)
    return copied


def heads(mixture: Mixture) -> dict[str, Tensor]:
    """Return the tensors of the layout outside the trunk, in float32.

    Args:
        mixture: the mixture to export: linear experts and a gated sum.
    """
    experts, aggregator = mixture.linear_experts, mixture.gated_sum
    weight_KD = torch.zeros(len(experts.names), experts.hidden_size)
    weight_KD[: len(experts.weight_KD)] = experts.weight_KD
    tensors = {
        "regression_layer.weight": weight_KD,
        "reward_transform_matrix": _transform(aggregator),
        "gating.logit_scale": torch.tensor([aggregator.scale]),
    }
    for n, (weight, bias) in enumerate(_gate_layers(aggregator)):
        tensors |= {f"gating.layers.{n}.weight": weight, f"gating.layers.{n}.bias": bias}
    return {name: tensor.detach().float().cpu().contiguous() for name, tensor in tensors.items()}


def _entries(mixture: Mixture) -> dict[str, Any]:
    """Return the entries of config.json: the settings of the gate, and values that the layout has no tensor for."""
    experts, gate = mixture.linear_experts, mixture.gated_sum.gate
    entries: dict[str, Any] = {
        "num_objectives": len(experts.names),
        "gating_hidden_dim": max(gate.shape.hidden, 1),
        "gating_n_hidden": gate.shape.n_hidden,
        "gating_temperature": gate.shape.temperature,
        "objectives": [objective.model_dump(mode="json") for objective in experts.objectives],
        "reference_scores": mixture.gated_sum.reference_K.tolist(),
        "beta": mixture.beta,
    }
    bias_K = torch.zeros(len(experts.names))
    bias_K[: len(experts.bias_K)] = experts.bias_K
    if bool(bias_K.any()):
        entries["objective_bias"] = bias_K.tolist()
    if experts.length is not None:
        entries["length_expert"] = experts.length.model_dump(mode="json")
    return entries


def _transform(aggregator: GatedSum) -> Tensor:
    """Return the transform T, [K, K], for which scale * softmax @ T.T gives the coefficients of the scores.

    With an edit, the weights are factor * (pinned + left * softmax). The softmax sums to 1, so the pinned part is one
    row that is added to every row.
    """
    rows_KK = aggregator.factor_K.double()[:, None] * aggregator.coefficients_KK.double()
    if bool(aggregator.free_K.any()):
        left = 1.0 - aggregator.edit.pinned_total
        mixed_KK = aggregator.pinned_K.double() @ rows_KK + left * rows_KK
    else:
        mixed_KK = (aggregator.pinned_K.double() @ rows_KK).expand(len(rows_KK), -1)
    return mixed_KK.T / aggregator.scale


def _gate_layers(aggregator: GatedSum) -> list[tuple[Tensor, Tensor]]:
    """Return the weights and biases of the gate's linear layers, so that they apply to the original prompt vector."""
    gate: Gate = aggregator.gate
    open_K = aggregator.free_K if bool(aggregator.free_K.any()) else torch.ones_like(aggregator.free_K)
    linears = [layer for layer in gate.body if isinstance(layer, torch.nn.Linear)]
    size = gate.shape.hidden_size
    if gate.head is None:
        last = (torch.zeros(gate.shape.choices, size), gate.bias_K)
    else:
        last = (gate.head.weight, gate.bias_K)
    layers = [(layer.weight.double(), layer.bias.double()) for layer in linears]
    layers.append((last[0].double(), last[1].double()))
    if gate.head is not None:
        weight, bias = layers[0]
        if gate.projection_DR is not None:
            weight = weight @ gate.projection_DR.double().T
        weight = weight * gate.spread_D.double()
        layers[0] = (weight, bias - weight @ gate.center_D.double())
    weight, bias = layers[-1]
    closed_K = ~(open_K & gate.gated_K)
    layers[-1] = (weight.masked_fill(closed_K[:, None], 0.0), bias.masked_fill(closed_K, _NEVER))
    return layers
