"""The :class:`GatedSum`: combines the experts' scores into one reward, by weights that a user can edit.

    coefficient = scale * (weights * unit) @ debias.T        unit = 1 in ArmoRM, see :class:`Gate`
    reward      = sum_k coefficient_k * score_k
                = base + sum_k contribution_k
    contribution_k = coefficient_k * (score_k - reference_k)        base = sum_k coefficient_k * reference_k

Shapes: N conversations, D hidden size, K experts.

Reference: ArmoRM (arXiv 2406.12845), sections 3.2 and 3.3; ``debias`` is T = I with ``T[v, :] -= lambda``, v the
verbosity objective.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final, final

import torch
from torch import Tensor, nn

from facetrm.backbone.encoder import Features
from facetrm.core.errors import ModelError
from facetrm.model.edits import WeightEdit
from facetrm.model.gate import Gate, check_kind, check_tensors
from facetrm.model.output import RewardOutput


@final
class GatedSum(nn.Module):
    """Computes rewards as gated sums of debiased scores. Each reward is a base plus one contribution per expert.

        reward_N = scale * ((scores_NK @ debias_KK) * (weights_NK * unit_K)).sum(-1)

    Args:
        gate: the gate that turns the prompt vector into weights over K experts.
        debias_KK: the debiasing matrix T; None for the identity.
        scale: a factor on the reward: 1 in facetrm's models; imported checkpoints may have another, even a
            negative one.
        reference_K: the scores of a typical answer (the training mean); None for zeros. It moves reward between the
            base and the contributions and never changes the reward.
        edit: the user's changes to the weights; None for no change.

    Raises:
        ModelError: sizes do not match, a value is not finite, or the edit does not fit the gate.

    Example:
        >>> from facetrm import Gate, GateShape, GatedSum
        >>> gate = Gate(GateShape(hidden_size=32, choices=3))
        >>> GatedSum(gate).scale
        1.0
    """

    kind: Final = "gated_sum"
    reads_vectors: Final = False
    debias_KK: Tensor
    reference_K: Tensor
    free_K: Tensor
    pinned_K: Tensor
    factor_K: Tensor
    coefficients_KK: Tensor

    def __init__(
        self,
        gate: Gate,
        debias_KK: Tensor | None = None,
        *,
        scale: float = 1.0,
        reference_K: Tensor | None = None,
        edit: WeightEdit | None = None,
    ) -> None:
        super().__init__()
        size = gate.shape.choices
        debias_KK = torch.eye(size) if debias_KK is None else debias_KK.detach().clone().float()
        reference_K = torch.zeros(size) if reference_K is None else reference_K.detach().clone().float()
        for name, tensor, want in (("debias_KK", debias_KK, (size, size)), ("reference_K", reference_K, (size,))):
            if tuple(tensor.shape) != want:
                raise ModelError(
                    f"{name} has shape {tuple(tensor.shape)}, not {want}", place="GatedSum", fix="use the gate's K"
                )
            if not bool(torch.isfinite(tensor).all()):
                raise ModelError(f"{name} is not finite", place="GatedSum", fix="fit it again on finite scores")
        if not math.isfinite(scale) or scale == 0:
            raise ModelError(f"scale is {scale}", place="GatedSum", fix="give a finite number that is not 0")
        self.gate, self.scale, self.edit = gate, scale, edit or WeightEdit()
        self.register_buffer("debias_KK", debias_KK)
        self.register_buffer("reference_K", reference_K)
        self._apply_edit()

    def _apply_edit(self) -> None:
        """Turn the edit into tensors: the experts that share the free weight, the pinned weights, the factors."""
        gated = self.gate.gated_K.tolist()
        self.edit.check(gated)
        size, pinned = self.gate.shape.choices, dict(self.edit.pin)
        full = self.edit.pinned_total >= 1 - 1e-6
        kept = [k in pinned if full else k not in self.edit.drop for k in range(size)]
        factor_K = torch.tensor([float(k) for k in kept], dtype=torch.float32)
        for k, factor in self.edit.scale:
            factor_K[k] *= factor
        diagonal_KK = torch.diag(torch.diagonal(self.debias_KK))
        self.register_buffer(
            "free_K", torch.tensor([k and not full and i not in pinned for i, k in enumerate(kept)]), persistent=False
        )
        self.register_buffer(
            "pinned_K", torch.tensor([pinned.get(k, 0.0) for k in range(size)], dtype=torch.float32), persistent=False
        )
        self.register_buffer("factor_K", factor_K, persistent=False)
        edited_KK = diagonal_KK + factor_K[:, None] * (self.debias_KK - diagonal_KK)
        self.register_buffer("coefficients_KK", self.scale * self.gate.unit_K[:, None] * edited_KK.T, persistent=False)

    @property
    def size(self) -> int:
        """The number of experts, K."""
        return self.gate.shape.choices

    @property
    def hidden_size(self) -> int:
        """The hidden size of the prompt vector, D."""
        return self.gate.shape.hidden_size

    def with_edit(self, edit: WeightEdit | None) -> GatedSum:
        """Return the same sum with another edit; None removes the edit. The gate is shared, not copied."""
        return GatedSum(self.gate, self.debias_KK, scale=self.scale, reference_K=self.reference_K, edit=edit)

    def with_reference(self, reference_K: Tensor | None) -> GatedSum:
        """Return the same sum with another reference answer: the rewards stay, the bases and contributions change."""
        return GatedSum(self.gate, self.debias_KK, scale=self.scale, reference_K=reference_K, edit=self.edit)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the tensors (for safetensors) and a JSON-ready spec, for :meth:`from_state`."""
        tensors, shape = self.gate.state()
        named = {f"gate.{name}": tensor for name, tensor in tensors.items()}
        named |= {"debias_KK": self.debias_KK.contiguous(), "reference_K": self.reference_K.contiguous()}
        return named, {"kind": self.kind, "scale": self.scale, "edit": self.edit.to_dict(), "gate": shape}

    @staticmethod
    def from_state(tensors: Mapping[str, Tensor], spec: Mapping[str, Any]) -> GatedSum:
        """Restore the sum, bit-equal, from the output of :meth:`state`.

        Args:
            tensors: the tensors, by name.
            spec: the spec that belongs to them.

        Raises:
            ModelError: a tensor or a key is missing or malformed.
        """
        check_kind(spec, GatedSum.kind, what="aggregator")
        try:
            shape, scale, edit = spec["gate"], float(spec["scale"]), WeightEdit.from_dict(spec["edit"])
        except (KeyError, TypeError, ValueError) as exc:
            raise ModelError(
                f"missing or malformed entry: {exc}", place="aggregator", fix="save the model again"
            ) from None
        parts = {name: tensor for name, tensor in tensors.items() if name.startswith("gate.")}
        gate = Gate.from_state({name.removeprefix("gate."): tensor for name, tensor in parts.items()}, shape)
        rest, size = {name: t for name, t in tensors.items() if name not in parts}, gate.shape.choices
        check_tensors(rest, {"debias_KK": (size, size), "reference_K": (size,)}, place="aggregator")
        return GatedSum(gate, rest["debias_KK"], scale=scale, reference_K=rest["reference_K"], edit=edit)

    def weights(self, prompt_ND: Tensor) -> Tensor:
        """Return the weights after the edit, [N, K]. They sum to 1 unless an objective is scaled."""
        return self.weights_of(self.gate.logits(prompt_ND))

    def weights_of(self, logits_NK: Tensor) -> Tensor:
        """Return the weights after the edit, [N, K], from the gate's logits."""
        if self.edit == WeightEdit():
            return torch.softmax(logits_NK, dim=-1)
        if not bool(self.free_K.any()):
            return (self.factor_K * self.pinned_K).expand(len(logits_NK), -1)
        free_NK = torch.softmax(logits_NK.masked_fill(~self.free_K, float("-inf")), dim=-1)
        return self.factor_K * (self.pinned_K + (1.0 - self.edit.pinned_total) * free_NK)

    def combine(self, weights_NK: Tensor, scores_NK: Tensor) -> RewardOutput:
        """Return the rewards for given weights and scores. Both fitting and scoring use this function.

        Args:
            weights_NK: the weights of the experts after the edit.
            scores_NK: the experts' ratings on the [0, 1] scale.
        """
        scores_NK = scores_NK.float()
        coefficients_NK = weights_NK @ self.coefficients_KK
        contributions_NK = coefficients_NK * (scores_NK - self.reference_K)
        base_N = coefficients_NK @ self.reference_K
        reward_N = base_N + contributions_NK.sum(dim=-1)
        return RewardOutput(reward_N, base_N, contributions_NK, scores_NK, weights_NK, coefficients_NK)

    def forward(self, prompt_ND: Tensor, scores_NK: Tensor) -> RewardOutput:
        """Return the rewards of N answers with their bases and contributions.

        Args:
            prompt_ND: the prompt vectors.
            scores_NK: the experts' ratings on the [0, 1] scale.
        """
        return self.combine(self.weights(prompt_ND), scores_NK)

    def read(self, features: Features, scores_NK: Tensor) -> RewardOutput:
        """Return the rewards of N conversations with their bases and contributions.

        Args:
            features: the features of N conversations; only their prompt vectors are used.
            scores_NK: the experts' ratings on the [0, 1] scale.
        """
        output: RewardOutput = self(features.prompt_ND, scores_NK)
        return output

    def rewards(self, features: Features, scores_NK: Tensor) -> Tensor:
        """Return only the rewards of :meth:`read`, [N].

        Args:
            features: the features of N conversations; only their prompt vectors are used.
            scores_NK: the experts' ratings on the [0, 1] scale.
        """
        return self.read(features, scores_NK).reward_N
