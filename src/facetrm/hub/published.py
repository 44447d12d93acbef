"""Load ArmoRM and QRM checkpoints as a :class:`RewardModel` without running their code. Each part is exact.

    experts     regression_layer; in QRM, the mean of an objective's m quantiles is also linear, so it becomes one row
    debias      reward_transform_matrix
    gate        gating.layers with the final bias; QRM's batch normalisation is a factor and a shift at inference, which
                are folded into the next layer
    scale       gating.logit_scale

    score = scale * sum_k softmax(gate(prompt) / temperature)_k * (rewards @ transform)_k

Shapes: K objectives, D hidden size, m quantiles.

Reference: ArmoRM (arXiv 2406.12845), sections 3.1 to 3.3; QRM (arXiv 2409.10164).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from facetrm.backbone.transformer import TransformerEncoder
from facetrm.core.errors import ModelError
from facetrm.hub.layout import LayoutConfig, head_shapes, read_layout, read_tensors, tensor_files
from facetrm.model.aggregate import GatedSum
from facetrm.model.experts import LinearExperts
from facetrm.model.gate import Gate, GateShape, check_tensors
from facetrm.model.mixture import Mixture
from facetrm.model.reward_model import RewardModel

_NORM_EPSILON: Final = 1e-5  # the default of torch.nn.BatchNorm1d, which QRM uses


def read_published(folder: Path, encoder: TransformerEncoder) -> RewardModel:
    """Load a checkpoint in the published layout.

    Args:
        folder: the folder with config.json and safetensors files.
        encoder: the encoder with the folder's trunk and tokenizer.

    Raises:
        ModelError: a tensor is missing, unexpected, not finite or of another shape, or a setting is malformed.
    """
    config, files = read_layout(folder), tensor_files(folder)
    normalised = any(name.endswith(".running_mean") for name in files)
    shapes = head_shapes(config, normalised=normalised)
    heads = [name for name in files if not name.startswith(f"{encoder.model.base_model_prefix}.")]
    tensors = read_tensors(files, heads)
    check_tensors(tensors, shapes, place=str(folder))
    experts = _experts(config, tensors)
    gate = _gate(config, _linear_layers(config, tensors) if normalised else _plain_layers(config, tensors))
    reference = config.reference_scores
    aggregator = GatedSum(
        gate,
        tensors["reward_transform_matrix"],
        scale=float(tensors["gating.logit_scale"]),
        reference_K=None if reference is None else torch.tensor(reference),
    )
    mixture = Mixture(experts, aggregator, beta=config.beta)
    return RewardModel(encoder, {"all": mixture}, provenance=_provenance(config))


def check_gate_names(folder: Path) -> None:
    """Raise ModelError if the gate's tensors lack the prefix ``gating.``, as saved by ArmoRM's stage-2 script."""
    stray = sorted(name for name in tensor_files(folder) if name.startswith(("layers.", "logit_scale")))
    if stray:
        raise ModelError(
            f"tensor '{stray[0]}' belongs to the gate but lacks the prefix 'gating.' (as ArmoRM's stage 2 saves it)",
            place=folder,
            fix="add the prefix 'gating.' to the names of the gate's tensors",
        )


def _provenance(config: LayoutConfig) -> dict[str, Any]:
    stated = "stated" if config.objectives is not None else "assumed from their number"
    return {"layout": "ArmoRM" if config.num_quantiles is None else "QRM", "objectives": stated}


def _experts(config: LayoutConfig, tensors: Mapping[str, Tensor]) -> LinearExperts:
    weight_KD, size = tensors["regression_layer.weight"], config.num_objectives
    if config.num_quantiles is not None:
        weight_KmD = weight_KD.double().reshape(size, config.num_quantiles, -1)
        weight_KD = weight_KmD.mean(dim=1).float()
    bias_K = torch.zeros(size) if config.objective_bias is None else torch.tensor(config.objective_bias)
    names, learned = config.names(), size - (config.length_expert is not None)
    return LinearExperts(names[:learned], weight_KD[:learned], bias_K[:learned], length=config.length_expert)


def _plain_layers(config: LayoutConfig, tensors: Mapping[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Return the weight and the bias of every linear layer of the gate."""
    names = [f"gating.layers.{n}" for n in range(config.gating_n_hidden + 1)]
    return [(tensors[f"{name}.weight"], tensors[f"{name}.bias"]) for name in names]


def _linear_layers(config: LayoutConfig, tensors: Mapping[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Return QRM's layers with the preceding normalisation folded in: W (a x + c) + b = (W a) x + (W c + b)."""
    layers: list[tuple[Tensor, Tensor]] = []
    factor, shift = torch.ones(config.hidden_size).double(), torch.zeros(config.hidden_size).double()
    for n in range(config.gating_n_hidden + 1):
        weight = tensors[f"gating.layers.{3 * n}.weight"].double()
        bias = tensors.get(f"gating.layers.{3 * n}.bias", torch.zeros(len(weight))).double()
        layers.append(((weight * factor).float(), (weight @ shift + bias).float()))
        if n < config.gating_n_hidden:
            norm = {
                part: tensors[f"gating.layers.{3 * n + 2}.{part}"].double()
                for part in ("weight", "bias", "running_mean", "running_var")
            }
            factor = norm["weight"] / (norm["running_var"] + _NORM_EPSILON).sqrt()
            shift = norm["bias"] - norm["running_mean"] * factor
    return layers


def _gate(config: LayoutConfig, layers: list[tuple[Tensor, Tensor]]) -> Gate:
    shape = GateShape(
        hidden_size=config.hidden_size,
        choices=config.num_objectives,
        hidden=config.gating_hidden_dim,
        n_hidden=config.gating_n_hidden,
        temperature=config.gating_temperature,
    )
    gate = Gate(shape)
    state = gate.state_dict()
    for n, (weight, bias) in enumerate(layers[:-1]):
        state[f"body.{3 * n}.weight"], state[f"body.{3 * n}.bias"] = weight, bias
    state["head.weight"], state["bias_K"] = layers[-1]
    gate.load_state_dict(state)
    return gate
