"""How uncertain the rewards of a mixture are: what is stored for it, and what it tells about each answer.

    rating   deviation_k                                   of one new rating: 1.645 of them hold 90% of new ratings
    gate     sd over the gates of sum_k c_k s_k            the gate of the model and gates fitted with other seeds
    reward   sqrt(sum_kl c_k c_l r_kl v_k v_l + gate^2)    v_k^2 the variance of one new rating

The reward's deviation is that of the reward which raters would give: each head's score is replaced by a new rating, and
the model's own coefficients weigh it. Coefficients include the debiasing and the user's edits, so both are respected.
An expert without a posterior (the length, a preference expert, an objective that only predicts its mean) counts as
exact.

Shapes: N conversations, D hidden size, K experts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, final

import torch
from torch import Tensor

from facetrm.backbone.encoder import Features
from facetrm.core.errors import ModelError
from facetrm.model.aggregate import GatedSum
from facetrm.model.gate import Gate
from facetrm.model.output import RewardOutput, Uncertainty
from facetrm.model.uncertainty.posterior import HeadPosterior
from facetrm.model.uncertainty.quantile_heads import QuantileHeads

TAIL: Final = 0.1  # the lower tail of a rating is the mean of its quantiles up to this level
_PLACE = "uncertainty"
_FIX = "fit the model again with experts.uncertainty or gate.seeds"


@final
class RewardUncertainty:
    """What a mixture of linear experts and a gated sum stores besides its parts, to tell how uncertain a reward is.

    Args:
        posterior: the posterior of the K experts; None if it was not kept.
        gates: gates that were fitted as that of the model, but with other seeds.
        quantiles: quantile heads of the first objectives; None if there are none.

    Raises:
        ModelError: nothing is given.

    Example:
        >>> import torch
        >>> from facetrm.model.uncertainty.posterior import HeadPosterior, PosteriorGroup
        >>> from facetrm.model.uncertainty.reward_uncertainty import RewardUncertainty
        >>> group = PosteriorGroup((0,), torch.eye(2), torch.zeros(2), torch.tensor([4.0]), 0.0)
        >>> RewardUncertainty(posterior=HeadPosterior([group], experts=1)).posterior.experts
        1
    """

    def __init__(
        self,
        *,
        posterior: HeadPosterior | None = None,
        gates: Sequence[Gate] = (),
        quantiles: QuantileHeads | None = None,
    ) -> None:
        if posterior is None and not gates and quantiles is None:
            raise ModelError("it holds nothing", place=_PLACE, fix="give a posterior, gates or quantile heads")
        self.posterior, self.gates, self.quantiles = posterior, tuple(gate.eval() for gate in gates), quantiles

    @staticmethod
    def of(
        *, posterior: HeadPosterior | None, gates: Sequence[Gate], quantiles: QuantileHeads | None
    ) -> RewardUncertainty | None:
        """Return these parts together; None if all are absent.

        Args:
            posterior: the posterior of the K experts; None for none.
            gates: gates that were fitted with other seeds.
            quantiles: quantile heads of the first objectives; None for none.
        """
        if posterior is None and not gates and quantiles is None:
            return None
        return RewardUncertainty(posterior=posterior, gates=gates, quantiles=quantiles)

    @property
    def rates_rewards(self) -> bool:
        """Whether it tells the deviation of a reward, and not only the quantiles of ratings."""
        return self.posterior is not None or bool(self.gates)

    def check(self, *, experts: int, hidden_size: int) -> None:
        """Check that the parts fit a mixture.

        Args:
            experts: number of experts K.
            hidden_size: hidden size D.

        Raises:
            ModelError: a part is for another number of experts or another hidden size.
        """
        posterior, heads = self.posterior, self.quantiles
        counts = [gate.shape.choices for gate in self.gates] + ([] if posterior is None else [posterior.experts])
        sizes = [gate.shape.hidden_size for gate in self.gates]
        sizes += [] if posterior is None else [len(group.centre_D) for group in posterior.groups]
        sizes += [] if heads is None else [int(heads.weight_KQD.shape[2])]
        other = next((count for count in counts if count != experts), None)
        if other is None and heads is not None and len(heads.weight_KQD) > experts:
            other = len(heads.weight_KQD)
        if other is not None:
            raise ModelError(f"it is for {other} experts, but there are {experts}", place=_PLACE, fix=_FIX)
        wrong = next((size for size in sizes if size != hidden_size), None)
        if wrong is not None:
            problem = f"its hidden size is {wrong}, that of the experts is {hidden_size}"
            raise ModelError(problem, place=_PLACE, fix=_FIX)

    def read(
        self, features: Features, output: RewardOutput, *, total: GatedSum, names: Sequence[str]
    ) -> list[Uncertainty]:
        """Return the uncertainty of each answer.

        Args:
            features: features of N conversations.
            output: what the mixture said about them.
            total: the gated sum of the mixture.
            names: the K names of the experts.
        """
        size = len(features)
        ratings: list[dict[str, float]] = [{} for _ in range(size)]
        tails: list[dict[str, float]] = [{} for _ in range(size)]
        reward_N, gate_N = torch.zeros(size), None
        if self.posterior is not None and output.coefficients_NK is not None:
            variance_NK = self.posterior.rating_variance(features)
            reward_N = self.posterior.sum_deviation(variance_NK, output.coefficients_NK)
            known, deviation_NK = self.posterior.known, self.posterior.scale_K * variance_NK.sqrt()
            ratings = [
                {name: value for name, value, has in zip(names, row, known, strict=True) if has}
                for row in deviation_NK.tolist()
            ]
        if self.gates:
            gate_N = self.gate_deviation(features.prompt_ND, output, total=total)
            reward_N = (reward_N**2 + gate_N**2).sqrt()
        if self.quantiles is not None:
            heads = self.quantiles
            tail_NK = heads.lower_tail(features, share=max(TAIL, float(heads.levels_Q[0])))
            tails = [dict(zip(names, row, strict=False)) for row in tail_NK.tolist()]
        gates = [None] * size if gate_N is None else gate_N.tolist()
        found = reward_N.tolist() if self.rates_rewards else [None] * size
        return [Uncertainty(found[n], ratings[n], gates[n], tails[n]) for n in range(size)]

    def gate_deviation(self, prompt_ND: Tensor, output: RewardOutput, *, total: GatedSum) -> Tensor:
        """Return the standard deviation of each reward over the gates, [N], with the edit of the mixture.

        Args:
            prompt_ND: prompt vectors of N conversations.
            output: what the mixture said about them.
            total: the gated sum of the mixture.
        """
        rewards = [output.reward_N]
        for gate in self.gates:
            other = GatedSum(gate, total.debias_KK, scale=total.scale, reference_K=total.reference_K, edit=total.edit)
            rewards.append(other(prompt_ND, output.scores_NK).reward_N)
        return torch.stack(rewards).std(dim=0) if len(rewards) > 1 else torch.zeros(len(prompt_ND))

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the tensors (for safetensors) and a JSON-ready spec, for :meth:`from_state`."""
        tensors: dict[str, Tensor] = {}
        spec: dict[str, Any] = {"posterior": None, "quantiles": None, "gates": []}

        def keep(name: str, state: tuple[dict[str, Tensor], dict[str, Any]]) -> dict[str, Any]:
            tensors.update({f"{name}.{key}": tensor for key, tensor in state[0].items()})
            return state[1]

        if self.posterior is not None:
            spec["posterior"] = keep("posterior", self.posterior.state())
        if self.quantiles is not None:
            spec["quantiles"] = keep("quantiles", self.quantiles.state())
        spec["gates"] = [keep(f"gate-{i}", gate.state()) for i, gate in enumerate(self.gates)]
        return tensors, spec

    @staticmethod
    def from_state(tensors: Mapping[str, Tensor], spec: Mapping[str, Any]) -> RewardUncertainty:
        """Restore the parts, bit-equal, from the output of :meth:`state`.

        Args:
            tensors: the tensors, by name.
            spec: the spec that belongs to them.

        Raises:
            ModelError: a tensor or a key is missing, unexpected or malformed.
        """
        parts: dict[str, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            part, _, key = name.partition(".")
            parts.setdefault(part, {})[key] = tensor
        try:
            posterior, quantiles, gates = spec["posterior"], spec["quantiles"], list(spec["gates"])
        except (KeyError, TypeError) as exc:
            raise ModelError(f"missing or malformed entry: {exc}", place=_PLACE, fix=_FIX) from None
        named = [f"gate-{i}" for i in range(len(gates))]
        wanted = {*named, *(name for name in ("posterior", "quantiles") if spec[name] is not None)}
        for name in sorted(parts.keys() - wanted):
            raise ModelError(f"part '{name}' is unexpected", place=_PLACE, fix=_FIX)
        return RewardUncertainty(
            posterior=None if posterior is None else HeadPosterior.from_state(parts.get("posterior", {}), posterior),
            gates=[Gate.from_state(parts.get(name, {}), gate) for name, gate in zip(named, gates, strict=True)],
            quantiles=None if quantiles is None else QuantileHeads.from_state(parts.get("quantiles", {}), quantiles),
        )
