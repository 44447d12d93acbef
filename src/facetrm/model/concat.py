"""The :class:`ConcatMLP`: a network from the experts' vectors to one reward, with an exact Shapley value per expert.

    f(z)           = last(PReLU(b + sum_k W_k z_k))                   W_k: the first layer's columns for expert k
    v(S)           = f(z_k for k in S, reference_k elsewhere)         for every set S of experts
    base           = v(empty set)                                     the same for every conversation
    contribution_k = sum_(S without k) |S|! (K-1-|S|)! / K!  (v(S + k) - v(S))        the Shapley value
    reward         = base + sum_k contribution_k = f(z)

``W_k (z_k - reference_k)`` is computed once per expert. A set is then a sum of at most K of these terms, so all 2^K
sets need only one pass through the first layer. v(S) is in float32. The Shapley values are computed in float64, so that
they add up despite the rounding of v(S).

Shapes: N conversations, D hidden size, K experts, H units of the hidden layer, S = 2^K sets (expert k is bit k).

Reference: DMoERM (arXiv 2403.01197), the inner mixture in the released code: Linear(K D -> D), PReLU, Linear(D -> 1).
The Shapley values are an addition of facetrm; the published model gives only the reward.
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
from facetrm.model.gate import check_kind, check_tensors
from facetrm.model.output import RewardOutput

MAX_EXPERTS: Final = 8
"""The largest K. Every conversation then needs the values of 2^8 sets of experts."""
_CHUNK: Final = 2**23  # the most numbers in the hidden layers of all sets at once: 32 MiB
_PLACE: Final = "ConcatMLP"


@final
class ConcatMLP(nn.Module):
    """Computes rewards with a small network on all experts' vectors: a constant base plus a Shapley value per expert.

    Args:
        reference_KD: the vectors of a typical answer (the training mean), or zeros. It moves reward between the base
            and the contributions and never changes the reward.
        hidden: the width H of the hidden layer; None uses D.
        edit: the experts to drop; their vectors are fixed at the reference. There are no weights to scale or pin.
        layers: existing layers Linear(K D, H), PReLU and Linear(H, 1) to share; None initialises new ones.

    Raises:
        ModelError: there are more than 8 experts, sizes do not match, a value is not finite, or the edit does not fit.

    Example:
        >>> import torch
        >>> from facetrm import ConcatMLP
        >>> sum(p.numel() > 0 for p in ConcatMLP(torch.zeros(2, 32), hidden=8).parameters()) > 0
        True
    """

    kind: Final = "concat_mlp"
    reads_vectors: Final = True
    reference_KD: Tensor
    shapley_SK: Tensor

    def __init__(
        self,
        reference_KD: Tensor,
        *,
        hidden: int | None = None,
        edit: WeightEdit | None = None,
        layers: tuple[nn.Linear, nn.PReLU, nn.Linear] | None = None,
    ) -> None:
        super().__init__()
        if reference_KD.ndim != 2 or 0 in reference_KD.shape:
            raise ModelError(f"reference_KD has shape {list(reference_KD.shape)}", place=_PLACE, fix="give [K, D]")
        size, width = (int(n) for n in reference_KD.shape)
        if size > MAX_EXPERTS:
            raise ModelError(
                f"exact Shapley values of {size} experts need 2^{size} sets for each answer",
                place=_PLACE,
                fix=f"give at most {MAX_EXPERTS} experts, or use a GatedSum",
            )
        if not bool(torch.isfinite(reference_KD).all()):
            raise ModelError("reference_KD is not finite", place=_PLACE, fix="use the mean of finite vectors")
        units = width if hidden is None else hidden
        if units < 1:
            raise ModelError(f"hidden is {units}", place=_PLACE, fix="give 1 or more")
        if layers is None:
            layers = (nn.Linear(size * width, units), nn.PReLU(), nn.Linear(units, 1))
        self.first, self.rectifier, self.last = layers
        self.register_buffer("reference_KD", reference_KD.detach().clone().float())
        units = self.hidden if hidden is None else hidden
        for name, shape in _shapes(size, width, units).items():
            if tuple(self.get_parameter(name).shape) != shape:
                found = list(self.get_parameter(name).shape)
                raise ModelError(f"{name} has shape {found}", place=_PLACE, fix=f"give {list(shape)}")
        self.edit = edit or WeightEdit()
        _check_edit(self.edit, size)
        self._kept = [k for k in range(size) if k not in self.edit.drop]
        self.register_buffer("shapley_SK", _shapley(len(self._kept)), persistent=False)

    @property
    def size(self) -> int:
        """The number of experts, K."""
        return int(self.reference_KD.shape[0])

    @property
    def hidden_size(self) -> int:
        """The hidden size, D."""
        return int(self.reference_KD.shape[1])

    @property
    def hidden(self) -> int:
        """The width of the hidden layer, H."""
        return int(self.first.weight.shape[0])

    def with_edit(self, edit: WeightEdit | None) -> ConcatMLP:
        """Return the same network with another edit; None removes the edit. The layers are shared, not copied."""
        return ConcatMLP(self.reference_KD, edit=edit, layers=(self.first, self.rectifier, self.last))

    def with_reference(self, reference_KD: Tensor | None) -> ConcatMLP:
        """Return the same network with another reference; the rewards stay the same unless experts are dropped.

        Args:
            reference_KD: the new reference vectors; None for zeros. The vectors of dropped experts are fixed at the
                reference, so the rewards of an edited model change with it.
        """
        reference_KD = torch.zeros_like(self.reference_KD) if reference_KD is None else reference_KD
        return ConcatMLP(reference_KD, edit=self.edit, layers=(self.first, self.rectifier, self.last))

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the tensors (for safetensors) and a JSON-ready spec, for :meth:`from_state`."""
        tensors = {name: tensor.detach().contiguous() for name, tensor in self.state_dict().items()}
        spec = {"kind": self.kind, "experts": self.size, "hidden_size": self.hidden_size, "hidden": self.hidden}
        return tensors, {**spec, "edit": self.edit.to_dict()}

    @staticmethod
    def from_state(tensors: Mapping[str, Tensor], spec: Mapping[str, Any]) -> ConcatMLP:
        """Restore the network, bit-equal, from the output of :meth:`state`.

        Args:
            tensors: the tensors, by name.
            spec: the spec that belongs to them.

        Raises:
            ModelError: a tensor or a key is missing, unexpected or malformed.
        """
        check_kind(spec, ConcatMLP.kind, what="aggregator")
        try:
            size, width, hidden = (int(spec[key]) for key in ("experts", "hidden_size", "hidden"))
            edit = WeightEdit.from_dict(spec["edit"])
        except (KeyError, TypeError, ValueError) as exc:
            raise ModelError(
                f"missing or malformed entry: {exc}", place="aggregator", fix="save the model again"
            ) from None
        wanted = {"reference_KD": (size, width), **_shapes(size, width, hidden)}
        check_tensors(tensors, wanted, place="aggregator")
        made = ConcatMLP(tensors["reference_KD"], hidden=hidden, edit=edit)
        made.load_state_dict(dict(tensors))
        return made

    def rewards(self, features: Features, scores_NK: Tensor) -> Tensor:
        """Return only the rewards, [N], in one pass with gradients. Fitting also uses this function.

        Args:
            features: the features of N conversations; ``response_NAD`` holds the experts' vectors.
            scores_NK: the experts' ratings, which do not affect the reward.
        """
        reward_N: Tensor = self._sets(self._checked(features.response_NAD), whole=True)[:, -1]
        return reward_N

    def read(self, features: Features, scores_NK: Tensor) -> RewardOutput:
        """Return the rewards of N conversations with the base and the contributions of the experts.

        Args:
            features: the features of N conversations; ``response_NAD`` holds the experts' vectors.
            scores_NK: the experts' ratings, which are passed to the output and do not affect the reward.
        """
        output: RewardOutput = self(features.response_NAD, scores_NK)
        return output

    def forward(self, response_NKD: Tensor, scores_NK: Tensor) -> RewardOutput:
        """Return the rewards, the constant base and the Shapley values.

        Args:
            response_NKD: the response vectors, one per expert.
            scores_NK: the experts' ratings, which are passed to the output and do not affect the reward.

        Raises:
            ModelError: the vectors have another shape, or the network is not in float32.
        """
        response_NKD = self._checked(response_NKD)
        rows = max(1, _CHUNK // (self.hidden * len(self.shapley_SK)))
        starts = range(0, max(len(response_NKD), 1), rows)
        sets_NS = torch.cat([self._sets(response_NKD[start : start + rows]) for start in starts])
        contributions_NK = torch.zeros(len(sets_NS), self.size, dtype=torch.float64, device=sets_NS.device)
        contributions_NK[:, self._kept] = sets_NS.double() @ self.shapley_SK.double()
        return RewardOutput(
            reward_N=sets_NS[:, -1], base_N=sets_NS[:, 0], contributions_NK=contributions_NK.float(),
            scores_NK=scores_NK.float(), weights_NK=None, coefficients_NK=None,
        )  # fmt: skip

    def _checked(self, response_NKD: Tensor) -> Tensor:
        if tuple(response_NKD.shape[1:]) != tuple(self.reference_KD.shape):
            raise ModelError(
                f"the response vectors have shape {list(response_NKD.shape)}",
                place=_PLACE,
                fix=f"encode with the experts' adapters; the shape must be [N, {self.size}, {self.hidden_size}]",
            )
        if self.first.weight.dtype != torch.float32:
            raise ModelError(
                f"the network was cast to {self.first.weight.dtype}",
                place=_PLACE,
                fix="cast only the backbone; heads compute in float32",
            )
        return response_NKD.to(self.reference_KD)

    def _sets(self, response_NKD: Tensor, *, whole: bool = False) -> Tensor:
        """Return v(S) for all sets of kept experts, [N, S]; with ``whole``, only for the set of all of them, [N, 1]."""
        columns_HKD = self.first.weight.reshape(self.hidden, self.size, self.hidden_size)
        hidden_NSH = (self.first.bias + self.first.weight @ self.reference_KD.flatten()).expand(1, 1, -1)
        base_11: Tensor = self.last(self.rectifier(hidden_NSH))[..., 0]
        hidden_NSH = hidden_NSH.expand(len(response_NKD), -1, -1)
        for k in self._kept:
            step_N1H = ((response_NKD[:, k] - self.reference_KD[k]) @ columns_HKD[:, k].T)[:, None]
            joined_NSH = hidden_NSH + step_N1H
            hidden_NSH = joined_NSH if whole else torch.cat([hidden_NSH, joined_NSH], dim=1)
        sets_NS: Tensor = self.last(self.rectifier(hidden_NSH))[..., 0]
        # The rounding of a matrix product can depend on the row, so the base is computed once for all rows.
        return sets_NS if whole else torch.cat([base_11.expand(len(sets_NS), 1), sets_NS[:, 1:]], dim=1)


def _shapes(size: int, width: int, hidden: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the parameters by name."""
    shapes: dict[str, tuple[int, ...]] = {"first.weight": (hidden, size * width), "first.bias": (hidden,)}
    return shapes | {"rectifier.weight": (1,), "last.weight": (1, hidden), "last.bias": (1,)}


def _check_edit(edit: WeightEdit, size: int) -> None:
    """Raise ModelError if the edit does anything other than drop some of ``size`` experts."""
    for what, asked in (("scale", edit.scale), ("pin", edit.pin)):
        if asked:
            raise ModelError(
                f"{what} is not defined for this aggregator: a network on the experts' vectors has no weight to {what}",
                place="edit",
                fix="drop an expert instead; its vector is then fixed at the reference",
            )
    for k in edit.drop:
        if not 0 <= k < size:
            raise ModelError(f"there is no objective number {k}", place="edit", fix=f"give 0 to {size - 1}")
    if len(set(edit.drop)) == size:
        raise ModelError("no expert is left, so every reward would be the base", place="edit", fix="keep at least one")


def _shapley(size: int) -> Tensor:
    """Return the matrix [S, K] from the values of all sets to Shapley values; bit k of a row's index is expert k."""
    rows = []
    for members in range(2**size):
        count = members.bit_count()
        row = []
        for k in range(size):
            inside = members >> k & 1
            before = count - inside
            share = math.factorial(before) * math.factorial(size - 1 - before) / math.factorial(size)
            row.append(share if inside else -share)
        rows.append(row)
    return torch.tensor(rows, dtype=torch.float64).reshape(2**size, size)
