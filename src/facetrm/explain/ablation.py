"""Effect, not accounting: what changes when the model no longer listens to one objective.

    reward change    mean of reward(without k) - reward                 over all answers
    margin change    mean of margin(without k) - margin                 over pairs, chosen minus rejected
    accuracy change  accuracy(without k) - accuracy                     over pairs, a tie counts one half

A contribution (:mod:`facetrm.explain.local`) says what was added up. This module says what the sum would have been:
the objective is dropped through the model's own edit (weight and penalty to zero, the rest renormalised), so the other
objectives take over its weight, and a large contribution may have no effect at all, or a small one a large effect.
Under a network on the experts' vectors the dropped expert's vector is held at the reference.

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
    """What dropping one objective does, with bootstrap intervals over prompts.

    Attributes:
        objective: the one that is dropped.
        reward: mean change of the reward of all answers.
        margin: mean change of the margin of the pairs.
        accuracy: pair accuracy without it; ``accuracy_change``: against the whole model, paired.
        turned: share of pairs whose order turns round.
    """

    objective: str
    reward: Interval
    margin: Interval
    accuracy: float
    accuracy_change: Interval
    turned: float


@dataclass(frozen=True)
class AblationTable:
    """The whole model's accuracy, and one line per objective, the most harmful drop first.

    ``needed`` names objectives that cannot be dropped because no other is left to listen to.
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
    """Measure the effect of every objective by dropping it: this is effect, not accounting.

    Args:
        model: the model to ask.
        chosen: features of N better answers.
        rejected: features of the N worse ones, in the same order.
        groups: the prompt of each pair, for intervals over prompts; empty takes pairs with the same prompt vector for
            pairs of one prompt.
        task: the mixture; needed when there are several.
        samples: bootstrap resamples.
        seed: random seed of the bootstrap.

    Returns:
        One line per objective, lowest accuracy without it first.

    Raises:
        ModelError: no pair, or sides of different length.

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
            fix="give as many of each (groups may be empty), at least one",
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
    """Whether something is left to listen to without objective ``k``: for a gated sum, weights that still sum to 1."""
    pins = {j: weight for j, weight in aggregator.edit.pin if j != k}
    named = {k, *aggregator.edit.drop, *pins}
    if not isinstance(aggregator, GatedSum):
        return len(named) < aggregator.size
    free = any(gated and j not in named for j, gated in enumerate(aggregator.gate.gated_K.tolist()))
    return free or sum(pins.values()) >= 1 - 1e-6


def _rewards(mixture: Mixture, chosen: Features, rejected: Features) -> Callable[[WeightEdit], Floats]:
    """Return what gives all rewards under an edit; what no edit changes is computed once."""
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
