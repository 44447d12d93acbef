"""A mixture: experts that rate and an aggregator that combines the ratings. It is one task's model without an encoder.

Shapes: N conversations, D hidden size, K experts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor, nn

from facetrm.backbone.encoder import Features, Layer
from facetrm.core.errors import ModelError
from facetrm.data.objectives import Objective
from facetrm.model.aggregate import GatedSum
from facetrm.model.edits import WeightEdit
from facetrm.model.experts import LinearExperts
from facetrm.model.kinds import AGGREGATORS, EXPERTS, Aggregator, Experts, kind_of
from facetrm.model.output import RewardOutput, Uncertainty
from facetrm.model.uncertainty.reward_uncertainty import RewardUncertainty


@final
class Mixture(nn.Module):
    """Computes rewards from features: ``aggregator.read(features, experts(features))``.

    Linear experts with a gated sum make ArmoRM. Experts with adapters and a :class:`ConcatMLP` make DMoERM's inner
    model. Experts with adapters and a gated sum make LoRA experts whose weights depend on the prompt.

    Args:
        experts: the K experts.
        aggregator: combines the K ratings into a reward. A :class:`ConcatMLP` needs experts with adapters.
        beta: the factor that turns a reward margin into the log odds that the first answer is preferred.
        debias: the debiasing penalties, one row per objective, for the manifest.
        uncertainty: what tells how uncertain the rewards of linear experts and a gated sum are; None for nothing.

    Raises:
        ModelError: the aggregator's K or D differs from the experts', it needs experts with adapters, beta is not
            positive, or the uncertainty belongs to other parts.

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
        uncertainty: RewardUncertainty | None = None,
    ) -> None:
        super().__init__()
        if len(experts.names) != aggregator.size:
            raise ModelError(
                f"there are {len(experts.names)} experts, but the aggregator has {aggregator.size}",
                place="mixture",
                fix="fit the aggregator on these experts",
            )
        if aggregator.reads_vectors and not experts.adapters:
            raise ModelError(
                f"the experts share one vector, but {aggregator.kind} needs one vector per expert",
                place="mixture",
                fix="give experts with adapters, or a gated sum",
            )
        if aggregator.reads_vectors and experts.hidden_size != aggregator.hidden_size:
            raise ModelError(
                f"the experts' hidden size is {experts.hidden_size}, but the aggregator's is {aggregator.hidden_size}",
                place="mixture",
                fix="fit the aggregator on these experts",
            )
        if not (math.isfinite(beta) and beta > 0):
            raise ModelError(f"beta is {beta}", place="mixture", fix="give a number above 0")
        self.experts, self.aggregator, self.beta, self.debias = experts, aggregator, beta, list(debias or [])
        self.uncertainty = uncertainty
        if uncertainty is not None:
            uncertainty.check(experts=self.gated_sum.size, hidden_size=self.linear_experts.hidden_size)

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
        """The names of the experts' adapters, in the order of the columns; empty if the experts have none."""
        return self.experts.adapters

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The different layers of the trunk that the experts read, in order; empty if all read the last."""
        return self.experts.layers

    @property
    def gated_sum(self) -> GatedSum:
        """The aggregator, if it is a gated sum.

        Raises:
            ModelError: the aggregator is of another kind.
        """
        if not isinstance(self.aggregator, GatedSum):
            raise ModelError(
                f"not defined for this aggregator ({self.aggregator.kind}): it has no gate, weights or coefficients",
                place="mixture",
                fix="use contributions, ablation, or an edit that drops an expert",
            )
        return self.aggregator

    @property
    def linear_experts(self) -> LinearExperts:
        """The experts, if they are linear heads on one vector.

        Raises:
            ModelError: the experts have their own adapters.
        """
        if not isinstance(self.experts, LinearExperts):
            raise ModelError(
                f"not defined for experts with their own adapters ({', '.join(self.adapters)})",
                place="mixture",
                fix="give a model whose experts share one vector",
            )
        return self.experts

    def forward(self, features: Features) -> RewardOutput:
        """Return the rewards of N conversations with their bases and contributions."""
        return self.aggregator.read(features, self.experts(features))

    def rewards(self, features: Features) -> Tensor:
        """Return only the rewards of N conversations, [N], by the cheapest computation."""
        return self.aggregator.rewards(features, self.experts(features))

    def uncertainties(self, features: Features, output: RewardOutput) -> list[Uncertainty] | list[None]:
        """Return the uncertainty of each of N rewards; None for each if the mixture stores nothing about it.

        Args:
            features: the features of N conversations.
            output: the output of this mixture for them.
        """
        if self.uncertainty is None:
            return [None] * len(features)
        with torch.no_grad():
            return self.uncertainty.read(features, output, total=self.gated_sum, names=self.names)

    def margins(self, chosen: Features, rejected: Features) -> Tensor:
        """Return the reward margins of N pairs, chosen minus rejected, [N], float64.

        Args:
            chosen: the features of the N chosen conversations.
            rejected: the features of the N rejected conversations, in the same order.
        """
        with torch.no_grad():
            return self.rewards(chosen).double() - self.rewards(rejected).double()

    def margin_probability(self, margin_N: Tensor) -> Tensor:
        """Return P(A is preferred to B) = sigmoid(beta * margin), [N], for reward margins A - B."""
        return torch.sigmoid(self.beta * margin_N)

    def with_edit(self, edit: WeightEdit | None) -> Mixture:
        """Return the same mixture with another edit; None removes the edit. The parts are shared."""
        return self.with_aggregator(self.aggregator.with_edit(edit))

    def with_aggregator(self, aggregator: Aggregator) -> Mixture:
        """Return a mixture with the same experts, beta, debias table and uncertainty, and another aggregator."""
        return Mixture(self.experts, aggregator, beta=self.beta, debias=self.debias, uncertainty=self.uncertainty)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the tensors (for safetensors) and a JSON-ready spec, for :meth:`from_state`."""
        tensors: dict[str, Tensor] = {}
        spec: dict[str, Any] = {"beta": self.beta, "debias": self.debias}
        parts: dict[str, Experts | Aggregator | RewardUncertainty] = {
            "experts": self.experts,
            "aggregator": self.aggregator,
        }
        if self.uncertainty is not None:  # without the key, the model is one that earlier releases read, too
            parts["uncertainty"] = self.uncertainty
        for name, part in parts.items():
            found, spec[name] = part.state()
            tensors |= {f"{name}.{key}": tensor for key, tensor in found.items()}
        return tensors, spec

    @staticmethod
    def from_state(tensors: Mapping[str, Tensor], spec: Mapping[str, Any]) -> Mixture:
        """Restore the mixture, bit-equal, from the output of :meth:`state`.

        Args:
            tensors: the tensors, by name.
            spec: the spec that belongs to them.

        Raises:
            ModelError: a tensor or a key is missing, unexpected or malformed.
        """
        parts: dict[str, dict[str, Tensor]] = {"experts": {}, "aggregator": {}}
        if "uncertainty" in spec:
            parts["uncertainty"] = {}
        for name, tensor in tensors.items():
            part, _, key = name.partition(".")
            if part not in parts:
                raise ModelError(f"tensor '{name}' is unexpected", place="mixture", fix="save the model again")
            parts[part][key] = tensor
        try:
            experts_spec, aggregator_spec, beta, debias = (spec[k] for k in ("experts", "aggregator", "beta", "debias"))
            beta = float(beta)
        except (KeyError, TypeError, ValueError) as exc:
            raise ModelError(
                f"missing or malformed entry: {exc}", place="mixture", fix="save the model again"
            ) from None
        experts = kind_of(EXPERTS, experts_spec).from_state(parts["experts"], experts_spec)
        aggregator = kind_of(AGGREGATORS, aggregator_spec).from_state(parts["aggregator"], aggregator_spec)
        known = None
        if "uncertainty" in spec:
            known = RewardUncertainty.from_state(parts["uncertainty"], spec["uncertainty"])
        return Mixture(experts, aggregator, beta=beta, debias=debias, uncertainty=known)
