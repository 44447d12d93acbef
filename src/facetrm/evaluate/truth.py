"""What only the world can tell: accuracy against the true order, a gate on true levels, and recovered weights.

Shapes: N pairs, K experts, L latents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from facetrm.backbone.encoder import Features
from facetrm.core.statistics import Floats, spearman
from facetrm.data.objectives import Objective
from facetrm.data.records import Conversation, Preference
from facetrm.data.world import TASKS, World
from facetrm.data.world.truth import SLOTS
from facetrm.evaluate.compare import Pairs
from facetrm.fit.gate.fit import GateConfig, fit_gate
from facetrm.model.aggregate import GatedSum
from facetrm.model.experts import LinearExperts
from facetrm.model.mixture import Mixture


@dataclass(frozen=True)
class Cell:
    """A task and a latent: true weight x true spread, learned coefficient x learned spread."""

    task: str
    latent: str
    true: float
    learned: float


def true_signs(world: World, preferences: Sequence[Preference]) -> Floats:
    """Return for N preferences +1 where the label follows the true order of utilities and -1 where it does not, [N]."""
    gaps = [world.utility(p.chosen) - world.utility(p.rejected) for p in preferences]
    return np.asarray(np.sign(gaps), dtype=np.float64)


def true_pairs(world: World, pairs: Pairs, preferences: Sequence[Preference]) -> Pairs:
    """Return the pairs (of the same preferences) with true levels, in [0, 1], instead of the response features."""
    return replace(
        pairs,
        chosen=_with_levels(world, pairs.chosen, [p.chosen for p in preferences]),
        rejected=_with_levels(world, pairs.rejected, [p.rejected for p in preferences]),
    )


def fit_on_true_levels(pairs: Pairs, *, config: GateConfig, weights: Floats | None) -> Mixture:
    """Fit the gate as in the run, but on experts that know the true levels: the best that a gate can do.

    Args:
        pairs: from :func:`true_pairs`.
        config: those of the run's own gate.
        weights: of the pairs, as in the run's own gate.
    """
    latents = tuple(SLOTS)
    objectives = [Objective(name=name, low=0.0, high=1.0, kind="continuous") for name in latents]
    experts = LinearExperts(objectives, torch.eye(len(latents)), torch.zeros(len(latents)))
    matrix = torch.eye(len(latents))
    fit = fit_gate(
        pairs.chosen,
        pairs.rejected,
        experts=experts,
        debias_KK=matrix,
        groups=pairs.groups,
        config=config,
        weights=weights,
    )
    return Mixture(experts, GatedSum(fit.gate, matrix, reference_K=fit.reference_K), beta=fit.beta)


def recover_weights(world: World, mixture: Mixture, pairs: Pairs, tasks: Sequence[str]) -> tuple[float, list[Cell]]:
    """Compare learned coefficients with the true task weights.

        learned[task, latent] = sum over the latent's objectives k of  mean_task coefficient_k * spread(score_k)
        true[task, latent]    = weight[task, latent] * spread(level / slots)

    Spreads are standard deviations over all answers. Objectives of one latent are pooled, verbosity is left out.

    Args:
        world: knows the true weights.
        mixture: mixture to evaluate.
        pairs: pairs that it scores.
        tasks: task of each pair.

    Returns:
        Spearman's correlation over task x latent cells, and the cells.
    """
    both = pairs.both()
    with torch.no_grad():
        output = mixture(both)
    names = np.array([*tasks, *tasks])
    spread_K = output.scores_NK.double().numpy().std(axis=0)
    coefficients_NK = output.coefficients_NK.double().numpy()
    cells = []
    for task in TASKS:
        mean_K = coefficients_NK[names == task].mean(axis=0) if (names == task).any() else np.zeros(len(spread_K))
        for latent, slots in SLOTS.items():
            of_latent = [k for k, name in enumerate(mixture.names) if world.latent_of.get(name) == latent]
            true_spread = float(np.std(np.arange(slots + 1) / slots))
            learned = float((mean_K * spread_K)[of_latent].sum())
            cells.append(Cell(task, latent, world.weights[task][latent] * true_spread, learned))
    return spearman([c.true for c in cells], [c.learned for c in cells]), cells


def _with_levels(world: World, features: Features, conversations: Sequence[Conversation]) -> Features:
    shares = [[level / SLOTS[name] for name, level in world.levels(c).items() if name in SLOTS] for c in conversations]
    levels_NL = torch.tensor(shares, dtype=torch.float32)
    return replace(features, response_NAD=levels_NL.unsqueeze(1))
