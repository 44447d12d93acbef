"""Remove the correlation of all experts with one target expert (verbosity or length) by one linear map.

    r'_i = r_i - lambda_i r_v        corr(r'_i, r_v) = 0 on a reference set
    T = I;  T[v, :] -= lambda;  lambda_v = 1        scores' = scores @ T, whose column v is exactly 0

The covariance of the *ranks* of r_i - lambda r_v with those of r_v never rises as lambda grows, because two rows can
only change to an order opposite to that of r_v. Its zero is therefore found by bracketing. The Pearson correlation is
zero at lambda = cov(r_i, r_v) / var(r_v).

Shapes: N rows of the reference set, K experts.

Reference: ArmoRM (arXiv 2406.12845), section 3.2. We differ: the search is two-sided and exact by default, and a
correlation that cannot be removed is reported (the released search silently falls back to lambda = 1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from pydantic import Field, field_validator
from torch import Tensor

from facetrm.core.config import Section
from facetrm.core.errors import ConfigError, FitError, did_you_mean
from facetrm.core.progress import log
from facetrm.core.statistics import Floats, pearson, spearman

PUBLISHED_GRID = (0.0, 0.01, 0.025, 0.05, 0.075, 0.1, 0.125, 0.15, *(round(0.05 * i, 2) for i in range(4, 20)))
_RESOLUTION = 1e-6  # relative, of lambda; coarser than float32, the precision in which models store lambda
_STEPS = 80


class DebiasConfig(Section):
    """Settings of the debiasing.

    Attributes:
        correlation: correlation to remove: ``spearman`` (as published) or ``pearson`` (closed form).
        search: ``exact`` finds lambda to the tolerance. ``grid`` is the published search: it tries the values of
            ``grid`` in ascending order, takes the first that meets ``threshold``, and ignores ``sided``.
        sided: ``two`` also removes negative correlations (with lambda below 0); ``one`` leaves them (with lambda 0).
            Used only by the exact search.
        tolerance: largest |correlation| after debiasing that counts as zero in the exact search. With ``sided: one``,
            experts whose correlation is at most this before debiasing are left as they are.
        threshold: largest correlation, with its sign, that the grid search accepts.
        grid: values of lambda that the grid search tries, in ascending order.
        max_lambda: largest |lambda| of the exact search; None for no limit.
        centre_by_prompt: whether to subtract the mean score of each prompt first, so that the correlation *within*
            prompts becomes zero instead of the pooled one.

    Example:
        >>> from facetrm import DebiasConfig
        >>> DebiasConfig(search="grid").correlation
        'spearman'
    """

    correlation: Literal["spearman", "pearson"] = "spearman"
    search: Literal["exact", "grid"] = "exact"
    sided: Literal["two", "one"] = "two"
    tolerance: float = Field(default=1e-3, gt=0.0, lt=1.0)
    threshold: float = Field(default=0.03, ge=0.0, lt=1.0)
    grid: tuple[float, ...] = PUBLISHED_GRID
    max_lambda: float | None = Field(default=None, gt=0.0)
    centre_by_prompt: bool = False

    @field_validator("grid")
    @classmethod
    def _ascending(cls, grid: tuple[float, ...]) -> tuple[float, ...]:
        if not grid or not np.isfinite(grid).all() or list(grid) != sorted(set(grid)):
            raise ValueError("give one or more ascending values")
        return grid


@dataclass(frozen=True)
class DebiasRow:
    """The debiasing of one expert.

    Attributes:
        name: name of the expert.
        lambda_: penalty on the score of the target.
        before: correlation with the target before debiasing; NaN for a constant expert.
        after: correlation with the target after debiasing; NaN if what is left is constant.
        reached: whether the correlation after debiasing meets the tolerance (exact search) or the threshold (grid).
        reason: why it was not reached, or what is special about the expert; else empty.
    """

    name: str
    lambda_: float
    before: float
    after: float
    reached: bool
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dict: NaN becomes None."""
        return {k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in asdict(self).items()}


