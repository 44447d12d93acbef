"""The effect of dropping an objective: how rewards, margins and accuracy change.

    reward change    mean of reward(without k) - reward                 over all answers
    margin change    mean of margin(without k) - margin                 over pairs, chosen minus rejected
    accuracy change  accuracy(without k) - accuracy                     over pairs, a tie counts one half

A contribution (:mod:`facetrm.explain.local`) is accounting: it says what an expert added to the reward. This module
measures what the reward would be without the expert. It drops the objective with the model's own edit: weight and
penalty become zero, and the other weights are renormalised. Because the others take over its weight, an objective
with a large contribution may have no effect, and one with a small contribution may have a large effect.
In a network on the experts' vectors, the vector of the dropped expert is held at the reference.

Shapes: N pairs, K experts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from facetrm.backbone.encoder import Features
from facetrm.core.errors import ModelError
from facetrm.core.statistics import Floats, Interval, bootstrap_mean, win_credit
from facetrm.explain.prompts import prompt_groups
from facetrm.model.aggregate import GatedSum
from facetrm.model.edits import WeightEdit
from facetrm.model.kinds import Aggregator
from facetrm.model.mixture import Mixture
from facetrm.model.reward_model import RewardModel


@dataclass(frozen=True)
class Ablation:
    """The effect of dropping one objective, with bootstrap intervals over prompts.

    Attributes:
        objective: name of the dropped objective.
        reward: mean change of the reward over all answers.
        margin: mean change of the margin over all pairs.
        accuracy: pair accuracy without the objective, 0 to 1.
        accuracy_change: ``accuracy`` minus the accuracy of the whole model, as a paired difference.
        turned: share of pairs whose order is reversed, 0 to 1.
    """

    objective: str
    reward: Interval
    margin: Interval
    accuracy: float
    accuracy_change: Interval
    turned: float


@dataclass(frozen=True)
class AblationTable:
    """The effect of dropping each objective.

    Attributes:
        pairs: number of pairs.
        accuracy: pair accuracy of the whole model, with its interval.
        lines: one line per objective, the most harmful drop first.
        needed: names of the objectives that cannot be dropped because no other objective would be left.
    """

    pairs: int
    accuracy: Interval
    lines: tuple[Ablation, ...]
    needed: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return asdict(self)


def ablate(
    model: RewardModel,
    chosen: Features,
    rejected: Features,
    *,
    groups: Sequence[str] = (),
    task: str | None = None,
    samples: int = 1000,
    seed: int = 0,
) -> AblationTable:
    """Measure the effect of every objective by dropping it.

    Args:
        model: the model to measure.
        chosen: features of the chosen answers of N pairs.
        rejected: features of the rejected answers, in the same order.
        groups: prompt key of each pair, [N], for the intervals; if empty, pairs with the same prompt vector count as
            one prompt.
        task: task of the mixture to measure; required if the model has several.
        samples: number of bootstrap samples.
        seed: random seed of the bootstrap.

    Returns:
        One line per objective, the one with the lowest accuracy when it is dropped first.

    Raises:
        ModelError: no pair, or different numbers of chosen answers, rejected answers and groups.

    Example:
        >>> from facetrm import World, ablate, toy_model
        >>> model, pairs = toy_model(), list(World().preferences(8))
        >>> chosen, rejected = (model.features([p.chosen for p in pairs]), model.features([p.rejected for p in pairs]))
        >>> ablate(model, chosen, rejected, samples=50).pairs
        8
    """
    size = len(chosen)
    if size == 0 or len(rejected) != size or (groups and len(groups) != size):
        raise ModelError(
            f"{size} chosen, {len(rejected)} rejected and {len(groups)} groups",
            place="ablate",
            fix="give the same number of each, at least one (groups may be empty)",
        )
    mixture, clusters = model.mixture(task), list(groups) or prompt_groups(chosen)
    before = mixture.aggregator.edit
    with torch.no_grad():
        rewards = _rewards(mixture, chosen, rejected)
        whole_N = rewards(before)
        wins_N = win_credit(whole_N[:size] - whole_N[size:])
        lines, needed = [], []
        for k, name in enumerate(mixture.names):
            if not _others(mixture.aggregator, k):
                needed.append(name)
                continue
            edit = WeightEdit(
                drop=tuple(sorted({*before.drop, k})),
                scale=before.scale,
                pin=tuple((j, weight) for j, weight in before.pin if j != k),
            )
            lines.append(_line(name, whole_N, rewards(edit), wins_N, clusters, samples, seed))
    return AblationTable(
        pairs=size,
        accuracy=bootstrap_mean(wins_N, clusters, samples=samples, seed=seed, within=(0.0, 1.0)),
        lines=tuple(sorted(lines, key=lambda line: (line.accuracy, line.objective))),
        needed=tuple(needed),
    )


def _others(aggregator: Aggregator, k: int) -> bool:
    """Whether an objective is left after ``k`` is dropped; for a gated sum, weights that still sum to 1."""
    pins = {j: weight for j, weight in aggregator.edit.pin if j != k}
    named = {k, *aggregator.edit.drop, *pins}
    if not isinstance(aggregator, GatedSum):
        return len(named) < aggregator.size
    free = any(gated and j not in named for j, gated in enumerate(aggregator.gate.gated_K.tolist()))
    return free or sum(pins.values()) >= 1 - 1e-6


def _rewards(mixture: Mixture, chosen: Features, rejected: Features) -> Callable[[WeightEdit], Floats]:
    """Return a function from an edit to all rewards. What does not depend on the edit is computed once."""
    both, total = Features.concat([chosen, rejected]), mixture.aggregator
    scores_NK = mixture.experts(both)
    logits_NK = total.gate.logits(both.prompt_ND) if isinstance(total, GatedSum) else None

    def under(edit: WeightEdit) -> Floats:
        edited = total.with_edit(edit)
        if isinstance(edited, GatedSum) and logits_NK is not None:
            reward_N = edited.combine(edited.weights_of(logits_NK), scores_NK).reward_N
        else:
            reward_N = edited.rewards(both, scores_NK)
        return np.asarray(reward_N.double().numpy(), dtype=np.float64)

    return under


def _line(
    name: str,
    whole_N: Floats,
    rewards_N: Floats,
    wins_N: Floats,
    clusters: Sequence[str],
    samples: int,
    seed: int,
) -> Ablation:
    size, change_N = len(wins_N), rewards_N - whole_N
    margin_N = rewards_N[:size] - rewards_N[size:]
    credit_N = win_credit(margin_N)

    def interval(values: Floats) -> Interval:
        return bootstrap_mean(values, list(clusters), samples=samples, seed=seed)

    return Ablation(
        objective=name,
        reward=interval((change_N[:size] + change_N[size:]) / 2.0),
        margin=interval(change_N[:size] - change_N[size:]),
        accuracy=float(credit_N.mean()),
        accuracy_change=interval(credit_N - wins_N),
        turned=float(np.mean(margin_N * (whole_N[:size] - whole_N[size:]) < 0)),
    )
