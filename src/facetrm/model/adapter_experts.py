"""Experts with one adapter each. Head k reads the response vector from its own adapter.

    scores_NK = sum_D response_NKD * weight_KD + bias_K        always in float32

Shapes: N conversations, D hidden size, K experts and adapters.

Reference: DMoERM (arXiv 2403.01197), the inner mixture: one LoRA and one head per capability. Unlike the released code,
which leaves every head at the values of the task's head, facetrm trains and saves each head with its adapter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, final

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from facetrm.backbone.encoder import Features, Layer
from facetrm.core.errors import ModelError
from facetrm.data.objectives import Objective, check_unique
from facetrm.model.experts import invalid_spec, unexpected_tensor
from facetrm.model.gate import check_kind

_PLACE: Final = "adapter experts"


@final
class AdapterExperts(nn.Module):
    """K linear experts, each of which rates the response vector from its own adapter.

    Args:
        objectives: the K objectives, with unique names. A capability is named ``task/capability``.
        weight_KD: the weights of the linear heads, one row per objective.
        bias_K: the intercepts of the heads.
        adapters: the names of the K adapters in the encoder, in the order of the objectives.

    Raises:
        ModelError: the shapes do not match, an adapter is missing, unnamed or used twice, or a weight is not finite.
        DataError: two experts have the same name.

    Example:
        >>> import torch
        >>> from facetrm import AdapterExperts, Objective
        >>> rated = [Objective(name="chat/honesty", low=0, high=1), Objective(name="chat/style", low=0, high=1)]
        >>> AdapterExperts(rated, torch.zeros(2, 32), torch.zeros(2), adapters=["honesty", "style"]).names
        ('chat/honesty', 'chat/style')
    """

    weight_KD: Tensor
    bias_K: Tensor

    def __init__(
        self, objectives: Sequence[Objective], weight_KD: Tensor, bias_K: Tensor, *, adapters: Sequence[str]
    ) -> None:
        super().__init__()
        heads = len(objectives)
        if weight_KD.ndim != 2 or weight_KD.shape[0] != heads or bias_K.shape != (heads,):
            raise ModelError(
                f"weight_KD has shape {list(weight_KD.shape)} and bias_K {list(bias_K.shape)}, for {heads} objectives",
                place=_PLACE,
                fix=f"give weight_KD [{heads}, D] and bias_K [{heads}]",
            )
        if heads == 0 or len(adapters) != heads:
            raise ModelError(
                f"{len(adapters)} adapters for {heads} objectives",
                place=_PLACE,
                fix="give at least one objective, and one adapter per objective",
            )
        twice = next((name for n, name in enumerate(adapters) if not name or name in adapters[:n]), None)
        if twice is not None:
            raise ModelError(
                f"adapter '{twice}' is used twice" if twice else "an adapter has no name",
                place=_PLACE,
                fix="give each expert its own adapter",
            )
        if not (bool(torch.isfinite(weight_KD).all()) and bool(torch.isfinite(bias_K).all())):
            raise ModelError(
                "a weight is not finite",
                place=_PLACE,
                fix="use a checkpoint with finite weights, or fit the experts again",
            )
        check_unique(objectives)
        self.objectives, self.adapters = tuple(objectives), tuple(adapters)
        self.register_buffer("weight_KD", weight_KD.detach().to(torch.float32).clone())
        self.register_buffer("bias_K", bias_K.detach().to(torch.float32).clone())

    @property
    def names(self) -> tuple[str, ...]:
        """The K expert names, in the order of the columns."""
        return tuple(objective.name for objective in self.objectives)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Always empty, because adapters are read at the last layer."""
        return ()

    @property
    def hidden_size(self) -> int:
        """The hidden size, D."""
        return int(self.weight_KD.shape[1])

    def forward(self, features: Features) -> Tensor:
        """Return the ratings on the [0, 1] scale, [N, K]. Higher is better; ratings are linear and not clipped.

        Args:
            features: the features of N conversations, encoded with the K adapters in their order (A = K).

        Raises:
            ModelError: the number of adapters or the hidden size differs, or the heads are not in float32.
        """
        response_NKD = features.response_NAD
        if tuple(response_NKD.shape[1:]) != tuple(self.weight_KD.shape):
            raise ModelError(
                f"the response features have shape {list(response_NKD.shape)}",
                place=_PLACE,
                fix=f"encode with these adapters, in this order: {', '.join(self.adapters)}; "
                f"the shape must be [N, {len(self.adapters)}, {self.hidden_size}]",
            )
        if self.weight_KD.dtype != torch.float32:
            raise ModelError(
                f"the heads were cast to {self.weight_KD.dtype}",
                place=_PLACE,
                fix="cast only the backbone; heads compute in float32",
            )
        return (response_NKD.to(self.weight_KD) * self.weight_KD).sum(dim=-1) + self.bias_K

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the tensors (for safetensors) and a JSON-ready spec, for :meth:`from_state`."""
        spec = {
            "kind": "adapter",
            "objectives": [objective.model_dump(mode="json") for objective in self.objectives],
            "adapters": list(self.adapters),
        }
        return {"weight_KD": self.weight_KD.contiguous(), "bias_K": self.bias_K.contiguous()}, spec

    @staticmethod
    def from_state(tensors: Mapping[str, Tensor], spec: Mapping[str, Any]) -> AdapterExperts:
        """Restore the experts, bit-equal, from the output of :meth:`state`.

        Args:
            tensors: the tensors, by name.
            spec: the spec that belongs to them.

        Raises:
            ModelError: a tensor or a key is missing, unexpected or malformed.
        """
        check_kind(spec, "adapter", what="experts")
        unexpected_tensor(tensors, ("weight_KD", "bias_K"))
        try:
            objectives = [Objective.model_validate(item) for item in spec["objectives"]]
            adapters, weight_KD, bias_K = spec["adapters"], tensors["weight_KD"], tensors["bias_K"]
        except (KeyError, TypeError) as exc:
            raise ModelError(f"missing or malformed entry: {exc}", place=_PLACE, fix="save the model again") from None
        except ValidationError as exc:
            raise invalid_spec(exc, place=_PLACE) from None
        if not isinstance(adapters, list) or not all(isinstance(name, str) for name in adapters):
            raise ModelError(f"adapters is {adapters!r}, not a list of names", place=_PLACE, fix="save the model again")
        return AdapterExperts(objectives, weight_KD, bias_K, adapters=adapters)