@dataclass(frozen=True)
class Debias:
    """A linear map of scores: ``debiased_NK = scores_NK @ matrix_KK`` (float32).

    Attributes:
        names: names of the K experts.
        target: name of the target expert; None for the identity.
        matrix_KK: debiasing matrix T.
        lambdas: penalty of each expert, by name.
        table: one row for every expert except the target.
    """

    names: tuple[str, ...]
    target: str | None
    matrix_KK: Tensor
    lambdas: dict[str, float]
    table: tuple[DebiasRow, ...]

    @staticmethod
    def identity(names: Sequence[str]) -> Debias:
        """Return the identity map for the experts ``names``."""
        return Debias(tuple(names), None, torch.eye(len(names)), dict.fromkeys(names, 0.0), ())

    @property
    def max_abs_rho(self) -> float:
        """Largest |correlation| after debiasing on the reference set, over all experts except the target; 0 if none."""
        return max((abs(row.after) for row in self.table if np.isfinite(row.after)), default=0.0)

    def apply(self, scores_NK: Tensor) -> Tensor:
        """Return the debiased scores, [N, K], in float32."""
        return scores_NK.to(self.matrix_KK) @ self.matrix_KK


def debias_matrix(lambdas: ArrayLike, target: int) -> Tensor:
    """Return the debiasing matrix ``T = I; T[target, :] -= lambda``, [K, K], in float32.

    Args:
        lambdas: penalty of each expert, [K]; that of the target is replaced by 1.
        target: index of the target expert.
    """
    values = np.array(lambdas, dtype=np.float64)
    values[target] = 1.0
    matrix = torch.eye(len(values), dtype=torch.float64)
    matrix[target] -= torch.from_numpy(values)
    return matrix.to(torch.float32)


def fit_debias(
    scores_NK: Tensor | ArrayLike,
    *,
    names: Sequence[str],
    target: str,
    config: DebiasConfig | None = None,
    groups: ArrayLike | None = None,
) -> Debias:
    """Fit the debiasing map: find lambda for every expert on a reference set.

    Args:
        scores_NK: expert scores of the reference set, [N, K]. The caller chooses the set, such as both responses of all
            preference pairs (as published) or the rated rows.
        names: names of the K experts.
        target: name of the expert whose correlation with the others is removed, such as a verbosity objective or
            ``length``.
        config: settings; None for the defaults.
        groups: prompt key of each row, [N]; required only for ``centre_by_prompt``.

    Returns:
        The map, the lambdas and one row per expert. Correlations that could not be removed are in the rows and the log.

    Raises:
        ConfigError: no expert has the name ``target``, or groups are required but missing.
        FitError: fewer than three rows, a score that is not finite, or a target that is constant.

    Example:
        >>> import numpy as np
        >>> from facetrm import fit_debias
        >>> length = np.random.default_rng(0).normal(size=500)
        >>> scores = np.stack([length + np.random.default_rng(1).normal(size=500), length], axis=1)
        >>> found = fit_debias(scores, names=["helpful", "verbose"], target="verbose")
        >>> found.lambdas["helpful"] > 0.5
        True
    """
    config = DebiasConfig() if config is None else config
    scores = _check(scores_NK, names)
    if target not in names:
        raise ConfigError(f"no expert '{target}'", place="debias target", fix=did_you_mean(target, names))
    if config.centre_by_prompt:
        if groups is None:
            raise ConfigError("centre_by_prompt needs prompts", place="debias", fix="pass groups, one per row")
        scores = _centred(scores, np.asarray(groups))
    v = list(names).index(target)
    if np.ptp(scores[:, v]) <= 1e-9 * np.abs(scores[:, v]).max():
        raise FitError(
            f"'{target}' is constant on the {len(scores)} reference rows",
            place="debias target",
            fix="choose another reference set or target",
        )
    table, lambdas = [], np.zeros(len(names))
    for k, name in enumerate(names):
        if k != v:
            row = _fit_row(name, scores[:, k], scores[:, v], config)
            if row.reason:
                log("debias", expert=name, lambda_=row.lambda_, reached=row.reached, reason=row.reason)
            table.append(row)
            lambdas[k] = row.lambda_
    lambdas[v] = 1.0
    values = dict(zip(names, lambdas.tolist(), strict=True))
    return Debias(tuple(names), target, debias_matrix(lambdas, v), values, tuple(table))


