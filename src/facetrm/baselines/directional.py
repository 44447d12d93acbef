"""The reward in a direction of preference: fixed weights on the objectives of a reward model, without a gate.

    R(x, v, y) = v . r(x, y) = sum_k v_k r_k(x, y)
    r_k = the rating of objective k, on one of three scales:
        unit       on [0, 1], higher is better
        source     as the source of the objective rates it, such as 0 to 4; for some objectives lower is better
        standard   (unit rating - mean_k) / deviation_k over reference conversations

A direction is a unit vector v. With two objectives it is an angle: v = (cos a, sin a). Weights may be negative. Fixed
weights that are no direction, such as those of SteerLM reward models, stay as they are.

Reference: Wang et al., Arithmetic Control of LLMs for Diverse User Preferences: Directional Preference Alignment
(arXiv 2402.18571), section 3, which uses helpfulness and verbosity, with angles of at most 45 degrees. We differ in
offering a standardised scale, because objectives that vary more would otherwise count more. Wang et al., HelpSteer2
(arXiv 2406.08673), for fixed weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final, Literal, final, get_args

import numpy as np

from facetrm.baselines.named import scorer_hash
from facetrm.core.errors import ConfigError, FitError, did_you_mean, short
from facetrm.core.fingerprint import fingerprint
from facetrm.data.records import Conversation
from facetrm.model.output import Score
from facetrm.model.reward_model import RewardModel

DirectionScale = Literal["unit", "source", "standard"]

STEERLM_WEIGHTS: Final[Mapping[str, float]] = {
    "helpfulness": 0.65,
    "correctness": 0.8,
    "coherence": 0.45,
    "complexity": 0.55,
    "verbosity": -0.4,
}
"""Weights of the model card of Llama3-70B-SteerLM-RM, for HelpSteer2 ratings from 0 to 4 (``scale="source"``)."""

_UNIT_LENGTH: Final = 1e-6


def direction_of_angle(degrees: float, first: str, second: str) -> dict[str, float]:
    """Return the unit vector of an angle between two objectives: (cos, sin).

    Args:
        degrees: The angle. 0 asks for the first objective alone, 90 for the second, -15 for the first and a little less
            of the second.
        first: Name of the first objective.
        second: Name of the second objective.

    Raises:
        ConfigError: The angle is not finite, or the objectives are the same.

    Example:
        >>> direction_of_angle(-30.0, "helpfulness", "verbosity")["helpfulness"].__round__(3)
        0.866
    """
    if not math.isfinite(degrees) or first == second:
        problem = f"an angle of {degrees} between '{first}' and '{second}'"
        raise ConfigError(problem, place="direction", fix="give a finite angle in degrees and two objectives")
    angle = math.radians(degrees)
    return {first: math.cos(angle), second: math.sin(angle)}


def unit_direction(weights: Mapping[str, float]) -> tuple[dict[str, float], str | None]:
    """Return weights scaled to a vector of length 1, and a note if they had another length.

    Args:
        weights: Weight of each objective, by name. They may be negative.

    Raises:
        ConfigError: There are no weights, all are 0, or one of them is not finite.
    """
    _check_weights(weights)
    length = math.hypot(*weights.values())
    if abs(length - 1.0) <= _UNIT_LENGTH:
        return {name: float(value) for name, value in weights.items()}, None
    note = f"the direction had length {length:.6g} and was scaled to 1"
    return {name: float(value) / length for name, value in weights.items()}, note


@final
class DirectionalScorer:
    """The weighted sum of the ratings of a reward model. Make it with :func:`fit_direction`.

    The contribution of an objective is its weight times its rating, and they sum to the reward. A score has no weights,
    because there is no gate; its coefficients are the reward per unit rating, and are left out on the scale ``source``.

    Args:
        model: Reward model. Each of its tasks must have all objectives that have a weight.
        weights: Weight of each objective, by name, used as they are.
        scale: Scale of the ratings.
        means: Mean unit rating of each objective, by name, for ``standard``.
        deviations: Standard deviation of each unit rating, by name, for ``standard``.
        note: A remark for the user about the weights, or None.

    Raises:
        ConfigError: There are no weights, all are 0, one is not finite, or an objective or the scale is unknown.
        FitError: The scale is ``standard``, and a mean or deviation is missing, not finite or not positive.
    """

    def __init__(
        self,
        model: RewardModel,
        weights: Mapping[str, float],
        *,
        scale: DirectionScale = "unit",
        means: Mapping[str, float] | None = None,
        deviations: Mapping[str, float] | None = None,
        note: str | None = None,
    ) -> None:
        _check_weights(weights)
        _check_objectives(model, weights)
        if scale not in get_args(DirectionScale):
            fix = f"use {', '.join(get_args(DirectionScale))}"
            raise ConfigError(f"unknown scale {short(scale)}", place="direction", fix=fix)
        self.model, self.scale, self.note = model, scale, note
        self.weights = {name: float(value) for name, value in weights.items()}
        self.means, self.deviations = dict.fromkeys(weights, 0.0), dict.fromkeys(weights, 1.0)
        if scale == "standard":
            self.means = {name: float((means or {}).get(name, math.nan)) for name in weights}
            self.deviations = {name: float((deviations or {}).get(name, math.nan)) for name in weights}
            for name in weights:
                if not math.isfinite(self.means[name]) or not 0.0 < self.deviations[name] < math.inf:
                    problem = f"'{name}' has mean {self.means[name]} and deviation {self.deviations[name]}"
                    raise FitError(problem, place="direction", fix="fit it on answers that differ in this objective")
        self.name = "direction " + " ".join(f"{value:+.3g} {name}" for name, value in self.weights.items())
        moments = [self.means, self.deviations] if scale == "standard" else []
        self.hash = fingerprint(["direction", scorer_hash(model), self.weights, scale, moments])

    def score(self, conversations: Sequence[Conversation]) -> list[Score]:
        """Return one score per conversation, in order.

        Args:
            conversations: Conversations, each ending with an answer.
        """
        return [self._weighted(score) for score in self.model.score(conversations)]

    def _weighted(self, score: Score) -> Score:
        contributions = {name: weight * self._rating(score, name) for name, weight in self.weights.items()}
        coefficients = {
            name: self.weights.get(name, 0.0) / (self.deviations[name] if name in self.weights else 1.0)
            for name in score.scores
        }
        return replace(
            score,
            reward=math.fsum(contributions.values()),
            base=0.0,
            contributions=contributions,
            weights={},
            coefficients={} if self.scale == "source" else coefficients,
            model=self.hash,
        )

    def _rating(self, score: Score, name: str) -> float:
        if self.scale == "source":
            return score.ratings[name]
        return (score.scores[name] - self.means[name]) / self.deviations[name]


def fit_direction(
    model: RewardModel,
    weights: Mapping[str, float],
    *,
    conversations: Sequence[Conversation] | None = None,
    scale: DirectionScale | None = None,
    normalise: bool = True,
) -> DirectionalScorer:
    """Return the reward of a model in a direction of preference.

    Args:
        model: Reward model.
        weights: Weight of each objective, by name. They may be negative. An angle between two objectives is given with
            :func:`direction_of_angle`.
        conversations: Reference conversations, over which each objective gets mean 0 and deviation 1 (``ddof=0``); None
            without that. No labels are needed.
        scale: Scale of the ratings; None is ``standard`` with reference conversations and ``unit`` without.
        normalise: Whether to scale the weights to a vector of length 1; ``note`` says if that changed them. False keeps
            fixed weights, such as :data:`STEERLM_WEIGHTS`, as they are.

    Raises:
        ConfigError: The weights are empty, all 0 or not finite, an objective is unknown, or the scale is ``standard``
            and there are no reference conversations.
        FitError: An objective has the same rating in all reference conversations.
    """
    _check_weights(weights)
    _check_objectives(model, weights)
    direction, note = unit_direction(weights) if normalise else (dict(weights), None)
    used = scale or ("unit" if conversations is None else "standard")
    if used != "standard":
        return DirectionalScorer(model, direction, scale=used, note=note)
    if not conversations:
        problem = "the scale is 'standard', but there are no reference conversations"
        raise ConfigError(problem, place="direction", fix="give conversations, or scale='unit'")
    scores = model.score(conversations)
    ratings = {name: np.array([score.scores[name] for score in scores]) for name in direction}
    return DirectionalScorer(
        model,
        direction,
        scale=used,
        means={name: float(values.mean()) for name, values in ratings.items()},
        deviations={name: float(values.std()) for name, values in ratings.items()},
        note=note,
    )


def _check_weights(weights: Mapping[str, float]) -> None:
    """Raise ConfigError if the weights are empty, all 0, or not finite."""
    wrong = next((name for name, value in weights.items() if not math.isfinite(value)), None)
    if wrong is not None:
        problem = f"the weight of '{wrong}' is {weights[wrong]}"
        raise ConfigError(problem, place="direction", fix="give a finite number")
    if not any(weights.values()):
        problem = "no objective has a weight other than 0"
        raise ConfigError(problem, place="direction", fix="give at least one, such as helpfulness: 1")


def _check_objectives(model: RewardModel, weights: Mapping[str, float]) -> None:
    """Raise ConfigError if a task of the model lacks an objective that has a weight."""
    for task, mixture in model.mixtures.items():
        known = [objective.name for objective in mixture.objectives]
        missing = next((name for name in weights if name not in known), None)
        if missing is not None:
            where = "in this model" if len(model.mixtures) == 1 else f"in task '{task}' of this model"
            raise ConfigError(
                f"objective '{missing}' is not {where}", place="direction", fix=did_you_mean(missing, known)
            )
