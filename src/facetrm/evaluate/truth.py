"""Comparison with the known truth of a generator: true order, true levels and true task weights.

Shapes: N pairs, K experts, L latents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from facetrm.backbone.encoder import Features
from facetrm.core.statistics import Floats, spearman
from facetrm.data.objectives import Objective
from facetrm.data.records import Conversation, Preference
from facetrm.data.synthetic.known import KnownTruth
from facetrm.evaluate.compare import Pairs
from facetrm.fit.gate.fit import GateConfig, fit_gate
from facetrm.model.aggregate import GatedSum
from facetrm.model.experts import LinearExperts
from facetrm.model.mixture import Mixture


@dataclass(frozen=True)
class Cell:
    """The true and the learned importance of one latent quality in one task.

    Attributes:
        task: name of the task.
        latent: name of the latent quality.
        true: true weight times the spread of the true level.
        learned: learned coefficients times the spreads of the scores, summed over the objectives of the latent.
    """

    task: str
    latent: str
    true: float
    learned: float


def true_signs(world: KnownTruth[Any], preferences: Sequence[Preference]) -> Floats:
    """Return whether each label agrees with the true utilities, [N]: +1 if it does, -1 if not, 0 for equal utilities.

    Args:
        world: the generator that made the pairs.
        preferences: N labelled pairs.
    """
    gaps = [world.utility(p.chosen) - world.utility(p.rejected) for p in preferences]
    return np.asarray(np.sign(gaps), dtype=np.float64)


def true_pairs(world: KnownTruth[Any], pairs: Pairs, preferences: Sequence[Preference]) -> Pairs:
    """Return the pairs with the true levels, 0 to 1, in place of the response features.

    Args:
        world: the generator that made the pairs.
        pairs: features of N pairs.
        preferences: the same N pairs as text.
    """
    return replace(
        pairs,
        chosen=_with_levels(world, pairs.chosen, [p.chosen for p in preferences]),
        rejected=_with_levels(world, pairs.rejected, [p.rejected for p in preferences]),
    )


def fit_on_true_levels(
    world: KnownTruth[Any],
    pairs: Pairs,
    *,
    config: GateConfig,
    weights: Floats | None,
    tasks: Sequence[str | None] | None = None,
) -> Mixture:
    """Fit a gate on experts that return the true levels: an upper bound for the gate of a run.

    Args:
        world: the generator of the pairs.
        pairs: pairs with true levels, from :func:`true_pairs`.
        config: settings of the run's gate.
        weights: weight of each pair, [N], as for the run's gate; None for equal weights.
        tasks: task of each pair, [N], for a gate that reads the directions that tell tasks apart.
    """
    latents = tuple(world.slots)
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
        tasks=tasks,
    )
    return Mixture(experts, GatedSum(fit.gate, matrix, reference_K=fit.reference_K), beta=fit.beta)


def recover_weights(
    world: KnownTruth[Any], mixture: Mixture, pairs: Pairs, tasks: Sequence[str]
) -> tuple[float, list[Cell]]:
    """Compare learned coefficients with the true task weights.

        learned[task, latent] = sum over the latent's objectives k of  mean_task coefficient_k * spread(score_k)
        true[task, latent]    = weight[task, latent] * spread(level / slots)

    Spreads are standard deviations over all answers. The objectives of one latent are summed. Verbosity is left out.

    Args:
        world: the generator, which holds the true weights.
        mixture: the mixture to evaluate.
        pairs: N pairs for the mixture to score.
        tasks: task of each pair, [N].

    Returns:
        The Spearman correlation over all cells, and one cell per task and latent.
    """
    both = pairs.both()
    with torch.no_grad():
        output = mixture(both)
    names = np.array([*tasks, *tasks])
    spread_K = output.scores_NK.double().numpy().std(axis=0)
    coefficients_NK = output.coefficients_NK.double().numpy()
    cells = []
    for task in world.tasks:
        mean_K = coefficients_NK[names == task].mean(axis=0) if (names == task).any() else np.zeros(len(spread_K))
        for latent, slots in world.slots.items():
            of_latent = [k for k, name in enumerate(mixture.names) if world.latent_of.get(name) == latent]
            true_spread = float(np.std(np.arange(slots + 1) / slots))
            learned = float((mean_K * spread_K)[of_latent].sum())
            cells.append(Cell(task, latent, world.weights[task][latent] * true_spread, learned))
    return spearman([c.true for c in cells], [c.learned for c in cells]), cells


def _with_levels(world: KnownTruth[Any], features: Features, conversations: Sequence[Conversation]) -> Features:
    shares = [
        [level / world.slots[name] for name, level in world.levels(c).items() if name in world.slots]
        for c in conversations
    ]
    levels_NL = torch.tensor(shares, dtype=torch.float32)
    return replace(features, response_NAD=levels_NL.unsqueeze(1), layers=())
