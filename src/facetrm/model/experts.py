"""Linear experts: K named ratings of a response vector, and an optional expert for the response length.

    scores_NK = response_ND @ weight_KD.T + bias_K        always in float32; each head reads one layer
    length    = (f(tokens) - f(low)) / (f(high) - f(low))  f = identity or log(1 + x); the last column

Shapes: N conversations, D hidden size, K experts (learned heads first, then ``length``).

Reference: ArmoRM (arXiv 2406.12845), section 3.1. Three additions of facetrm: heads may have an intercept, length may
be an expert, and a head may read an inner layer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, final

import torch
from pydantic import ValidationError, model_validator
from torch import Tensor, nn

from facetrm.backbone.encoder import LAST, Features, Layer, in_order, is_layer, labels, shown_layers
from facetrm.core.config import Section
from facetrm.core.errors import BackboneError, ModelError, short
from facetrm.data.objectives import Direction, Objective, check_unique
from facetrm.model.gate import check_kind

LENGTH: Final = "length"


@final
class LengthScale(Section):
    """The map from a response's length in tokens to the [0, 1] scale. It is not clipped outside ``low`` to ``high``.

    Attributes:
        low: the length in tokens that maps to 0.
        high: the length in tokens that maps to 1.
        log: whether to use log(1 + tokens) instead of tokens.
        direction: ``higher`` if longer is better, ``lower`` if shorter is better, or ``unknown``. An unknown direction
            keeps the expert out of the gate; it can still be the debiasing target.
    """

    low: float = 0.0
    high: float = 1024.0
    log: bool = False
    direction: Direction = "unknown"

    @model_validator(mode="after")
    def _range(self) -> LengthScale:
        if not 0.0 <= self.low < self.high:
            raise ValueError(f"low {self.low:g} must be at least 0 and below high {self.high:g}")
        return self

    @staticmethod
    def covering(length_N: Tensor, *, log: bool = False, direction: Direction = "unknown") -> LengthScale:
        """Return a scale from the 1% quantile to the 99% quantile of typical lengths.

        Args:
            length_N: the lengths of typical responses, in tokens.
            log: whether to use log(1 + tokens) instead of tokens.
            direction: whether longer is better (``higher``), worse (``lower``) or ``unknown``.

        Raises:
            ModelError: ``length_N`` is empty.
        """
        if not len(length_N):
            raise ModelError(
                "there are no response lengths to compute a scale from",
                place="length expert",
                fix="give at least one response",
            )
        low, high = torch.quantile(length_N.to(torch.float64), torch.tensor([0.01, 0.99], dtype=torch.float64)).tolist()
        return LengthScale(low=low, high=max(high, low + 1.0), log=log, direction=direction)

    def objective(self) -> Objective:
        """Return the objective of the length column. Its raw scale is tokens, or log(1 + tokens) if ``log`` is set."""
        low, high = (math.log1p(self.low), math.log1p(self.high)) if self.log else (self.low, self.high)
        return Objective(
            name=LENGTH,
            low=low,
            high=high,
            kind="continuous",
            direction=self.direction,
            meaning="log(1 + tokens of the response)" if self.log else "tokens of the response",
            rater="the tokenizer",
            source="counted",
        )

    def to_unit(self, length_N: Tensor) -> Tensor:
        """Return the ratings of lengths in tokens on the [0, 1] scale, [N], float32.

        With direction ``lower``, shorter responses get higher ratings.
        """
        objective, x = self.objective(), length_N.to(torch.float64)
        unit = ((torch.log1p(x) if self.log else x) - objective.low) / (objective.high - objective.low)
        return (1.0 - unit if self.direction == "lower" else unit).to(torch.float32)


@final
class LinearExperts(nn.Module):
    """K fixed linear experts on the bare trunk, optionally with a ``length`` expert as the last one.

    Args:
        objectives: the objectives of the linear heads, with unique names. The name ``length`` is reserved if there is
            a length expert.
        weight_KD: the weights of the linear heads, one row per objective.
        bias_K: the intercepts of the heads.
        length: the scale of the length expert; None for no length expert.
        layers: the layer that each linear head reads, one per objective; None if all read the last.

    Raises:
        ModelError: the shapes do not match, a weight is not finite, or a layer is neither a number from 1 nor ``last``.
        DataError: two experts have the same name.

    Example:
        >>> import torch
        >>> from facetrm import LinearExperts, Objective
        >>> LinearExperts([Objective(name="helpful", low=0, high=4)], torch.zeros(1, 32), torch.zeros(1)).names
        ('helpful',)
    """

    weight_KD: Tensor
    bias_K: Tensor

    def __init__(
        self,
        objectives: Sequence[Objective],
        weight_KD: Tensor,
        bias_K: Tensor,
        *,
        length: LengthScale | None = None,
        layers: Sequence[Layer] | None = None,
    ) -> None:
        super().__init__()
        heads = len(objectives)
        if weight_KD.ndim != 2 or weight_KD.shape[0] != heads or bias_K.shape != (heads,):
            raise ModelError(
                f"weight_KD has shape {list(weight_KD.shape)} and bias_K {list(bias_K.shape)}, for {heads} objectives",
                place="linear experts",
                fix=f"give weight_KD [{heads}, D] and bias_K [{heads}]",
            )
        if not (bool(torch.isfinite(weight_KD).all()) and bool(torch.isfinite(bias_K).all())):
            raise ModelError(
                "a weight is not finite",
                place="linear experts",
                fix="use a checkpoint with finite weights, or fit the experts again",
            )
        self.reads: tuple[Layer, ...] = (LAST,) * heads if layers is None else tuple(layers)
        wrong = next((layer for layer in self.reads if not is_layer(layer)), None)
        if wrong is not None or len(self.reads) != heads:
            raise ModelError(
                f"{len(self.reads)} layers for {heads} objectives" if wrong is None else f"layer {short(wrong)}",
                place="linear experts",
                fix="give one layer per objective: a number from 1, or last",
            )
        self.length = length
        self.objectives = (*objectives, *(() if length is None else (length.objective(),)))
        check_unique(self.objectives)
        self.register_buffer("weight_KD", weight_KD.detach().to(torch.float32).clone())
        self.register_buffer("bias_K", bias_K.detach().to(torch.float32).clone())

    @property
    def names(self) -> tuple[str, ...]:
        """The K expert names, in the order of the columns."""
        return tuple(objective.name for objective in self.objectives)

    @property
    def adapters(self) -> tuple[str, ...]:
        """Always empty, because linear experts read the trunk without adapters."""
        return ()

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The different layers that the heads read, in order; empty if all read the last."""
        return labels(in_order(self.reads))

    @property
    def hidden_size(self) -> int:
        """The hidden size, D."""
        return int(self.weight_KD.shape[1])

    def rate(self, response_ND: Tensor) -> Tensor:
        """Return the ratings of the linear heads, without the ``length`` column, float32.

        Args:
            response_ND: the response vectors.

        Raises:
            ModelError: the hidden size differs, or the heads are not in float32.
        """
        if response_ND.ndim != 2 or response_ND.shape[1] != self.hidden_size:
            raise ModelError(
                f"the response features have shape {list(response_ND.shape)}",
                place="linear experts",
                fix=f"use the backbone that the experts were fitted on; the shape must be [N, {self.hidden_size}]",
            )
        if self.weight_KD.dtype != torch.float32:
            raise ModelError(
                f"the heads were cast to {self.weight_KD.dtype}",
                place="linear experts",
                fix="cast only the backbone; heads compute in float32",
            )
        return response_ND.to(self.weight_KD) @ self.weight_KD.T + self.bias_K

    def forward(self, features: Features) -> Tensor:
        """Return the ratings on the [0, 1] scale, [N, K]. Higher is better; ratings are linear and not clipped.

        Args:
            features: the features of N conversations, which hold the layers that the heads read, and maybe others.

        Raises:
            ModelError: the features do not hold a layer that a head reads, or have another hidden size.
        """
        try:
            vectors = {layer: features.response(layer) for layer in in_order(self.reads)}
            alone_ND = None if self.layers else features.response(LAST if self.reads else None)
        except BackboneError as exc:
            wanted = f"with {shown_layers(self.layers)}" if self.layers else "without adapters"
            fix = f"encode {wanted}; linear experts read [N, {max(len(self.layers), 1)}, D]"
            raise ModelError(exc.problem, place="linear experts", fix=fix) from None
        if alone_ND is not None:
            scores = self.rate(alone_ND)
        else:
            # One product per layer over all heads, so that a head's score does not depend on the others' layers.
            rated = {layer: self.rate(vector_ND) for layer, vector_ND in vectors.items()}
            scores = torch.stack([rated[layer][:, k] for k, layer in enumerate(self.reads)], dim=1)
        if self.length is None:
            return scores
        return torch.cat([scores, self.length.to_unit(features.length_N).to(scores)[:, None]], dim=1)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the tensors (for safetensors) and a JSON-ready spec, for :meth:`from_state`."""
        heads = self.objectives if self.length is None else self.objectives[:-1]
        spec = {
            "kind": "linear",
            "objectives": [objective.model_dump(mode="json") for objective in heads],
            "length": None if self.length is None else self.length.model_dump(mode="json"),
        }
        if self.layers:  # without it, the model is one that earlier releases read, too
            spec["layers"] = list(self.reads)
        return {"weight_KD": self.weight_KD.contiguous(), "bias_K": self.bias_K.contiguous()}, spec

    @staticmethod
    def from_state(tensors: Mapping[str, Tensor], spec: Mapping[str, Any]) -> LinearExperts:
        """Restore the experts, bit-equal, from the output of :meth:`state`.

        Args:
            tensors: the tensors, by name.
            spec: the spec that belongs to them.

        Raises:
            ModelError: a tensor or a key is missing or malformed.
        """
        place, fix = "linear experts", "save the model again"
        check_kind(spec, "linear", what="experts")
        unexpected_tensor(tensors, ("weight_KD", "bias_K"))
        try:
            objectives = [Objective.model_validate(item) for item in spec["objectives"]]
            length = None if spec["length"] is None else LengthScale.model_validate(spec["length"])
            weight_KD, bias_K = tensors["weight_KD"], tensors["bias_K"]
        except (KeyError, TypeError) as exc:
            raise ModelError(f"missing or malformed entry: {exc}", place=place, fix=fix) from None
        except ValidationError as exc:
            raise invalid_spec(exc, place=place) from None
        layers = spec.get("layers")
        if layers is not None and not isinstance(layers, list):
            raise ModelError(f"layers is {short(layers)}, not a list", place=place, fix=fix)
        return LinearExperts(objectives, weight_KD, bias_K, length=length, layers=layers)


def invalid_spec(error: ValidationError, *, place: str) -> ModelError:
    """Return a ModelError for the first invalid value in a saved spec.

    Args:
        error: the error from pydantic.
        place: the part of the model that the spec belongs to.
    """
    first = error.errors(include_url=False, include_context=False)[0]
    key = ".".join(str(part) for part in first["loc"]) or "spec"
    return ModelError(f"'{key}' is {first['input']!r} ({first['msg']})", place=place, fix="save the model again")


def unexpected_tensor(tensors: Mapping[str, Tensor], known: Sequence[str]) -> None:
    """Check that saved experts have no unexpected tensor.

    Args:
        tensors: the tensors of the experts, by name.
        known: the names that are expected.

    Raises:
        ModelError: a tensor's name is not expected.
    """
    for name in sorted(tensors.keys() - set(known)):
        raise ModelError(f"tensor 'experts.{name}' is unexpected", place="mixture", fix="save the model again")
