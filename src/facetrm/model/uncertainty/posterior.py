"""The posterior of linear heads: how far a rating may be from the head's own score.

    var(mean rating | x) = s_k^2 (|R (x - m)|^2 + 1 / mass)        R^T R = (G + alpha)^-1, G the centred Gram matrix
    var(new rating | x)  = s_k^2 + var(mean rating | x)
    deviation_k          = scale_k * sqrt(var(new rating | x))        1.645 of them hold 90% of held-out ratings
    var(sum_k c_k y_k)   = sum_kl c_k c_l r_kl v_k v_l                v_k = spread_k * sqrt(var(new rating | x))

Without an intercept, m is 0 and the term 1 / mass is absent. Objectives with the same layer, rows and alpha share R.
``scale``, ``spread`` and the correlation ``r`` of the ratings' errors come from held-out predictions; they are 1 and
the identity in the closed form. The two factors differ where the noise is not normal: a sum has the variance of its
parts, but not their quantiles.

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

from facetrm.backbone.encoder import LAST, Features, Layer, is_layer
from facetrm.core.errors import BackboneError, ModelError, short

_PLACE = "posterior of the heads"
_FIX = "fit the heads again with uncertainty"
_FACTORS = ("scale_K", "spread_K", "correlation_KK")


@final
@dataclass(frozen=True)
class PosteriorGroup:
    """The posterior of heads that share a layer, rows and alpha.

    Attributes:
        columns: positions of the J heads among the K experts.
        root_DD: the matrix R, float32, lower triangular.
        centre_D: the vector m, float32.
        noise_J: residual variance s_k^2 of each head, on the [0, 1] scale, float32.
        offset: variance of the intercept in units of s_k^2: 1 / mass, or 0 without an intercept.
        layer: the layer that the heads read.
    """

    columns: tuple[int, ...]
    root_DD: Tensor
    centre_D: Tensor
    noise_J: Tensor
    offset: float
    layer: Layer = LAST

    def __post_init__(self) -> None:
        # the memory layout of a file, because products of another layout may differ in their last bits
        object.__setattr__(self, "root_DD", self.root_DD.contiguous())

    def leverage(self, response_ND: Tensor) -> Tensor:
        """Return the variance of the mean rating of each answer in units of the noise, [N].

        Args:
            response_ND: response vectors of the layer that the heads read; their precision is that of the result.
        """
        turned_ND = (response_ND - self.centre_D.to(response_ND)) @ self.root_DD.to(response_ND).T
        return turned_ND.square().sum(dim=1) + self.offset

    def of(self, columns: Sequence[int], *, layer: Layer = LAST, factor: float = 1.0) -> PosteriorGroup | None:
        """Return the posterior of some of the heads, for vectors that are not multiplied; None if it has none of them.

        Args:
            columns: positions of the heads among the K experts.
            layer: the layer that the heads read.
            factor: the factor on the vectors that this posterior belongs to.
        """
        kept = [j for j, k in enumerate(self.columns) if k in columns]
        if not kept:
            return None
        picked, noise_J = tuple(self.columns[j] for j in kept), self.noise_J[kept]
        root_DD, centre_D = self.root_DD * factor, self.centre_D / factor
        return PosteriorGroup(picked, root_DD, centre_D, noise_J, self.offset, layer)


@final
class HeadPosterior:
    """The posterior of K experts that are linear heads.

    Features may be given as a tensor if all heads read one layer.

    Args:
        groups: the groups of heads. An expert in no group has no posterior, and its variances are NaN.
        experts: number of experts K.
        scale_K: factor that makes 1.645 deviations hold 90% of held-out ratings; None for 1.
        spread_K: factor that makes the variance that of held-out errors; None for 1.
        correlation_KK: correlation of the errors of the experts' ratings; None for the identity.

    Raises:
        ModelError: shapes that do not match, a head in two groups, or a variance that is negative or not finite.

    Example:
        >>> import torch
        >>> from facetrm.model.uncertainty.posterior import HeadPosterior, PosteriorGroup
        >>> group = PosteriorGroup((0,), torch.eye(2), torch.zeros(2), torch.tensor([4.0]), 0.0)
        >>> HeadPosterior([group], experts=1).mean_variance(torch.tensor([[3.0, 4.0]])).tolist()
        [[100.0]]
    """

    def __init__(
        self,
        groups: Sequence[PosteriorGroup],
        *,
        experts: int,
        scale_K: Tensor | None = None,
        spread_K: Tensor | None = None,
        correlation_KK: Tensor | None = None,
    ) -> None:
        self.groups, self.experts = tuple(groups), experts
        self.scale_K = _own(torch.ones(experts) if scale_K is None else scale_K)
        self.spread_K = _own(torch.ones(experts) if spread_K is None else spread_K)
        self.correlation_KK = _own(torch.eye(experts) if correlation_KK is None else correlation_KK)
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
            if not is_layer(group.layer):
                raise ModelError(f"layer {short(group.layer)}", place=_PLACE, fix=_FIX)
        self._check_scale()

    def _check_scale(self) -> None:
        """Raise ModelError if the factors or the correlations are not valid."""
        size, parts = self.experts, (self.scale_K, self.spread_K, self.correlation_KK)
        found = [list(part.shape) for part in parts]
        if found != [[size], [size], [size, size]]:
            problem = f"factors {found[0]} and {found[1]} and correlations {found[2]} for {size} experts"
            raise ModelError(problem, place=_PLACE, fix=_FIX)
        factors = torch.cat(parts[:2])
        valid = torch.isfinite(factors) & (factors >= 0)
        if not bool(valid.all()) or not bool((self.correlation_KK.abs() <= 1.0 + 1e-4).all()):
            problem = "a factor is negative or not finite, or a correlation is not between -1 and 1"
            raise ModelError(problem, place=_PLACE, fix=_FIX)

    @property
    def known(self) -> tuple[bool, ...]:
        """Whether each of the K experts has a posterior."""
        columns = {k for group in self.groups for k in group.columns}
        return tuple(k in columns for k in range(self.experts))

    def mean_variance(self, features: Features | Tensor) -> Tensor:
        """Return the variance of the mean rating of each answer, [N, K], float32; NaN for an expert without posterior.

        Args:
            features: features, or the response vectors, [N, D], that all heads read.

        Raises:
            ModelError: the features do not hold a layer that a head reads, or have another hidden size.
        """
        found_NK = torch.full((len(features), self.experts), float("nan"))
        for group in self.groups:
            leverage_N = group.leverage(_vectors(features, group).float())
            found_NK[:, list(group.columns)] = leverage_N[:, None] * group.noise_J
        return found_NK

    def rating_variance(self, features: Features | Tensor) -> Tensor:
        """Return the variance of a new rating of each answer, [N, K], which includes the noise of the raters.

        Args:
            features: features, or the response vectors, [N, D], that all heads read.
        """
        found_NK = self.mean_variance(features)
        for group in self.groups:
            found_NK[:, list(group.columns)] += group.noise_J
        return found_NK

    def deviation(self, features: Features | Tensor) -> Tensor:
        """Return the deviation of a new rating of each answer, 1.645 of which hold 90% of new ratings, [N, K].

        Args:
            features: features, or the response vectors, [N, D], that all heads read.
        """
        return self.scale_K * self.rating_variance(features).sqrt()

    def sum_deviation(self, variance_NK: Tensor, coefficients_NK: Tensor) -> Tensor:
        """Return the standard deviation of a weighted sum of new ratings, [N]; an expert with NaN counts as exact.

        Args:
            variance_NK: variances, from :meth:`rating_variance`.
            coefficients_NK: factors of the ratings in the sum.
        """
        part_NK = self.spread_K * torch.nan_to_num(variance_NK).sqrt() * coefficients_NK
        return ((part_NK @ self.correlation_KK) * part_NK).sum(dim=1).clamp(min=0.0).sqrt()

    def scaled(self, *, scale_K: Tensor, spread_K: Tensor, correlation_KK: Tensor) -> HeadPosterior:
        """Return the same posterior with other factors and correlations.

        Args:
            scale_K: factor that makes 1.645 deviations hold 90% of held-out ratings.
            spread_K: factor that makes the variance that of held-out errors.
            correlation_KK: correlation of the errors of the experts' ratings.
        """
        given = {"scale_K": scale_K, "spread_K": spread_K, "correlation_KK": correlation_KK}
        return HeadPosterior(self.groups, experts=self.experts, **given)

    def among(self, experts: int) -> HeadPosterior:
        """Return the posterior of these heads as the first of more experts; the others have none.

        Args:
            experts: number of all experts.
        """
        size, ones_K, correlation_KK = self.experts, torch.ones(experts - self.experts), torch.eye(experts)
        correlation_KK[:size, :size] = self.correlation_KK
        return HeadPosterior(
            self.groups,
            experts=experts,
            scale_K=torch.cat([self.scale_K, ones_K]),
            spread_K=torch.cat([self.spread_K, ones_K]),
            correlation_KK=correlation_KK,
        )

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the tensors (for safetensors) and a JSON-ready spec, for :meth:`from_state`."""
        tensors = {name: getattr(self, name) for name in _FACTORS}
        for i, group in enumerate(self.groups):
            parts = {"root_DD": group.root_DD, "centre_D": group.centre_D, "noise_J": group.noise_J}
            tensors |= {f"{i}.{name}": tensor for name, tensor in parts.items()}
        groups = [{"columns": list(g.columns), "offset": g.offset, "layer": g.layer} for g in self.groups]
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
                    entry["layer"],
                )
                for i, entry in enumerate(spec["groups"])
            ]
            experts, factors = int(spec["experts"]), {name: tensors[name] for name in _FACTORS}
        except (KeyError, TypeError, ValueError) as exc:
            raise ModelError(f"missing or malformed entry: {exc}", place=_PLACE, fix=_FIX) from None
        known = {*_FACTORS} | {f"{i}.{name}" for i in range(len(groups)) for name in ("root_DD", "centre_D", "noise_J")}
        for name in sorted(tensors.keys() - known):
            raise ModelError(f"tensor '{name}' is unexpected", place=_PLACE, fix=_FIX)
        return HeadPosterior(groups, experts=experts, **factors)


def _own(tensor: Tensor) -> Tensor:
    """Return a float32 copy that shares no memory, so that it can be saved."""
    return tensor.detach().to(torch.float32).clone(memory_format=torch.contiguous_format)


def _vectors(features: Features | Tensor, group: PosteriorGroup) -> Tensor:
    """Return the response vectors that the heads of a group read, [N, D]."""
    try:
        found_ND = features.response(group.layer) if isinstance(features, Features) else features
    except BackboneError as exc:
        raise ModelError(exc.problem, place=_PLACE, fix=exc.fix) from None
    if found_ND.ndim != 2 or found_ND.shape[1] != len(group.centre_D):
        problem = f"vectors {list(found_ND.shape)}, not [N, {len(group.centre_D)}]"
        raise ModelError(problem, place=_PLACE, fix="use the backbone that the heads were fitted on")
    return found_ND
