"""A mixture: experts that rate, and an aggregator that sums. One task's reward model without its encoder.

Shapes: N conversations, D hidden size, K experts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor, nn

from facetrm.backbone.encoder import Features
from facetrm.core.errors import ModelError
from facetrm.data.objectives import Objective
from facetrm.model.aggregate import GatedSum
from facetrm.model.edits import WeightEdit
from facetrm.model.experts import LinearExperts
from facetrm.model.kinds import AGGREGATORS, EXPERTS, Aggregator, Experts, kind_of
from facetrm.model.output import RewardOutput


@final
class Mixture(nn.Module):
    """Features to rewards: ``aggregator.read(features, experts(features))``.

    Linear experts under a gated sum are ArmoRM; experts with adapters under a network on their vectors are DMoERM's
    inner model; experts with adapters under a gated sum are LoRA experts that the prompt weighs.

    Args:
        experts: the K experts.
        aggregator: combines the K ratings into a reward. A :class:`ConcatMLP` needs experts with adapters.
        beta: the factor that turns a reward margin into the log odds that the first answer is preferred.
        debias: the debiasing penalties, one row per objective, for the manifest.

    Raises:
        ModelError: the aggregator's K or D differs from the experts', it needs experts with adapters, or beta is not
            positive.

    Example:
        >>> from facetrm import toy_model
        >>> toy_model().mixtures["all"].names
        ('helpful', 'honest', 'verbose')
    """

    def __init__(
        self,
        experts: Experts,
        aggregator: Aggregator,
        *,
        beta: float = 1.0,
        debias: list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__()
        if len(experts.names) != aggregator.size:
            raise ModelError(
                f"{len(experts.names)} experts under an aggregator of {aggregator.size}",
                place="mixture",
                fix="fit the aggregator on these experts",
            )
        if aggregator.reads_vectors and not experts.adapters:
            raise ModelError(
                f"experts on one vector under {aggregator.kind}, which reads one vector per expert",
                place="mixture",
                fix="give experts with adapters, or a gated sum",
            )
        if aggregator.reads_vectors and experts.hidden_size != aggregator.hidden_size:
            raise ModelError(
                f"experts of {experts.hidden_size} features under an aggregator of {aggregator.hidden_size}",
                place="mixture",
                fix="fit the aggregator on these experts",
            )
        if not (math.isfinite(beta) and beta > 0):
            raise ModelError(f"beta is {beta}", place="mixture", fix="give a number above 0")
        self.experts, self.aggregator, self.beta, self.debias = experts, aggregator, beta, list(debias or [])

    @property
    def names(self) -> tuple[str, ...]:
        """The K expert names, in the order of the columns."""
        return self.experts.names

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """The K objectives, in the order of the columns."""
        return self.experts.objectives

    @property
    def adapters(self) -> tuple[str, ...]:
        """The adapters that the encoder must be asked for, in order; none for the bare trunk."""
        return self.experts.adapters

    @property
    def gated_sum(self) -> GatedSum:
        """The aggregator, where it is a gated sum.

        Raises:
            ModelError: it is another: what was asked for is not defined for it.
        """
        if not isinstance(self.aggregator, GatedSum):
            raise ModelError(
                f"not defined for this aggregator ({self.aggregator.kind}): it has no gate, weights or coefficients",
                place="mixture",
                fix="ask for contributions, ablation, or an edit that drops an expert",
            )
        return self.aggregator

    @property
    def linear_experts(self) -> LinearExperts:
        """The experts, where all are linear heads on one vector.

        Raises:
            ModelError: each reads the vector of an adapter of its own.
        """
        if not isinstance(self.experts, LinearExperts):
            raise ModelError(
                f"not defined for experts with adapters of their own ({', '.join(self.adapters)})",
                place="mixture",
                fix="give a model whose experts read one vector",
            )
        return self.experts

    def forward(self, features: Features) -> RewardOutput:
        """Return reward, base and contributions of the N conversations behind ``features``."""
        return self.aggregator.read(features, self.experts(features))

    def rewards(self, features: Features) -> Tensor:
        """Return the rewards of the N conversations behind ``features`` alone, [N], as cheaply as can be."""
        return self.aggregator.rewards(features, self.experts(features))

    def margins(self, chosen: Features, rejected: Features) -> Tensor:
        """Return the reward margins of N pairs, chosen minus rejected, float64 on the CPU."""
        with torch.no_grad():
            return self.rewards(chosen).double() - self.rewards(rejected).double()

    def margin_probability(self, margin_N: Tensor) -> Tensor:
        """Return P(A is preferred to B) = sigmoid(beta * margin) of reward margins A - B, [N]."""
        return torch.sigmoid(self.beta * margin_N)

    def with_edit(self, edit: WeightEdit | None) -> Mixture:
        """Return the same mixture with another edit (None undoes all); the parts are shared."""
        return self.with_aggregator(self.aggregator.with_edit(edit))

    def with_aggregator(self, aggregator: Aggregator) -> Mixture:
        """Return the same experts, beta and debias table under another aggregator."""
        return Mixture(self.experts, aggregator, beta=self.beta, debias=self.debias)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the tensors (for safetensors) and a JSON-able spec: what :meth:`from_state` needs."""
        tensors: dict[str, Tensor] = {}
        spec: dict[str, Any] = {"beta": self.beta, "debias": self.debias}
        for name, part in (("experts", self.experts), ("aggregator", self.aggregator)):
            found, spec[name] = part.state()
            tensors |= {f"{name}.{key}": tensor for key, tensor in found.items()}
        return tensors, spec

    @staticmethod
    def from_state(tensors: Mapping[str, Tensor], spec: Mapping[str, Any]) -> Mixture:
        """Make the mixture again, bit-equal, from :meth:`state`.

        Raises:
            ModelError: a tensor or a key is missing, unexpected or malformed.
        """
        parts: dict[str, dict[str, Tensor]] = {"experts": {}, "aggregator": {}}
        for name, tensor in tensors.items():
            part, _, key = name.partition(".")
            if part not in parts:
                raise ModelError(f"tensor '{name}' is unexpected", place="mixture", fix="save the model again")
            parts[part][key] = tensor
        try:
            experts_spec, aggregator_spec, beta, debias = (spec[k] for k in ("experts", "aggregator", "beta", "debias"))
            beta = float(beta)
        except (KeyError, TypeError, ValueError) as exc:
            raise ModelError(f"missing or malformed {exc}", place="mixture", fix="save the model again") from None
        experts = kind_of(EXPERTS, experts_spec).from_state(parts["experts"], experts_spec)
        aggregator = kind_of(AGGREGATORS, aggregator_spec).from_state(parts["aggregator"], aggregator_spec)
        return Mixture(experts, aggregator, beta=beta, debias=debias)
