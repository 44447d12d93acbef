"""Stage 1: fit one ridge head per objective in closed form. Labels may be missing.

    w_k = argmin_w  sum_n  s_n (y_nk - b_k - w^T x_n)^2 + alpha_k |w|^2        over the rows n that rate objective k
        = (G + alpha_k)^-1 c_k        G = centred Gram matrix: one decomposition of it serves every alpha

Shapes: N rows, D hidden size, K objectives, P penalties.

Reference: ArmoRM (arXiv 2406.12845), section 3.1. We differ: all rows of a prompt are in one fold, the heads have an
intercept by default, and the final head is fitted on all rows (``folds: 1, intercept: false, refit: train`` is the
published method).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from facetrm.backbone.encoder import in_order
from facetrm.core.config import Section, Seed
from facetrm.core.errors import FitError
from facetrm.core.statistics import Floats
from facetrm.data.objectives import Objective
from facetrm.fit.heads.gram import Centre, FeatureSource, Precision, at_layer, gather_moments, response_chunks
from facetrm.fit.heads.held_out_scale import scale_to_residuals
from facetrm.fit.heads.label_blocks import Bools, Ints, LabelBlock, assign_folds, label_blocks
from facetrm.fit.heads.objective_report import ObjectiveReport, report_objective
from facetrm.fit.heads.ridge_path import RidgeSolutions, fit_block
from facetrm.model.experts import LengthScale, LinearExperts
from facetrm.model.uncertainty.posterior import HeadPosterior, PosteriorGroup


class RidgeConfig(Section):
    """Settings of stage 1.

    Attributes:
        alphas: ridge penalties to choose from. They are on the scale of sums over rows, as in scikit-learn's ``Ridge``,
            so the same alpha regularises less if there are more rows.
        folds: number of cross-validation folds that choose alpha; all rows of a prompt are in one fold. 1 uses a single
            validation split instead.
        validation: share of the prompts to hold out if ``folds`` is 1, 0 to 1.
        intercept: whether each head has an intercept, which is not penalised.
        refit: rows for the final heads: ``all`` rows, or the ``train`` part of the split (only with ``folds: 1``).
        unfit: treatment of an objective that has too few prompts or constant labels: ``raise`` an error, or predict its
            ``mean`` label and note that in the report.
        precision: precision of the products of features; sums and solutions are always float64.
        gram_gib: memory for Gram matrices, in GiB. Objectives whose matrices do not fit together need further passes
            over the features.
        bootstrap: number of bootstrap samples for the interval of each Spearman correlation; 0 for no interval.
        seed: random seed of the folds and the bootstrap.

    Example:
        >>> from facetrm import RidgeConfig
        >>> RidgeConfig(folds=3).folds
        3
    """

    alphas: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3, 1e4)
    folds: int = Field(default=5, ge=1)
    validation: float = Field(default=0.2, gt=0.0, lt=1.0)
    intercept: bool = True
    refit: Literal["all", "train"] = "all"
    unfit: Literal["raise", "mean"] = "raise"
    precision: Precision = "float64"
    gram_gib: float = Field(default=1.0, gt=0.0)
    bootstrap: int = Field(default=200, ge=0)
    seed: Seed = 0

    @field_validator("alphas")
    @classmethod
    def _positive(cls, alphas: tuple[float, ...]) -> tuple[float, ...]:
        if not alphas or not all(np.isfinite(alpha) and alpha > 0 for alpha in alphas):
            raise ValueError("give one or more penalties above 0")
        return alphas

    @model_validator(mode="after")
    def _refit_needs_a_train_part(self) -> RidgeConfig:
        if self.refit == "train" and self.folds != 1:
            raise ValueError(f"refit 'train' needs folds 1, not {self.folds}")
        return self


@dataclass(frozen=True)
class LinearFit:
    """The fitted heads and their figures.

    Attributes:
        experts: the fitted heads.
        reports: one report per objective, on predictions for held-out rows.
        means_K: weighted mean label of each objective.
        held_out_NK: predictions for held-out rows on the [0, 1] scale; NaN for all other rows and without a label.
        posterior: posterior of the heads, scaled to held-out ratings; None if it was not asked for.
    """

    experts: LinearExperts
    reports: tuple[ObjectiveReport, ...]
    means_K: Tensor
    held_out_NK: Floats
    posterior: HeadPosterior | None = None


def fit_linear_experts(
    features: FeatureSource,
    labels_NK: ArrayLike,
    *,
    objectives: Sequence[Objective],
    groups: ArrayLike,
    config: RidgeConfig | None = None,
    weights: ArrayLike | None = None,
    length: LengthScale | None = None,
    uncertainty: bool = False,
) -> LinearFit:
    """Fit one linear head per objective from streamed features.

    Args:
        features: features of the N rows, in order, whole or in chunks; a function is called once per pass.
        labels_NK: labels on the [0, 1] scale, [N, K], NaN if not rated (:func:`facetrm.data.objectives.label_matrix`).
        objectives: the K objectives.
        groups: prompt key of each row, [N]; all rows of a prompt are in one fold.
        config: settings; None for the defaults.
        weights: weight of each row, [N], 0 or more; None for equal weights.
        length: scale of an additional ``length`` expert; None for no such expert.
        uncertainty: whether to keep the posterior of the heads, one D x D matrix per set of rows and alpha. It costs
            one more pass over the features.

    Returns:
        The heads, reports on out-of-fold predictions, and the mean label of each objective.

    Raises:
        FitError: shapes that do not match, a weight or feature that is not finite, or (with ``unfit: raise``) an
            objective with too few prompts or constant labels.

    Example:
        >>> from facetrm import RidgeConfig, World, fit_linear_experts, label_matrix, toy_model
        >>> world, rated = World(), list(World().ratings(60))
        >>> fit = fit_linear_experts(
        ...     toy_model().encoder.encode([rating.messages for rating in rated]),
        ...     label_matrix(rated, world.objectives),
        ...     objectives=world.objectives,
        ...     groups=[rating.prompt_key for rating in rated],
        ...     config=RidgeConfig(folds=3, bootstrap=0, unfit="mean"),
        ... )
        >>> len(fit.experts.names) == len(world.objectives)
        True
    """
    config = RidgeConfig() if config is None else config
    if uncertainty and config.refit != "all":
        problem = f"no posterior for heads with refit '{config.refit}'"
        raise FitError(problem, place="uncertainty", fix="set refit: all, or fit without uncertainty")
    labels, group_N, weight_N = _check(labels_NK, objectives, groups, weights)
    labelled = np.isfinite(labels) & (weight_N > 0)[:, None]
    notes = _unfit(labels, labelled, objectives, group_N, config)
    labelled[:, list(notes)] = False
    fold_N = assign_folds(group_N, labelled, folds=config.folds, validation=config.validation, seed=config.seed)
    held = list(range(config.folds)) if config.folds > 1 else [1]
    for k, objective in enumerate(objectives):
        if k not in notes and len(np.unique(fold_N[labelled[:, k]])) < 2:
            other = f"rate more prompts, or set folds to a number other than {config.folds}"
            raise FitError(
                f"all {int(labelled[:, k].sum())} rated rows fall on one side of the split",
                place=f"objective '{objective.name}'",
                fix=other if config.folds > 1 else "change validation or the seed, or use folds: 2 or more",
            )
    masses = np.where(np.isfinite(labels), weight_N[:, None], 0.0)
    means = torch.from_numpy((masses * np.nan_to_num(labels)).sum(axis=0) / masses.sum(axis=0))
    found: list[PosteriorGroup] | None = [] if uncertainty else None
    heads = _fit_heads(features, labels, labelled, weight_N, fold_N, means, held, config, posterior=found)
    predictions, baselines = _held_out(features, labelled, fold_N, held, heads)
    predictions[~labelled] = np.nan
    given = np.where(weight_N[:, None] > 0, labels, np.nan)
    reports = _reports(predictions, given, baselines, group_N, heads.alpha_K, objectives, notes, config)
    experts = LinearExperts(objectives, heads.weight_KD, heads.bias_K, length=length)
    posterior = None
    if found is not None:
        posterior = HeadPosterior(found, experts=len(objectives))
        posterior = scale_to_residuals(posterior, features, labels - predictions, weight_N=weight_N)
    return LinearFit(experts, reports, means, predictions, posterior)


def _reports(
    predictions_NK: Floats,
    labels_NK: Floats,
    baselines_NK: Floats,
    group_N: NDArray[np.generic],
    alpha_K: Floats,
    objectives: Sequence[Objective],
    notes: dict[int, str],
    config: RidgeConfig,
) -> tuple[ObjectiveReport, ...]:
    """Return the report of each objective on its held-out predictions."""
    return tuple(
        report_objective(
            objective.name,
            predictions_NK[:, k],
            labels_N=labels_NK[:, k],
            baseline_N=baselines_NK[:, k],
            groups_N=group_N,
            alpha=None if k in notes else float(alpha_K[k]),
            bootstrap=config.bootstrap,
            seed=config.seed,
            note=notes.get(k, ""),
        )
        for k, objective in enumerate(objectives)
    )


def evaluate_experts(
    experts: LinearExperts,
    features: FeatureSource,
    labels_NK: ArrayLike,
    *,
    groups: ArrayLike,
    means_K: Tensor | None = None,
    bootstrap: int = 200,
    seed: int = 0,
) -> tuple[ObjectiveReport, ...]:
    """Evaluate fitted heads on rows that were not used in the fit.

    Args:
        experts: the fitted heads; a ``length`` expert is not evaluated.
        features: features of the N rows, in order, whole or in chunks.
        labels_NK: labels on the [0, 1] scale, [N, K]; NaN if not rated.
        groups: prompt key of each row, [N], for the bootstrap.
        means_K: training means (``LinearFit.means_K``), [K], which ``mse_mean`` uses as the prediction. None uses the
            means of ``labels_NK``, which is a stronger baseline.
        bootstrap: number of bootstrap samples for the intervals; 0 for no intervals.
        seed: random seed of the bootstrap.

    Returns:
        One report per objective.

    Raises:
        FitError: shapes that do not match, or a feature that is not finite.
    """
    objectives = experts.objectives[: len(experts.weight_KD)]
    labels, group_N, _ = _check(labels_NK, objectives, groups, None)
    scores = np.full(labels.shape, np.nan)
    for layer in in_order(experts.reads):
        mine = [k for k, read in enumerate(experts.reads) if read == layer]
        for start, x in response_chunks(at_layer(features, layer), rows=len(labels)):
            scores[start : start + len(x), mine] = experts.rate(x)[:, mine].cpu().numpy()
    reports = []
    for k, objective in enumerate(objectives):
        rated = labels[np.isfinite(labels[:, k]), k]
        mean = (float(rated.mean()) if len(rated) else 0.0) if means_K is None else float(means_K[k])
        reports.append(
            report_objective(
                objective.name,
                scores[:, k],
                labels_N=labels[:, k],
                baseline_N=np.full(len(labels), mean),
                groups_N=group_N,
                bootstrap=bootstrap,
                seed=seed,
            )
        )
    return tuple(reports)


def _check(
    labels_NK: ArrayLike, objectives: Sequence[Objective], groups: ArrayLike, weights: ArrayLike | None
) -> tuple[Floats, NDArray[np.generic], Floats]:
    """Return labels, groups and weights as arrays, after checking their shapes and values."""
    labels, group_N = np.asarray(labels_NK, dtype=np.float64), np.asarray(groups)
    if labels.ndim != 2 or labels.shape[1] != len(objectives) or not len(labels):
        raise FitError(
            f"labels {list(labels.shape)} for {len(objectives)} objectives",
            place="labels",
            fix=f"give [N, {len(objectives)}] with N above 0",
        )
    if np.isinf(labels).any():
        n, k = np.argwhere(np.isinf(labels))[0]
        raise FitError(
            f"label {labels[n, k]}", place=f"labels row {n}, '{objectives[k].name}'", fix="use NaN for no label"
        )
    weight_N = np.ones(len(labels)) if weights is None else np.asarray(weights, dtype=np.float64)
    for name, array in (("groups", group_N), ("weights", weight_N)):
        if array.shape != (len(labels),):
            raise FitError(f"{list(array.shape)} for {len(labels)} rows", place=name, fix="give one per row")
    wrong = ~np.isfinite(weight_N) | (weight_N < 0)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise FitError(f"weight {weight_N[row]}", place=f"weights row {row}", fix="give finite weights of 0 or more")
    return labels, group_N, weight_N


def _unfit(
    labels: Floats, labelled: Bools, objectives: Sequence[Objective], group_N: NDArray[np.generic], config: RidgeConfig
) -> dict[int, str]:
    """Return the reason for each objective that cannot be fitted, by index; with ``unfit: raise``, raise it."""
    notes: dict[int, str] = {}
    least = max(config.folds, 2)
    for k, objective in enumerate(objectives):
        y = labels[labelled[:, k], k]
        prompts = len(np.unique(group_N[labelled[:, k]]))
        if prompts < least:
            problem = f"{len(y)} rated rows of {prompts} prompts, but the folds need {least} prompts"
        elif np.all(y == y[0]):
            problem = f"all {len(y)} labels are {y[0]:g}"
        else:
            continue
        if config.unfit == "raise" or not len(y):
            raise FitError(
                problem,
                place=f"objective '{objective.name}'",
                fix="add ratings or drop the objective" + (", or set unfit: mean" if len(y) else ""),
            )
        notes[k] = f"{problem}; it predicts its mean"
    return notes


def _fit_heads(
    source: FeatureSource,
    labels: Floats,
    labelled: Bools,
    weight_N: Floats,
    fold_N: Ints,
    means_K: Tensor,
    held: Sequence[int],
    config: RidgeConfig,
    *,
    posterior: list[PosteriorGroup] | None,
) -> RidgeSolutions:
    """Choose alpha and fit every objective, with as many blocks per pass as the memory allows."""
    _, first = next(response_chunks(source, rows=len(labels)))
    hidden = int(first.shape[1])
    heads = RidgeSolutions.constant(means_K, folds=len(held), hidden=hidden)
    centre = Centre(first[0].to(torch.float64), means_K)
    if not config.intercept:
        centre = Centre(torch.zeros_like(centre.x_D), torch.zeros_like(means_K))
    for blocks in _passes(label_blocks(labelled), hidden=hidden, folds=max(config.folds, 2), gib=config.gram_gib):
        gathered = gather_moments(
            source,
            blocks,
            labels,
            weights_N=weight_N,
            fold_N=fold_N,
            centre=centre,
            precision=config.precision,
        )
        for block in blocks:
            fit_block(
                heads,
                block,
                gathered.pop(0),
                held=held,
                alphas=config.alphas,
                centre=centre,
                intercept=config.intercept,
                refit_all=config.refit == "all",
                posterior=posterior,
            )
    return heads


def _passes(blocks: Sequence[LabelBlock], *, hidden: int, folds: int, gib: float) -> list[list[LabelBlock]]:
    """Group the blocks so that the Gram matrices of a group fit in ``gib``; a group has at least one block."""
    passes: list[list[LabelBlock]] = []
    room = 0.0
    for block in blocks:
        need = len(block.parts) * folds * (hidden + 1 + len(block.columns)) ** 2 * 8 / 2**30
        if not passes or need > room:
            passes.append([])
            room = gib
        passes[-1].append(block)
        room -= need
    return passes


def _held_out(
    source: FeatureSource, labelled: Bools, fold_N: Ints, held: Sequence[int], heads: RidgeSolutions
) -> tuple[Floats, Floats]:
    """Return out-of-fold predictions and training means of every held-out row, [N, K]; NaN for all other rows."""
    predictions, baselines = np.full(labelled.shape, np.nan), np.full(labelled.shape, np.nan)
    for start, x in response_chunks(source, rows=len(labelled)):
        fold = fold_N[start : start + len(x)]
        for i, f in enumerate(held):
            rows = np.flatnonzero(fold == f)
            if len(rows):
                seen = x[torch.from_numpy(rows)].to(torch.float64)
                predictions[start + rows] = (seen @ heads.fold_weight_FKD[i].T + heads.fold_bias_FK[i]).numpy()
                baselines[start + rows] = heads.fold_mean_FK[i].numpy()
    return predictions, baselines
