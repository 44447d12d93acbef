"""Accuracy on the training pairs, cross-validated by prompt: what small data can say besides a few held-out pairs."""

from __future__ import annotations

import numpy as np
import torch

from facetrm.core.errors import FitError
from facetrm.core.progress import log
from facetrm.core.statistics import Interval, pair_accuracy
from facetrm.fit.pairs import expert_scores
from facetrm.model.aggregate import GatedSum
from facetrm.recipes.armorm.config import ArmormConfig
from facetrm.recipes.armorm.fit import ArmormFit, fit_mixture
from facetrm.recipes.armorm.rows import Rows


def cross_validated(config: ArmormConfig, rows: Rows, fit: ArmormFit) -> tuple[Interval, int] | None:
    """Return the accuracy of gates on training pairs whose prompts they did not see, and the number of these pairs.

    The prompts are dealt out over ``compare.folds`` folds, and a gate is fitted without each of them. Experts and
    debiasing stay those of the run. Pairs whose prompt was rated are left out, unless the experts' scores are
    cross-fitted. With a preference expert, the cross-fitted scores of other prompts come from an expert that saw the
    labels of this one, as always in stacking.

    Args:
        config: Settings of the run.
        rows: Data of the run.
        fit: Fitted parts of the run's model.

    Returns:
        None if there are enough test prompts or too few training prompts, if a preference expert learned from the same
        pairs, or if no gate can be fitted in a fold, which the log then says.
    """
    compare, pairs = config.compare, fit.gate_pairs
    leaks = config.experts.preference and fit.scores is None
    if not compare.folds or len({pair.prompt_key for pair in rows.test}) >= compare.few or leaks:
        return None
    prompts, codes_N = np.unique(np.asarray(pairs.groups), return_inverse=True)
    if len(prompts) < 2 * compare.folds:
        return None
    fold_N = np.random.default_rng(config.seed).permutation(len(prompts))[codes_N] % compare.folds
    chosen_NK, rejected_NK = fit.scores or expert_scores(fit.mixture.linear_experts, pairs)
    margin_N = np.zeros(len(pairs))
    for fold in range(compare.folds):
        kept, here = torch.from_numpy(np.flatnonzero(fold_N != fold)), torch.from_numpy(np.flatnonzero(fold_N == fold))
        try:
            mixture, _ = fit_mixture(
                config,
                fit.mixture.linear_experts,
                fit.debias,
                pairs.select(kept),
                weights=None if fit.weights is None else fit.weights[kept.numpy()],
                scores=(chosen_NK[kept], rejected_NK[kept]),
                folder=fit.folder,
            )
        except FitError as error:
            log("cross-validation", left_out=str(error))
            return None
        total = mixture.aggregator
        assert isinstance(total, GatedSum)
        with torch.no_grad():
            weights_NK = total.weights_of(total.gate.logits(pairs.select(here).prompts()))
            sides = [total.combine(weights_NK, side[here]).reward_N for side in (chosen_NK, rejected_NK)]
        margin_N[here.numpy()] = (sides[0] - sides[1]).double().numpy()
    rated = {row.prompt_key for row in rows.heads} if fit.scores is None else set()
    counted_N = np.array([group not in rated for group in pairs.groups])
    if not counted_N.any():
        return None
    groups = [group for group, counted in zip(pairs.groups, counted_N, strict=True) if counted]
    return pair_accuracy(margin_N[counted_N], groups, samples=compare.samples, seed=config.seed), int(counted_N.sum())