@dataclass(frozen=True)
class CorrelationRow:
    """The correlations of one expert with the target before and after debiasing; NaN if either is constant.

    Attributes:
        name: name of the expert.
        pearson_before: Pearson correlation before debiasing.
        pearson_after: Pearson correlation after debiasing.
        spearman_before: Spearman correlation before debiasing.
        spearman_after: Spearman correlation after debiasing.
    """

    name: str
    pearson_before: float
    pearson_after: float
    spearman_before: float
    spearman_after: float


def correlation_table(
    scores_NK: Tensor | ArrayLike, debias: Debias, *, against_N: ArrayLike | None = None
) -> tuple[CorrelationRow, ...]:
    """Return the correlations before and after debiasing on any set of rows, such as a held-out one.

    Args:
        scores_NK: expert scores before debiasing, [N, K].
        debias: the fitted map.
        against_N: values to correlate with, such as lengths, [N]; None for the target's scores before debiasing.

    Returns:
        One row per expert.

    Raises:
        FitError: a score that is not finite, a number of experts that differs from the map's, fewer than three rows, or
            an identity map without ``against_N``.
    """
    scores = _check(scores_NK, debias.names)
    if against_N is None:
        if debias.target is None:
            raise FitError("an identity map has no target", place="correlation table", fix="pass against_N")
        against = scores[:, debias.names.index(debias.target)]
    else:
        against = np.asarray(against_N, dtype=np.float64)
    after = scores @ debias.matrix_KK.to(torch.float64).numpy()
    return tuple(
        CorrelationRow(
            name,
            pearson(scores[:, k], against),
            pearson(after[:, k], against),
            spearman(scores[:, k], against),
            spearman(after[:, k], against),
        )
        for k, name in enumerate(debias.names)
    )


def _check(scores_NK: Tensor | ArrayLike, names: Sequence[str]) -> Floats:
    """Return the scores as a checked float64 array, [N, K]."""
    raw = scores_NK.detach().cpu() if isinstance(scores_NK, torch.Tensor) else scores_NK
    scores = np.asarray(raw, dtype=np.float64)
    if scores.ndim != 2 or scores.shape[1] != len(names) or len(scores) < 3:
        raise FitError(
            f"scores {list(scores.shape)} for {len(names)} experts",
            place="debias",
            fix=f"give [N, {len(names)}] with at least 3 rows",
        )
    if not np.isfinite(scores).all():
        n, k = np.argwhere(~np.isfinite(scores))[0]
        raise FitError(f"score {scores[n, k]}", place=f"debias row {n}, '{names[k]}'", fix="score that row again")
    return scores


def _centred(scores: Floats, groups: NDArray[np.generic]) -> Floats:
    """Return the scores minus the mean score of their prompt."""
    if groups.shape != (len(scores),):
        raise FitError(f"groups {list(groups.shape)} for {len(scores)} rows", place="debias", fix="give one per row")
    _, code = np.unique(groups, return_inverse=True)
    sums = np.zeros((int(code.max()) + 1, scores.shape[1]))
    np.add.at(sums, code.ravel(), scores)
    centred: Floats = scores - (sums / np.bincount(code.ravel())[:, None])[code.ravel()]
    centred[np.abs(centred) <= 1e-12 * np.abs(scores).max(axis=0)] = 0.0
    return centred


