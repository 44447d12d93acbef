"""What the gate is compared with in every run, fitted on the same features, and its accuracy on held-out pairs.

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
MACRO = "macro"


@dataclass(frozen=True)
class Pairs:
    """Features of N pairs, row by row, with the prompt key and source of each."""

    chosen: Features
    rejected: Features
    groups: list[str]
    sources: list[str]

    def __len__(self) -> int:
        return len(self.groups)

    def select(self, rows: Tensor) -> Pairs:
        """Return the pairs named by ``rows`` (int64), in that order."""
        groups, sources = ([names[n] for n in rows.tolist()] for names in (self.groups, self.sources))
        return Pairs(self.chosen.select(rows), self.rejected.select(rows), groups, sources)

    def blocks(self) -> Iterator[tuple[Features, Features]]:
        """Yield the better and the worse answers, as one block."""
        yield self.chosen, self.rejected

    def both(self) -> Features:
        """Return both answers of every pair, chosen first, as 2N rows."""
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
    """Fit every baseline on the gate's own training pairs.

    Args:
        pairs: training pairs.
        mixture: the gated model, whose experts and debiasing the weightings share.
        gate: its fit, which holds the unconditional weights.
        groups: prompt key of each pair.
        config: settings of the linear head.
        weights: weights of each pair.
        scores: the cross-fitted ones that the gate learned from, if any; the best objective is chosen by them as well.
        folder: for temporary files; None for the system's.

    Returns:
        Mixtures by name, and the name of the best single objective.
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
    """Return each system's reward margins, chosen minus rejected, [N]."""
    with torch.no_grad():
        return {name: m.margins(pairs.chosen, pairs.rejected).numpy() for name, m in systems.items()}


def strata(preferences: Sequence[Preference], *, least: int = 100) -> list[str]:
    """Return the stratum of each of the preferences: its source, or ``pooled`` where that has fewer than ``least``."""
    sizes = Counter(p.source for p in preferences)
    return [p.source if sizes[p.source] >= least else POOLED for p in preferences]


def by_source(
    margins_by_system: Mapping[str, Floats], names: Sequence[str], groups: Sequence[str], *, samples: int, seed: int
) -> dict[str, dict[str, Interval]]:
    """Return accuracy by stratum and system, and under ``macro`` the unweighted mean over strata.

    Args:
        margins_by_system: N margins each.
        names: the stratum of each pair.
        groups: prompt of each pair, the cluster.
        samples: number of resamples of the bootstrap.
        seed: random seed of the bootstrap.
    """
    array, prompt = np.asarray(names), np.asarray(groups)
    table: dict[str, dict[str, Interval]] = {}
    for name in sorted(set(names)):
        rows = array == name
        table[name] = {
            system: pair_accuracy(m[rows], prompt[rows], samples=samples, seed=seed)
            for system, m in margins_by_system.items()
        }
    table[MACRO] = {
        system: pair_accuracy(m, prompt, strata=array, samples=samples, seed=seed)
        for system, m in margins_by_system.items()
    }
    return table


def difference(
    a_N: Floats, b_N: Floats, names: Sequence[str], groups: Sequence[str], *, samples: int, seed: int
) -> dict[str, Interval]:
    """Return the paired difference of accuracy of two systems, ``micro`` and ``macro``, bootstrap over prompts.

    Args:
        a_N: margins of the first system.
        b_N: margins of the second system.
        names: the stratum of each pair.
        groups: prompt of each pair.
        samples: number of resamples of the bootstrap.
        seed: random seed of the bootstrap.
    """
    return {
        "micro": paired_difference(a_N, b_N, groups, samples=samples, seed=seed),
        MACRO: paired_difference(a_N, b_N, groups, strata=names, samples=samples, seed=seed),
    }


def typical_pair(preferences: Sequence[Preference], margin_N: Floats) -> Preference:
    """Return one of the preferences to explain.

    It is one whose margin is above 0, the one nearest to the 75% quantile of such margins; the first where none is.
    """
    right = np.flatnonzero(margin_N > 0)
    if not len(right):
        return preferences[0]
    goal = np.quantile(margin_N[right], 0.75)
    return preferences[int(right[np.argmin(np.abs(margin_N[right] - goal))])]
