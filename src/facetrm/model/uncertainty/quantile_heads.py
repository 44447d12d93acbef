"""Quantile heads: the distribution of an objective's ratings, with the noise of its raters, as linear quantiles.

    q_kj(x) = w_kj^T x + b_kj       at level tau_j; quantiles that cross are sorted

Shapes: N conversations, D hidden size, K objectives, Q quantiles.

Reference: QRM (arXiv 2409.10164).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from facetrm.backbone.encoder import LAST, Features, Layer, in_order, is_layer
from facetrm.core.errors import BackboneError, ModelError

_PLACE = "quantile heads"
_FIX = "fit the quantile heads again"


@final
@dataclass(frozen=True)
class QuantileHeads:
    """Fitted quantile heads. Features may be given as a tensor if all heads read one layer.

    Attributes:
        weight_KQD: weights, float32.
        bias_KQ: intercepts, float32.
        levels_Q: level of each quantile, rising.
        reads: the layer that the heads of each objective read; empty if all read the last.

    Raises:
        ModelError: shapes that do not match, a value that is not finite, or levels that do not rise.
    """

    weight_KQD: Tensor
    bias_KQ: Tensor
    levels_Q: Tensor
    reads: tuple[Layer, ...] = ()

    def __post_init__(self) -> None:
        weight, bias, levels = self.weight_KQD, self.bias_KQ, self.levels_Q
        if weight.ndim != 3 or bias.shape != weight.shape[:2] or levels.shape != weight.shape[1:2] or len(levels) < 2:
            problem = f"weights {list(weight.shape)}, intercepts {list(bias.shape)}, levels {list(levels.shape)}"
            raise ModelError(problem, place=_PLACE, fix=_FIX)
        finite = bool(torch.isfinite(weight).all()) and bool(torch.isfinite(bias).all())
        if not finite or not float(levels[0]) > 0 or not float(levels[-1]) < 1 or not bool((levels.diff() > 0).all()):
            raise ModelError("a value is not finite, or the levels do not rise inside 0 to 1", place=_PLACE, fix=_FIX)
        if (self.reads and len(self.reads) != len(weight)) or not all(is_layer(layer) for layer in self.reads):
            raise ModelError(f"{len(self.reads)} layers for {len(weight)} objectives", place=_PLACE, fix=_FIX)

    def quantiles(self, features: Features | Tensor) -> Tensor:
        """Return the quantiles of each answer's ratings on the [0, 1] scale, sorted, [N, K, Q].

        Args:
            features: features, or the response vectors, [N, D], that all heads read.

        Raises:
            ModelError: the features do not hold a layer that a head reads.
        """
        reads = self.reads or (LAST,) * len(self.weight_KQD)
        raw_NKQ = torch.empty(len(features), *self.bias_KQ.shape)
        for layer in in_order(reads):
            mine = [k for k, other in enumerate(reads) if other == layer]
            try:
                x_ND = features.response(layer) if isinstance(features, Features) else features
            except BackboneError as exc:
                raise ModelError(exc.problem, place=_PLACE, fix=exc.fix) from None
            raw_NKQ[:, mine] = torch.einsum("nd,kqd->nkq", x_ND.float(), self.weight_KQD[mine]) + self.bias_KQ[mine]
        return raw_NKQ.sort(dim=-1).values

    def expected(self, features: Features | Tensor) -> Tensor:
        """Return the mean of the quantiles, the expected rating of QRM, [N, K].

        Args:
            features: features, or the response vectors, [N, D], that all heads read.
        """
        return self.quantiles(features).mean(dim=-1)

    def lower_tail(self, features: Features | Tensor, *, share: float) -> Tensor:
        """Return the mean of the quantiles up to a level, a rating for those who avoid risks, [N, K].

        Args:
            features: features, or the response vectors, [N, D], that all heads read.
            share: the level, above 0 and at most 1.

        Raises:
            ModelError: there is no quantile up to this level.
        """
        count = int((self.levels_Q <= share + 1e-9).sum())
        if not count:
            lowest = float(self.levels_Q[0])
            raise ModelError(f"no quantile up to level {share:g}", place="lower tail", fix=f"give {lowest:g} or more")
        return self.quantiles(features)[..., :count].mean(dim=-1)

    def interval(self, features: Features | Tensor, *, coverage: float) -> tuple[Tensor, Tensor]:
        """Return the ends of a central interval for a new rating, each [N, K].

        Args:
            features: features, or the response vectors, [N, D], that all heads read.
            coverage: share of ratings that the interval should hold; the quantiles at both ends must exist.

        Raises:
            ModelError: the ends lie outside the levels of the quantiles.
        """
        low, high = (1.0 - coverage) / 2.0, (1.0 + coverage) / 2.0
        first, last = float(self.levels_Q[0]), float(self.levels_Q[-1])
        if not first - 1e-6 <= low < high <= last + 1e-6:
            problem = f"coverage {coverage:g}, but the quantiles reach from {first:g} to {last:g}"
            raise ModelError(problem, place="interval", fix=f"give a coverage above 0 and up to {last - first:g}")
        found_NKQ, step = self.quantiles(features), float(self.levels_Q[1] - self.levels_Q[0])
        ends = []
        for level in (low, high):
            at = min(max((level - first) / step, 0.0), len(self.levels_Q) - 1.0)
            left = min(int(at), len(self.levels_Q) - 2)
            ends.append(torch.lerp(found_NKQ[..., left], found_NKQ[..., left + 1], at - left))
        return ends[0], ends[1]

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the tensors (for safetensors) and a JSON-ready spec, for :meth:`from_state`."""
        tensors = {"weight_KQD": self.weight_KQD, "bias_KQ": self.bias_KQ, "levels_Q": self.levels_Q}
        return {name: tensor.contiguous() for name, tensor in tensors.items()}, {"reads": list(self.reads)}

    @staticmethod
    def from_state(tensors: Mapping[str, Tensor], spec: Mapping[str, Any]) -> QuantileHeads:
        """Restore the heads, bit-equal, from the output of :meth:`state`.

        Args:
            tensors: the tensors, by name.
            spec: the spec that belongs to them.

        Raises:
            ModelError: a tensor or a key is missing, unexpected or malformed.
        """
        names = ("weight_KQD", "bias_KQ", "levels_Q")
        for name in sorted(tensors.keys() - set(names)):
            raise ModelError(f"tensor '{name}' is unexpected", place=_PLACE, fix=_FIX)
        try:
            weight_KQD, bias_KQ, levels_Q = (tensors[name] for name in names)
            return QuantileHeads(weight_KQD, bias_KQ, levels_Q, tuple(spec["reads"]))
        except (KeyError, TypeError) as exc:
            raise ModelError(f"missing or malformed entry: {exc}", place=_PLACE, fix=_FIX) from None
