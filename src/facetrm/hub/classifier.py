"""Any scalar reward model of Transformers as a :class:`RewardModel` of one expert, read by our engine.

    reward = score.weight @ hidden state of the conversation's last token (+ score.bias)

Transformers' own head looks for the last token by the padding id, and reads the one before it where padding and end of
turn are the same token; here the last token is known from the lengths.
"""

from __future__ import annotations

from pathlib import Path

import torch

from facetrm.backbone.transformer import TransformerEncoder
from facetrm.core.errors import ModelError
from facetrm.data.objectives import Objective
from facetrm.hub.layout import read_tensors, tensor_files
from facetrm.model.aggregate import GatedSum
from facetrm.model.experts import LinearExperts
from facetrm.model.gate import Gate, GateShape
from facetrm.model.mixture import Mixture
from facetrm.model.reward_model import RewardModel

SCORE = "score"


def read_classifier(folder: Path, encoder: TransformerEncoder) -> RewardModel:
    """Return the model of a folder that holds a trunk and a linear head ``score`` with one row.

    Args:
        folder: with safetensors.
        encoder: of the folder's trunk and tokenizer.

    Raises:
        ModelError: the head is missing (Transformers would draw it at random), has several labels, or is none.
    """
    files, trunk = tensor_files(folder), f"{encoder.model.base_model_prefix}."
    found = sorted(name for name in files if not name.startswith(trunk))
    if f"{SCORE}.weight" not in files:
        other = f"; it holds {', '.join(found[:3])}" if found else ""
        raise ModelError(
            f"tensor '{SCORE}.weight' is missing{other}",
            place=folder,
            fix="give the checkpoint that was saved with its head: Transformers would draw one at random and say so "
            "in its log alone",
        )
    unknown = [name for name in found if name not in (f"{SCORE}.weight", f"{SCORE}.bias")]
    if unknown:
        raise ModelError(
            f"tensor '{unknown[0]}' is unexpected beside '{SCORE}.weight'",
            place=folder,
            fix="give a reward model with one linear head",
        )
    head = read_tensors(files, [name for name in found if name.startswith(f"{SCORE}.")])
    weight_KD = head[f"{SCORE}.weight"]
    if weight_KD.ndim != 2 or weight_KD.shape[0] != 1:
        raise ModelError(
            f"'{SCORE}.weight' has shape {list(weight_KD.shape)}: {weight_KD.shape[0]} labels, and no rule to mix them",
            place=folder,
            fix="give a reward model with num_labels 1, or one in ArmoRM's layout",
        )
    bias_K = head.get(f"{SCORE}.bias", torch.zeros(1))
    rating = Objective(name=SCORE, low=0.0, high=1.0, kind="continuous", meaning="the reward", source=folder.name)
    gate = Gate(GateShape(hidden_size=encoder.hidden_size, choices=1, hidden=0, n_hidden=0))
    mixture = Mixture(LinearExperts([rating], weight_KD, bias_K), GatedSum(gate))
    return RewardModel(encoder, {"all": mixture}, provenance={"layout": "sequence classification"})
