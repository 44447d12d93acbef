"""Ridge solutions from moments: one decomposition gives all alphas, and moments of a fold give held-out errors.

    path:   (G + alpha)^-1 c = Q (T + alpha)^-1 Q^T c        T tridiagonal: each alpha costs O(D)
    error:  sum_n w_n (y_n - b - w^T x_n)^2 = u^T M u        u = [-w, -b, 1], M = the fold's moments

Shapes: D hidden size, K objectives, F held-out folds, P penalties.

Reference: L. Eldén, Algorithms for the regularization of ill-conditioned least squares problems, BIT 17 (1977). An
eigendecomposition would go on from T to a diagonal matrix, at four times the cost and with the same solutions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import lapack
from torch import Tensor

from facetrm.core.errors import FitError
from facetrm.core.threads import few_blas_threads
from facetrm.fit.heads.gram import Centre, Moments
from facetrm.fit.heads.label_blocks import LabelBlock
from facetrm.model.uncertainty.posterior import PosteriorGroup


@dataclass(frozen=True)
class RidgeSolutions:
    """The final heads and the heads of every fold, in float64. They are filled block by block.

    Attributes:
        alpha_K: chosen penalty of each objective; NaN if no head was fitted.
        weight_KD: coefficients of the final heads.
        bias_K: intercepts of the final heads.
        fold_weight_FKD: coefficients of the heads fitted without each fold.
        fold_bias_FK: intercepts of the heads fitted without each fold.
        fold_mean_FK: mean label of each objective outside each fold.
    """

    alpha_K: NDArray[np.float64]
    weight_KD: Tensor
    bias_K: Tensor
    fold_weight_FKD: Tensor
    fold_bias_FK: Tensor
    fold_mean_FK: Tensor

    @staticmethod
    def constant(means_K: Tensor, *, folds: int, hidden: int) -> RidgeSolutions:
        """Return heads that predict the mean label for all features.

        Args:
            means_K: mean label of each objective, [K].
            folds: number of held-out folds F.
            hidden: size D of a feature vector.
        """
        blank = torch.zeros(folds, len(means_K), hidden, dtype=torch.float64)
        means = means_K.expand(folds, -1)
        alpha = np.full(len(means_K), np.nan)
        return RidgeSolutions(alpha, torch.zeros_like(blank[0]), means_K.clone(), blank, means.clone(), means.clone())


_WORTH = 16  # one decomposition is short: several threads pay off above D = 1,024


class NormalEquations:
    """Normal equations of one set of rows. They are centred if the heads have an intercept.

    Args:
        moments: symmetric moment matrix M, [D + 1 + K, D + 1 + K]; its memory is reused.
        hidden: size D of a feature vector.
        columns: objectives to solve for, as positions among the labels of M.
        intercept: whether the heads have an intercept, which is not penalised.
    """

    def __init__(self, moments: Tensor, *, hidden: int, columns: Sequence[int], intercept: bool) -> None:
        labels = [hidden + 1 + column for column in columns]
        mass = moments[hidden, hidden]
        self._mean_x = moments[:hidden, hidden] / mass
        self.mean_y = moments[hidden, labels] / mass
        self._gram, self._cross = moments[:hidden, :hidden], moments[:hidden, labels]
        self._squares = moments[labels, labels].clone()
        self._mass, self._intercept = float(mass), intercept
        if intercept:
            self._squares -= mass * self.mean_y**2
            self._gram.addr_(self._mean_x, self._mean_x, alpha=-float(mass))
            self._cross = self._cross - mass * torch.outer(self._mean_x, self.mean_y)

    def path(self, alphas: Sequence[float]) -> tuple[Tensor, Tensor]:
        """Return the heads for every alpha: coefficients [P, D, K] and intercepts [P, K]."""
        with few_blas_threads(_WORTH * self._gram.numel()):
            coefficients = _tridiagonal_path(self._gram, self._cross, alphas)
        if coefficients is None:
            coefficients = _eigen_path(self._gram, self._cross, alphas)
        return coefficients, self._constants(coefficients)

    def solve(self, alpha_K: Sequence[float]) -> tuple[Tensor, Tensor]:
        """Return the heads for one alpha per objective: coefficients [D, K] and intercepts [K]."""
        coefficients = torch.empty_like(self._cross)
        for alpha in sorted(set(alpha_K)):
            columns = [k for k, value in enumerate(alpha_K) if value == alpha]
            shifted = self._gram.clone()
            shifted.diagonal().add_(alpha)
            factor, failed = torch.linalg.cholesky_ex(shifted)
            if failed:
                coefficients[:, columns] = _eigen_path(self._gram, self._cross[:, columns], [alpha])[0]
            else:
                coefficients[:, columns] = torch.cholesky_solve(self._cross[:, columns], factor)
        return coefficients, self._constants(coefficients)

    def posterior(
        self,
        alpha: float,
        coefficients_DJ: Tensor,
        *,
        rows: int,
        columns: Sequence[int],
        of: Sequence[int],
        x_D: Tensor,
    ) -> PosteriorGroup:
        """Return the posterior of heads with one alpha.

        Args:
            alpha: the penalty.
            coefficients_DJ: coefficients of the J heads, from :meth:`solve`.
            rows: number of rated rows.
            columns: positions of the heads among all experts.
            of: positions of the heads among the columns of these equations.
            x_D: vector that was subtracted from the features.

        Raises:
            FitError: the rows leave no degree of freedom for the noise, or the Gram matrix is singular.
        """
        shifted = self._gram.clone()
        shifted.diagonal().add_(alpha)
        factor, failed = torch.linalg.cholesky_ex(shifted)
        if failed:
            raise FitError(
                f"the Gram matrix is singular at alpha {alpha:g}", place="posterior", fix="give larger alphas"
            )
        root_DD = torch.linalg.solve_triangular(factor, torch.eye(len(factor), dtype=factor.dtype), upper=False)
        freedom = rows - (len(factor) - alpha * float(root_DD.square().sum())) - float(self._intercept)
        if freedom < 1e-6 * rows:
            problem = f"{rows} rated rows at alpha {alpha:g} leave no degree of freedom for the noise"
            raise FitError(
                problem, place="posterior", fix="add ratings, give larger alphas, or fit without uncertainty"
            )
        w, picked = coefficients_DJ, list(of)
        residual_J = self._squares[picked] - 2.0 * (w * self._cross[:, picked]).sum(0) + (w * (self._gram @ w)).sum(0)
        centre_D = x_D + self._mean_x if self._intercept else torch.zeros_like(self._mean_x)
        noise_J = residual_J.clamp(min=0.0) / freedom
        offset = 1.0 / self._mass if self._intercept else 0.0
        return PosteriorGroup(tuple(columns), root_DD.float(), centre_D.float(), noise_J.float(), offset)

    def _constants(self, coefficients: Tensor) -> Tensor:
        if not self._intercept:
            return torch.zeros(*coefficients.shape[:-2], coefficients.shape[-1], dtype=torch.float64)
        return self.mean_y - torch.einsum("d,...dk->...k", self._mean_x, coefficients)


def _tridiagonal_path(gram_DD: Tensor, cross_DK: Tensor, alphas: Sequence[float]) -> Tensor | None:
    """Return ``(G + alpha)^-1 c`` for every alpha, [P, D, K]; None if G + alpha is indefinite through rounding."""
    size, count = cross_DK.shape
    if size < 3:
        return None
    work, _ = lapack.dsytrd_lwork(size, lower=1)
    packed, diagonal, beside, tau, _ = lapack.dsytrd(gram_DD.numpy(), lower=1, lwork=int(work))
    # Q does not change the first coordinate; its reflectors are below the first subdiagonal
    reflectors = np.asfortranarray(packed[1:, :-1])
    del packed
    turned = cross_DK.numpy().copy()
    turned[1:] = lapack.dormqr("L", "T", reflectors, tau, turned[1:], 64 * count)[0]
    solutions = np.empty((size, len(alphas) * count), order="F")
    for p, alpha in enumerate(alphas):
        _, _, solutions[:, p * count : (p + 1) * count], failed = lapack.dptsv(diagonal + alpha, beside, turned)
        if failed:
            return None
    solutions[1:] = lapack.dormqr("L", "N", reflectors, tau, solutions[1:], 64 * solutions.shape[1])[0]
    return torch.from_numpy(np.ascontiguousarray(solutions.T).reshape(len(alphas), count, size)).transpose(1, 2)


def _eigen_path(gram_DD: Tensor, cross_DK: Tensor, alphas: Sequence[float]) -> Tensor:
    """Return ``(G + alpha)^-1 c`` from the eigendecomposition, [P, D, K]; negative eigenvalues count as 0."""
    values, vectors = torch.linalg.eigh(gram_DD)
    values, cross = values.clamp(min=0.0), vectors.T @ cross_DK
    return torch.stack([vectors @ (cross / (values + alpha)[:, None]) for alpha in alphas])


def fit_block(
    heads: RidgeSolutions,
    block: LabelBlock,
    moments: Mapping[tuple[int, int], Moments],
    *,
    held: Sequence[int],
    alphas: Sequence[float],
    centre: Centre,
    intercept: bool,
    refit_all: bool,
    posterior: list[PosteriorGroup] | None = None,
) -> None:
    """Choose alpha for each objective of a block and write its heads into ``heads``.

    Args:
        heads: the solutions to fill.
        block: the objectives and their sets of rows.
        moments: moments by (part, fold); a missing key means no rows.
        held: the folds to hold out in turn.
        alphas: the P penalties to choose from; of equal held-out squared errors, the first is taken.
        centre: the origin of the moments.
        intercept: whether the heads have an intercept.
        refit_all: whether to fit the final heads on all folds; else they are fitted on those outside ``held``.
        posterior: list that receives the posterior of heads fitted on all folds; None for no posterior.
    """
    hidden = len(centre.x_D)
    for parts, members in block.by_mask().items():
        mine = [(key, item) for key, item in moments.items() if key[0] in parts]
        columns = [block.columns[i] for i in members]
        error_PK = torch.zeros(len(alphas), len(members), dtype=torch.float64)
        paths: dict[int, tuple[Tensor, Tensor]] = {}
        for i, fold in enumerate(held):
            train = [item for key, item in mine if key[1] != fold]
            test = [item for key, item in mine if key[1] == fold]
            if not train or not test:
                continue
            equations = NormalEquations(Moments.full(train), hidden=hidden, columns=members, intercept=intercept)
            paths[i] = equations.path(alphas)
            heads.fold_mean_FK[i, columns] = equations.mean_y + centre.y_K[columns]
            del equations
            error_PK += _squared_error(Moments.full(test), *paths[i], members=members)
        best = error_PK.argmin(dim=0).tolist()
        for i, path in paths.items():
            chosen = [(path[0][p, :, k], path[1][p, k]) for k, p in enumerate(best)]
            weight = torch.stack([coefficient for coefficient, _ in chosen])
            heads.fold_weight_FKD[i, columns] = weight
            heads.fold_bias_FK[i, columns] = _uncentre(weight, torch.stack([c for _, c in chosen]), centre, columns)
        heads.alpha_K[columns] = [alphas[p] for p in best]
        if refit_all:
            whole = Moments.full([item for _, item in mine])
            equations = NormalEquations(whole, hidden=hidden, columns=members, intercept=intercept)
            coefficients, constants = equations.solve([alphas[p] for p in best])
            heads.weight_KD[columns] = coefficients.T
            heads.bias_K[columns] = _uncentre(coefficients.T, constants, centre, columns)
            if posterior is not None:
                rows = sum(int(block.parts[part].sum()) for part in parts)
                for p in sorted(set(best)):
                    of = [j for j, chosen_p in enumerate(best) if chosen_p == p]
                    posterior.append(
                        equations.posterior(
                            alphas[p],
                            coefficients[:, of],
                            rows=rows,
                            columns=[columns[j] for j in of],
                            of=of,
                            x_D=centre.x_D,
                        )
                    )
        else:
            heads.weight_KD[columns] = heads.fold_weight_FKD[0, columns]
            heads.bias_K[columns] = heads.fold_bias_FK[0, columns]


def _squared_error(moments: Tensor, coefficients: Tensor, constants: Tensor, *, members: Sequence[int]) -> Tensor:
    """Return the squared error u^T M u for every alpha and objective, [P, K]."""
    penalties, hidden, count = coefficients.shape
    u = torch.zeros(penalties, moments.shape[0], count, dtype=torch.float64)
    u[:, :hidden], u[:, hidden] = -coefficients, -constants
    for k, member in enumerate(members):
        u[:, hidden + 1 + member, k] = 1.0
    flat = u.transpose(0, 1).reshape(moments.shape[0], -1)
    return (flat * (moments @ flat)).sum(dim=0).clamp(min=0.0).view(penalties, count)


def _uncentre(weight_KD: Tensor, constants: Tensor, centre: Centre, columns: Sequence[int]) -> Tensor:
    """Return the intercepts for features and labels that are not centred, [K]."""
    return constants + centre.y_K[list(columns)] - weight_KD @ centre.x_D
