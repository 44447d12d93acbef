"""Load a scalar reward model of Transformers as a :class:`RewardModel` with one expert.

    reward = score.weight @ hidden state of the conversation's last token (+ score.bias)

Transformers' own head finds the last token by the padding id. If padding and end of turn are the same token, it reads
the token before the last one. facetrm finds the last token from the length of each row instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from facetrm.backbone.checkpoint import model_kind
from facetrm.backbone.transformer import TransformerEncoder
from facetrm.core.errors import BackboneError, ModelError
from facetrm.data.objectives import Objective
from facetrm.hub.heads import SCORE, find_head
from facetrm.hub.layout import read_tensors, tensor_files
from facetrm.model.aggregate import GatedSum
from facetrm.model.experts import LinearExperts
from facetrm.model.gate import Gate, GateShape
from facetrm.model.mixture import Mixture
from facetrm.model.reward_model import RewardModel


def read_classifier(folder: Path, encoder: TransformerEncoder, *, architecture: str) -> RewardModel:
    """Read a folder with a trunk and one linear head with one output.

    Args:
        folder: the folder with the safetensors files.
        encoder: the encoder with the folder's trunk and tokenizer.
        architecture: the architecture that ``config.json`` names.

    Raises:
        ModelError: the head is missing, is not a single linear layer, or has several outputs.
    """
    files, trunk = tensor_files(folder), f"{encoder.model.base_model_prefix}."
    found = sorted(name for name in files if not name.startswith(trunk))
    head = find_head(found, place=folder)
    usual = architecture.endswith("ForSequenceClassification") and head == SCORE
    layout = "sequence classification" if usual else f"{architecture} with one linear head '{head}'"
    return linear_model(encoder, read_tensors(files, found), head, place=folder, layout=layout)


def linear_model(
    encoder: TransformerEncoder, tensors: Mapping[str, Tensor], head: str, *, place: Path, layout: str
) -> RewardModel:
    """Return a model with one expert: a linear layer on the hidden state of the last token.

    Args:
        encoder: the encoder with the trunk and the tokenizer.
        tensors: ``HEAD.weight`` [1, D] and optionally ``HEAD.bias`` [1], float32.
        head: the name of the layer.
        place: the folder, for error messages.
        layout: a description of the folder, for the model's provenance.

    Raises:
        ModelError: the head has several outputs, or its width differs from the trunk's hidden size.
    """
    if head != SCORE and not _is_decoder(encoder, place):
        raise ModelError(
            f"the trunk of '{head}' is not a decoder ('{encoder.model.config.model_type}'), so the head may not "
            "read the last token",
            place=place,
            fix="give a reward model on a decoder",
        )
    weight_KD = tensors[f"{head}.weight"]
    if weight_KD.ndim != 2 or weight_KD.shape[0] != 1:
        raise ModelError(
            f"'{head}.weight' has shape {list(weight_KD.shape)}, and it is not defined how to combine several labels",
            place=place,
            fix="give a reward model with num_labels 1, or one in ArmoRM's layout",
        )
    bias_K = tensors.get(f"{head}.bias", torch.zeros(1))
    if weight_KD.shape[1] != encoder.hidden_size or bias_K.shape != (1,):
        raise ModelError(
            f"the weight and bias of '{head}' have shapes {list(weight_KD.shape)} and {list(bias_K.shape)}, but the "
            f"trunk's hidden size is {encoder.hidden_size}",
            place=place,
            fix="give the trunk that the head was trained on",
        )
    rating = Objective(name=SCORE, low=0.0, high=1.0, kind="continuous", meaning="the reward", source=place.name)
    gate = Gate(GateShape(hidden_size=encoder.hidden_size, choices=1, hidden=0, n_hidden=0))
    mixture = Mixture(LinearExperts([rating], weight_KD, bias_K), GatedSum(gate))
    return RewardModel(encoder, {"all": mixture}, provenance={"layout": layout})


def _is_decoder(encoder: TransformerEncoder, place: Path) -> bool:
    """Return whether the trunk is a known decoder, regardless of the ``kind`` it was loaded with."""
    try:
        return model_kind(encoder.model.config, place=str(place)) == "decoder"
    except BackboneError:
        return False
