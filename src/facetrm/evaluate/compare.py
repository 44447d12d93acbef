"""Baselines fitted on the same features as the gate, and the accuracy of all systems on held-out pairs.

Shapes: N pairs, K experts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from facetrm.backbone.encoder import Features
from facetrm.baselines.length import longer_mixture
from facetrm.baselines.weighting import best_objective, unconditional_mixture, uniform_mixture
from facetrm.core.statistics import Floats, Interval, pair_accuracy, paired_difference
from facetrm.data.records import Preference
from facetrm.fit.blocks import PairBlocks
from facetrm.fit.bradley_terry import BradleyTerryConfig, fit_bradley_terry_blocks
from facetrm.fit.gate.fit import GateFit
from facetrm.model.mixture import Mixture

POOLED = "pooled"
UNLABELLED = "unlabelled"
"""Name of the pairs without a task in tables by task."""
MACRO = "macro"


@dataclass(frozen=True)
class Pairs:
    """Features of N pairs.

    Attributes:
        chosen: features of the chosen answers.
        rejected: features of the rejected answers, in the same order.
        groups: prompt key of each pair, [N].
        sources: source of each pair, [N].
    """

    chosen: Features
    rejected: Features
    groups: list[str]
    sources: list[str]

    def __len__(self) -> int:
        return len(self.groups)

    def select(self, rows: Tensor) -> Pairs:
        """Return the pairs with the indices ``rows`` (int64), in that order."""
        groups, sources = ([names[n] for n in rows.tolist()] for names in (self.groups, self.sources))
        return Pairs(self.chosen.select(rows), self.rejected.select(rows), groups, sources)

    def blocks(self) -> Iterator[tuple[Features, Features]]:
        """Yield the chosen and the rejected answers, as one block."""
        yield self.sides()

    def sides(self) -> tuple[Features, Features]:
        """Return the features of the chosen and of the rejected answers."""
        return self.chosen, self.rejected

    def both(self) -> Features:
        """Return the features of all answers as 2N rows: first all chosen answers, then all rejected ones."""
        return Features.concat([self.chosen, self.rejected])


def fit_baselines(
    pairs: PairBlocks,
    mixture: Mixture,
    gate: GateFit,
    *,
    groups: Sequence[str],
    config: BradleyTerryConfig,
    weights: Floats | None,
    scores: tuple[Tensor, Tensor] | None = None,
    folder: Path | None = None,
) -> tuple[dict[str, Mixture], str]:
    """Fit every baseline on the training pairs of the gate.

    Args:
        pairs: N training pairs of the gate.
        mixture: the gated model; the baselines with fixed weights use its experts and its debiasing.
        gate: result of the gate's fit, which holds the unconditional weights.
        groups: prompt key of each pair, [N].
        config: settings of the linear Bradley-Terry head.
        weights: weight of each pair, [N]; None for equal weights.
        scores: cross-fitted expert scores of the chosen and the rejected answers, [N, K] each, if the gate learned from
            them; they then also choose the best objective. None scores the answers with the experts of ``mixture``.
        folder: folder for temporary files; None for the system's temporary folder.

    Returns:
        The baselines as mixtures by name, and the name of the best single objective.

    Raises:
        FitError: no pair, a feature that is not finite, or fewer prompts than folds.
    """
    experts, matrix = mixture.linear_experts, mixture.gated_sum.debias_KK
    linear = fit_bradley_terry_blocks(pairs, groups=groups, config=config, weights=weights, folder=folder)
    name, best = best_objective(pairs, experts=experts, debias_KK=matrix, weights=weights, scores=scores)
    return {
        "linear_bt": linear.mixture,
        "unconditional": unconditional_mixture(experts, matrix, fixed=gate.unconditional),
        "uniform": uniform_mixture(experts, matrix),
        "best_objective": best,
        "longer": longer_mixture(experts.hidden_size),
    }, name


def margins(systems: Mapping[str, Mixture], pairs: Pairs) -> dict[str, Floats]:
    """Return the reward margins of each system, chosen minus rejected, [N].

    Args:
        systems: mixtures by name.
        pairs: N pairs to score.
    """
    with torch.no_grad():
        return {name: m.margins(pairs.chosen, pairs.rejected).numpy() for name, m in systems.items()}


def strata(preferences: Sequence[Preference], *, least: int = 100) -> list[str]:
    """Return the stratum of each pair, [N]: its source, or ``pooled`` if the source has fewer than ``least`` pairs."""
    sizes = Counter(p.source for p in preferences)
    return [p.source if sizes[p.source] >= least else POOLED for p in preferences]


def by_stratum(
    margins_by_system: Mapping[str, Floats], names: Sequence[str], groups: Sequence[str], *, samples: int, seed: int
) -> dict[str, dict[str, Interval]]:
    """Return the pair accuracy by stratum, such as a source or a task, and by system, 0 to 1, with intervals.

    Args:
        margins_by_system: reward margins of each system, [N], by name.
        names: stratum of each pair, [N].
        groups: prompt key of each pair, [N]; the bootstrap resamples prompts.
        samples: number of bootstrap samples.
        seed: random seed of the bootstrap.
    """
    array, prompt = np.asarray(names), np.asarray(groups)
    return {
        name: {
            system: pair_accuracy(m[array == name], prompt[array == name], samples=samples, seed=seed)
            for system, m in margins_by_system.items()
        }
        for name in sorted(set(names))
    }


def by_source(
    margins_by_system: Mapping[str, Floats], names: Sequence[str], groups: Sequence[str], *, samples: int, seed: int
) -> dict[str, dict[str, Interval]]:
    """Return the pair accuracy by stratum and system, 0 to 1, with intervals.

    Args:
        margins_by_system: reward margins of each system, [N], by name.
        names: stratum of each pair, [N].
        groups: prompt key of each pair, [N]; the bootstrap resamples prompts.
        samples: number of bootstrap samples.
        seed: random seed of the bootstrap.

    Returns:
        Accuracy by stratum, then by system; ``macro`` holds the unweighted mean over strata.
    """
    array, prompt = np.asarray(names), np.asarray(groups)
    table = by_stratum(margins_by_system, names, groups, samples=samples, seed=seed)
    table[MACRO] = {
        system: pair_accuracy(m, prompt, strata=array, samples=samples, seed=seed)
        for system, m in margins_by_system.items()
    }
    return table


def difference(
    a_N: Floats, b_N: Floats, names: Sequence[str], groups: Sequence[str], *, samples: int, seed: int
) -> dict[str, Interval]:
    """Return the accuracy of one system minus that of another on the same pairs, with bootstrap intervals.

    Args:
        a_N: reward margins of the first system, [N].
        b_N: reward margins of the second system, [N].
        names: stratum of each pair, [N].
        groups: prompt key of each pair, [N]; the bootstrap resamples prompts.
        samples: number of bootstrap samples.
        seed: random seed of the bootstrap.

    Returns:
        The difference over all pairs as ``micro``, and its unweighted mean over strata as ``macro``.
    """
    return {
        "micro": paired_difference(a_N, b_N, groups, samples=samples, seed=seed),
        MACRO: paired_difference(a_N, b_N, groups, strata=names, samples=samples, seed=seed),
    }


def typical_pair(preferences: Sequence[Preference], margin_N: Floats) -> Preference:
    """Return a typical correctly ordered pair, to be explained in a report.

    Args:
        preferences: N pairs.
        margin_N: reward margin of each pair, chosen minus rejected.

    Returns:
        The pair whose margin is nearest to the 75% quantile of the positive margins; the first pair if no margin is
        positive.
    """
    right = np.flatnonzero(margin_N > 0)
    if not len(right):
        return preferences[0]
    goal = np.quantile(margin_N[right], 0.75)
    return preferences[int(right[np.argmin(np.abs(margin_N[right] - goal))])]