def _fit_row(name: str, r: Floats, v: Floats, config: DebiasConfig) -> DebiasRow:
    """Fit lambda for one expert."""
    measure = spearman if config.correlation == "spearman" else pearson
    nan = float("nan")
    if np.ptp(r) <= 1e-9 * np.abs(r).max():
        return DebiasRow(name, 0.0, nan, nan, False, f"constant at {r[0]:g} on the reference set")

    def rho(value: float) -> float:
        rest = r - value * v
        # for an affine copy of the target, only rounding error is left, and its correlation has no meaning
        return nan if np.ptp(rest) <= 1e-6 * np.ptp(r) else measure(rest, v)

    before = rho(0.0)
    guess = float(np.cov(r, v)[0, 1] / np.var(v, ddof=1))
    if config.search == "grid":
        return _grid(name, rho, before, config, copy=np.isnan(rho(guess)))
    if config.sided == "one" and before <= config.tolerance:
        return DebiasRow(name, 0.0, before, before, True)
    value = (
        guess if config.correlation == "pearson" else _zero(rho, before, guess, float(np.std(r) / np.std(v)), config)
    )
    value = float(np.float32(value))
    capped = config.max_lambda is not None and abs(value) > config.max_lambda
    if capped:
        value = float(np.copysign(config.max_lambda or 0.0, value))
    after = rho(value)
    reached = bool(abs(after) <= config.tolerance)
    reason = "" if reached else f"no lambda brings |rho| below {abs(after):.4f}, because the scores are too coarse"
    if not np.isfinite(after):
        reason = f"it is an affine copy of the target: at lambda {value:.4g} it is constant"
    elif capped and not reached:
        reason = f"max_lambda {config.max_lambda:g} leaves rho {after:.4f}"
    return DebiasRow(name, value, before, after, reached, reason)


def _zero(rho: Callable[[float], float], before: float, guess: float, scale: float, config: DebiasConfig) -> float:
    """Return a lambda whose |rho| is within the tolerance; if there is none, the better end of the last bracket.

    The bracket is widened from the guess until it holds the sign change. Secant and bisection steps then narrow it.
    """
    if abs(before) <= config.tolerance:
        return 0.0
    sign = 1.0 if before > 0 else -1.0
    near, near_rho = 0.0, before
    far = guess if sign * guess > 0 else sign * scale
    far_rho = rho(far)
    while sign * far_rho > 0:
        near, near_rho, far = far, far_rho, 2.0 * far
        far_rho = rho(far)
    for step in range(_STEPS):
        ends = ((near, near_rho), (far, far_rho))
        value, best = min(ends, key=lambda end: abs(end[1]) if np.isfinite(end[1]) else np.inf)
        if abs(best) <= config.tolerance or not np.isfinite(far_rho):
            return value if np.isfinite(far_rho) else far
        if abs(far - near) <= _RESOLUTION * max(abs(far), 1e-3 * scale):
            return value
        share = near_rho / (near_rho - far_rho) if step % 2 else 0.5
        middle = near + min(max(share, 0.01), 0.99) * (far - near)
        middle_rho = rho(middle)
        if sign * middle_rho > 0:
            near, near_rho = middle, middle_rho
        else:
            far, far_rho = middle, middle_rho
    return value


def _grid(name: str, rho: Callable[[float], float], before: float, config: DebiasConfig, *, copy: bool) -> DebiasRow:
    """Return the first grid value whose correlation meets the threshold, else the last value with the reason.

    A walk that starts above the threshold and steps over zero to below its negative has not reached it, nor has one
    over a copy of the target, whose rho is 1 or -1 everywhere.
    """
    after = before
    for value in config.grid:
        after = rho(value)
        if after <= config.threshold:
            stepped_over = before > config.threshold and after < -config.threshold
            reason = f"the grid steps over zero: rho {before:.4f} becomes {after:.4f}" if stepped_over else ""
            if copy and not reason:
                reason = (
                    f"an affine copy of the target: rho is {after:.4f} at lambda {value:g}, and no value removes it"
                )
            return DebiasRow(name, value, before, after, not reason, reason)
    reason = f"no grid value brings rho down to {config.threshold:g}; the last leaves {after:.4f}"
    return DebiasRow(name, config.grid[-1], before, after, False, reason)
