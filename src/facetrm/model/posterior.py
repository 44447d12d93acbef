"""The posterior of linear heads: how far a rating may be from the head's own score.

    var(mean rating | x) = s_k^2 (|R (x - m)|^2 + 1 / mass)        R^T R = (G + alpha)^-1, G the centred Gram matrix
    var(new rating | x)  = s_k^2 + var(mean rating | x)

Without an intercept, m is 0 and the term 1 / mass is absent. Objectives with the same rows and alpha share R.

Shapes: N conversations, D hidden size, K experts, J experts of one group.

Reference: Bishop, Pattern Recognition and Machine Learning (2006), section 3.3. We differ: s_k^2 is the residual
variance with n - tr(H) degrees of freedom.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from facetrm.core.errors import ModelError

_PLACE = "posterior of the heads"
_FIX = "fit the heads again with uncertainty"


@final
@dataclass(frozen=True)
class PosteriorGroup:
    """The posterior of heads that share rows and alpha.

    Attributes:
        columns: positions of the J heads among the K experts.
        root_DD: the matrix R, float32, lower triangular.
        centre_D: the vector m, float32.
        noise_J: residual variance s_k^2 of each head, on the [0, 1] scale, float32.
        offset: variance of the intercept in units of s_k^2: 1 / mass, or 0 without an intercept.
    """

    columns: tuple[int, ...]
    root_DD: Tensor
    centre_D: Tensor
    noise_J: Tensor
    offset: float


@final
class HeadPosterior:
    """The posterior of K linear heads that read one layer.

    Args:
        groups: the groups of heads. A head in no group has no posterior, and its variances are NaN.
        experts: number of heads K.

    Raises:
        ModelError: shapes that do not match, a head in two groups, or a variance that is negative or not finite.

    Example:
        >>> import torch
        >>> from facetrm.model.posterior import HeadPosterior, PosteriorGroup
        >>> group = PosteriorGroup((0,), torch.eye(2), torch.zeros(2), torch.tensor([4.0]), 0.0)
        >>> HeadPosterior([group], experts=1).mean_variance(torch.tensor([[3.0, 4.0]])).tolist()
        [[100.0]]
    """

    def __init__(self, groups: Sequence[PosteriorGroup], *, experts: int) -> None:
        self.groups, self.experts = tuple(groups), experts
        columns = [k for group in self.groups for k in group.columns]
        if len(set(columns)) != len(columns) or any(not 0 <= k < experts for k in columns):
            raise ModelError(f"heads {sorted(columns)} for {experts} experts", place=_PLACE, fix=_FIX)
        for group in self.groups:
            size = len(group.centre_D)
            if group.root_DD.shape != (size, size) or group.noise_J.shape != (len(group.columns),):
                problem = f"a root {list(group.root_DD.shape)} and noise {list(group.noise_J.shape)} for D = {size}"
                raise ModelError(problem, place=_PLACE, fix=_FIX)
            noise = [*group.noise_J.tolist(), group.offset]
            if not bool(torch.isfinite(group.root_DD).all()) or not all(0.0 <= v < float("inf") for v in noise):
                raise ModelError("a variance is negative or not finite", place=_PLACE, fix=_FIX)

    def mean_variance(self, response_ND: Tensor) -> Tensor:
        """Return the variance of the mean rating of each answer, [N, K], float32; NaN for a head without posterior.

        Args:
            response_ND: response vectors, as the heads read them.
        """
        found_NK = torch.full((len(response_ND), self.experts), float("nan"))
        for group in self.groups:
            turned_ND = (response_ND.float() - group.centre_D) @ group.root_DD.T
            leverage_N = turned_ND.square().sum(dim=1) + group.offset
            found_NK[:, list(group.columns)] = leverage_N[:, None] * group.noise_J
        return found_NK

    def rating_variance(self, response_ND: Tensor) -> Tensor:
        """Return the variance of a new rating of each answer, [N, K], which includes the noise of the raters.

        Args:
            response_ND: response vectors, as the heads read them.
        """
        found_NK = self.mean_variance(response_ND)
        for group in self.groups:
            found_NK[:, list(group.columns)] += group.noise_J
        return found_NK

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the tensors (for safetensors) and a JSON-ready spec, for :meth:`from_state`."""
        tensors: dict[str, Tensor] = {}
        for i, group in enumerate(self.groups):
            parts = {"root_DD": group.root_DD, "centre_D": group.centre_D, "noise_J": group.noise_J}
            tensors |= {f"{i}.{name}": tensor for name, tensor in parts.items()}
        groups = [{"columns": list(group.columns), "offset": group.offset} for group in self.groups]
        return tensors, {"experts": self.experts, "groups": groups}

    @staticmethod
    def from_state(tensors: Mapping[str, Tensor], spec: Mapping[str, Any]) -> HeadPosterior:
        """Restore the posterior, bit-equal, from the output of :meth:`state`.

        Args:
            tensors: the tensors, by name.
            spec: the spec that belongs to them.

        Raises:
            ModelError: a tensor or a key is missing or malformed.
        """
        try:
            groups = [
                PosteriorGroup(
                    tuple(int(k) for k in entry["columns"]),
                    tensors[f"{i}.root_DD"],
                    tensors[f"{i}.centre_D"],
                    tensors[f"{i}.noise_J"],
                    float(entry["offset"]),
                )
                for i, entry in enumerate(spec["groups"])
            ]
            experts = int(spec["experts"])
        except (KeyError, TypeError, ValueError) as exc:
            raise ModelError(f"missing or malformed entry: {exc}", place=_PLACE, fix=_FIX) from None
        return HeadPosterior(groups, experts=experts)
