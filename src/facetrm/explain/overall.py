"""Explain a whole model: the weight and contribution of each objective, by task and source, and the role of length.

    mean weight        mean over prompts of the gate's weight
    mean contribution  mean over answers of |contribution|
    decided by one     share of pairs in which one expert's |difference| is more than half of all |differences|

All figures are accounting, as in :mod:`facetrm.explain.local`. Effects are in :mod:`facetrm.explain.ablation`.

Shapes: N answers (in pairs: chosen first, then rejected), K experts, P pairs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np
import torch

from facetrm.backbone.encoder import Features
from facetrm.core.errors import ModelError
from facetrm.core.statistics import Floats, Interval, bootstrap_mean, bootstrap_spearman
from facetrm.explain.prompts import prompt_groups
from facetrm.model.output import RewardOutput
from facetrm.model.reward_model import RewardModel

MIN_ANSWERS: Final = 10
"""Smallest number of answers for which correlations are given."""
FEW_PROMPTS: Final = 20
"""Number of prompts below which correlations are marked, because bootstrap intervals are then too narrow."""


@dataclass(frozen=True)
class GroupView:
    """Mean weights and contributions on a set of answers, such as those of one task or one source.

    Attributes:
        answers: number of answers.
        weights: mean gate weight by objective; empty if the reward is not a weighted sum of ratings.
        contributions: mean absolute contribution by objective.
    """

    answers: int
    weights: dict[str, float]
    contributions: dict[str, float]


@dataclass(frozen=True)
class Decided:
    """How often one expert decides a pair: its |difference| is more than half of all |differences|.

    Attributes:
        pairs: number of pairs.
        share: share of pairs that one expert decides, 0 to 1, with its interval.
        by: share of all pairs that each expert decides, by name.
    """

    pairs: int
    share: Interval
    by: dict[str, float]


@dataclass(frozen=True)
class OverallExplanation:
    """What a model's rewards depend on, over a set of answers.

    Attributes:
        everyone: figures over all answers.
        by_task: figures for each task; empty if no tasks were given.
        by_source: figures for each source; empty if no sources were given.
        length: Spearman correlation of each contribution with the response length in tokens, by objective. None if
            either is constant or there are fewer than 10 answers (two answers always give +1 or -1).
        reward_length: Spearman correlation of the reward with the response length; None as for ``length``.
        decided: how often one expert decides a pair; None if no pairs were given.
        length_interval: bootstrap interval over prompts of each correlation in ``length`` that is not None.
        reward_length_interval: bootstrap interval over prompts of ``reward_length``; None if there is none.
        prompts: number of different prompts.
    """

    everyone: GroupView
    by_task: dict[str, GroupView]
    by_source: dict[str, GroupView]
    length: dict[str, float | None]
    reward_length: float | None
    decided: Decided | None
    length_interval: dict[str, Interval] = field(default_factory=dict)
    reward_length_interval: Interval | None = None
    prompts: int = 0

    @property
    def deciders(self) -> tuple[str, ...]:
        """The objectives by what they decide: share of pairs decided alone, then mean absolute contribution."""
        alone = {} if self.decided is None else self.decided.by
        size = self.everyone.contributions
        return tuple(sorted(size, key=lambda name: (-alone.get(name, 0.0), -size[name], name)))

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return asdict(self)


def explain_overall(
    model: RewardModel,
    chosen: Features,
    rejected: Features | None = None,
    *,
    tasks: Sequence[str] = (),
    sources: Sequence[str] = (),
    groups: Sequence[str] = (),
    task: str | None = None,
    seed: int = 0,
) -> OverallExplanation:
    """Explain what a model's rewards depend on, over a set of answers or pairs.

    Args:
        model: the model to explain.
        chosen: features of N answers, or of the chosen answers of P pairs.
        rejected: features of the rejected answers, in the same order; None for single answers.
        tasks: task of each row of ``chosen``; empty for no figures by task.
        sources: source of each row of ``chosen``; empty for no figures by source.
        groups: prompt key of each row of ``chosen``, for the intervals; if empty, rows with the same prompt vector
            count as one prompt.
        task: task of the mixture to explain; required if the model has several.
        seed: random seed of the bootstrap.

    Returns:
        Mean weights and contributions, correlations with length and, for pairs, how often one expert decides.

    Raises:
        ModelError: no row, or lists with different numbers of rows.

    Example:
        >>> from facetrm import World, explain_overall, toy_model
        >>> model, pairs = toy_model(), list(World().preferences(8))
        >>> overall = explain_overall(model, model.features([pair.chosen for pair in pairs]))
        >>> round(sum(overall.everyone.weights.values()), 3)
        1.0
    """
    names = model.mixture(task).names
    better = model.output(chosen, task=task)
    outputs, lengths = [better], [chosen.length_N]
    if rejected is not None:
        _check_rows("rejected answers", len(rejected), len(chosen))
        outputs.append(model.output(rejected, task=task))
        lengths.append(rejected.length_N)
    prompts = groups or prompt_groups(chosen)
    return _explain(names, outputs, torch.cat(lengths).double().numpy(), tasks, sources, prompts, seed)


def _explain(
    names: Sequence[str],
    outputs: Sequence[RewardOutput],
    lengths_N: Floats,
    tasks: Sequence[str],
    sources: Sequence[str],
    groups: Sequence[str],
    seed: int,
) -> OverallExplanation:
    rows = len(outputs[0].reward_N)
    if rows == 0:
        raise ModelError("no answer to explain", place="explain_overall", fix="give at least one answer")
    for what, labels in (("tasks", tasks), ("sources", sources), ("groups", groups)):
        if labels:
            _check_rows(what, len(labels), rows)
    own_NK = outputs[0].weights_NK
    weights_NK = None if own_NK is None else np.tile(_numpy(own_NK), (len(outputs), 1))
    contributions_NK = np.concatenate([_numpy(output.contributions_NK) for output in outputs])
    rewards_N = np.concatenate([_numpy(output.reward_N) for output in outputs])

    def view(labels: Sequence[str]) -> dict[str, GroupView]:
        repeated = np.array(list(labels) * len(outputs))
        return {
            str(label): _view(
                names,
                None if weights_NK is None else weights_NK[repeated == label],
                contributions_NK[repeated == label],
            )
            for label in sorted(set(labels))
        }

    prompts = list(groups) * len(outputs)
    ranks = {name: _rank(contributions_NK[:, k], lengths_N, prompts, seed) for k, name in enumerate(names)}
    of_reward = _rank(rewards_N, lengths_N, prompts, seed)
    return OverallExplanation(
        everyone=_view(names, weights_NK, contributions_NK),
        by_task=view(tasks),
        by_source=view(sources),
        length={name: None if rank is None else rank.value for name, rank in ranks.items()},
        reward_length=None if of_reward is None else of_reward.value,
        decided=None if len(outputs) < 2 else _decided(names, outputs, groups, seed),
        length_interval={name: rank for name, rank in ranks.items() if rank is not None and math.isfinite(rank.low)},
        reward_length_interval=None if of_reward is None or not math.isfinite(of_reward.low) else of_reward,
        prompts=len(set(groups)),
    )


def _view(names: Sequence[str], weights_NK: Floats | None, contributions_NK: Floats) -> GroupView:
    weights = {} if weights_NK is None else dict(zip(names, weights_NK.mean(axis=0).tolist(), strict=True))
    return GroupView(
        answers=len(contributions_NK),
        weights=weights,
        contributions=dict(zip(names, np.abs(contributions_NK).mean(axis=0).tolist(), strict=True)),
    )


def _decided(names: Sequence[str], outputs: Sequence[RewardOutput], groups: Sequence[str], seed: int) -> Decided:
    difference_PK = np.abs(_numpy(outputs[0].contributions_NK) - _numpy(outputs[1].contributions_NK))
    alone_P = difference_PK.max(axis=1) > 0.5 * difference_PK.sum(axis=1)
    largest_P = difference_PK.argmax(axis=1)
    return Decided(
        pairs=len(alone_P),
        share=bootstrap_mean(alone_P.astype(np.float64), list(groups), seed=seed, within=(0.0, 1.0)),
        by={name: float(np.mean(alone_P & (largest_P == k))) for k, name in enumerate(names)},
    )


def _rank(x_N: Floats, y_N: Floats, prompts: Sequence[str], seed: int) -> Interval | None:
    if len(x_N) < MIN_ANSWERS:
        return None
    found = bootstrap_spearman(x_N, y_N, prompts, seed=seed)
    return found if math.isfinite(found.value) else None


def _numpy(tensor: torch.Tensor) -> Floats:
    return np.asarray(tensor.detach().double().cpu().numpy(), dtype=np.float64)


def _check_rows(what: str, got: int, want: int) -> None:
    if got != want:
        raise ModelError(f"{got} {what} for {want} answers", place="explain_overall", fix="give one per answer")
