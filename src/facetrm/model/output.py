"""The output of a reward model: one :class:`RewardOutput` of tensors per mixture, one readable :class:`Score` per row.

Shapes: N conversations, K experts of one mixture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from torch import Tensor

from facetrm.core.errors import ModelError
from facetrm.core.html import html_table
from facetrm.core.shown import show_fixed, show_number
from facetrm.data.objectives import Objective
from facetrm.data.records import Conversation


@dataclass(frozen=True)
class RewardOutput:
    """The tensors of one mixture for N conversations, float32: ``reward_N = base_N + contributions_NK.sum(-1)``.

    Attributes:
        reward_N: the rewards.
        base_N: the rewards of a reference answer to each prompt.
        contributions_NK: each expert's contribution to the reward.
        scores_NK: the experts' ratings on the [0, 1] scale, not clipped.
        weights_NK: the gate's weights; None if the reward is not a weighted sum of ratings.
        coefficients_NK: the reward per unit of each score; None if the reward is not a weighted sum of ratings.

    Example:
        >>> from facetrm import World, toy_model
        >>> model, pair = toy_model(), next(World().preferences(1))
        >>> output = model.mixtures["all"](model.features([pair.chosen, pair.rejected]))
        >>> total_N = output.base_N + output.contributions_NK.sum(dim=-1)
        >>> bool((output.reward_N - total_N).abs().max() < 1e-4)
        True
    """

    reward_N: Tensor
    base_N: Tensor
    contributions_NK: Tensor
    scores_NK: Tensor
    weights_NK: Tensor | None
    coefficients_NK: Tensor | None


@dataclass(frozen=True)
class Uncertainty:
    """How uncertain one score is: standard deviations, as far as the model stores what they need.

    Attributes:
        reward: of the reward, if raters rated the answer instead of the heads, and over the gates; None if the model
            stores neither the posterior of its heads nor several gates.
        ratings: of a new rating on the [0, 1] scale, by objective: about 90% of new ratings lie within 1.645 of them.
            Empty without the posterior of the heads.
        gate: of the reward over gates that were fitted with different seeds; None with a single gate.
        lower_tails: mean of the lowest tenth of each objective's ratings on the [0, 1] scale; empty without quantile
            heads.
    """

    reward: float | None
    ratings: dict[str, float] = field(default_factory=dict)
    gate: float | None = None
    lower_tails: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dict without what the model does not store."""
        return {name: value for name, value in asdict(self).items() if value is not None and value != {}}


@dataclass(frozen=True)
class Score:
    """The score of one conversation.

    Attributes:
        reward: the reward, ``base + sum(contributions.values())`` to float32 precision.
        base: the reward of a reference answer to this prompt.
        contributions: each expert's contribution to the reward.
        scores: each expert's rating on the [0, 1] scale, not clipped; higher is better.
        ratings: the same ratings on the scale of the source.
        weights: the gate's weight of each expert; empty if the reward is not a weighted sum of ratings.
        coefficients: the reward per unit of each score; empty if the reward is not a weighted sum of ratings.
        task: the task whose mixture scored the conversation: the router's choice or the fallback.
        routed: the task that the router chose.
        confidence: the router's probability of that task; 1 without a router.
        tokens: the number of tokens of the conversation.
        length: the number of tokens of the response.
        truncated: whether the conversation was truncated.
        model: the hash of the model.
        template: the hash of the chat template.
        mode: ``exact`` if the reward cannot depend on other conversations; ``fast`` if its last digits can.
        unknown: the share of the conversation's tokens that are the tokenizer's unknown token, 0 to 1.
        settings: the truncation settings that were changed after loading; empty if none were.
        uncertainty: how uncertain the score is; None if the model stores nothing about it.

    Example:
        >>> from facetrm import World, toy_model
        >>> score = toy_model().score([next(World().preferences(1)).chosen])[0]
        >>> abs(score.reward - score.base - sum(score.contributions.values())) < 1e-4
        True
    """

    reward: float
    base: float
    contributions: dict[str, float]
    scores: dict[str, float]
    ratings: dict[str, float]
    weights: dict[str, float]
    coefficients: dict[str, float]
    task: str
    routed: str
    confidence: float
    tokens: int
    length: int
    truncated: bool
    model: str
    template: str
    mode: str
    unknown: float = 0.0
    settings: dict[str, str | int] = field(default_factory=dict)
    uncertainty: Uncertainty | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dict; ``settings`` is left out if empty, ``uncertainty`` if there is none."""
        known = asdict(self)
        if not self.settings:
            del known["settings"]
        if self.uncertainty is None:
            del known["uncertainty"]
        else:
            known["uncertainty"] = self.uncertainty.to_dict()
        return known

    def lower_bound(self, deviations: float) -> float:
        """Return the reward minus a number of its standard deviations.

        Args:
            deviations: the number, 0 or more.

        Raises:
            ModelError: the number is negative or not finite, or the model stores nothing to tell the deviation.
        """
        if not (math.isfinite(deviations) and deviations >= 0):
            raise ModelError(f"{deviations:g} standard deviations", place="lower bound", fix="give a number from 0")
        if self.uncertainty is None or self.uncertainty.reward is None:
            raise no_uncertainty(place="lower bound")
        return self.reward - deviations * self.uncertainty.reward

    def _repr_html_(self) -> str:
        """Return an HTML table for notebooks: the contributions, largest first, with all text escaped."""
        names = sorted(self.contributions, key=lambda name: -abs(self.contributions[name]))
        weights = ["-" if name not in self.weights else f"{self.weights[name]:.1%}" for name in names]
        rows = [
            [name, show_fixed(self.contributions[name], signed=True), weight, show_number(self.ratings[name])]
            for name, weight in zip(names, weights, strict=True)
        ]
        cut = ["The conversation was truncated."] if self.truncated else []
        caption = f"reward {show_fixed(self.reward)} = base {show_fixed(self.base)} + contributions; task {self.task}"
        return html_table(caption, ["objective", "contribution", "weight", "rating"], rows, notes=cut)


def no_uncertainty(*, place: str) -> ModelError:
    """Return the error for a model that cannot tell the deviation of its rewards.

    Args:
        place: what asked for it.
    """
    return ModelError(
        "the model stores no uncertainty of its rewards",
        place=place,
        fix="fit it with 'experts.uncertainty: true' (or 'gate.seeds' above 1) in an armorm recipe",
    )


def rows_of(
    output: RewardOutput, objectives: Sequence[Objective]
) -> list[tuple[float, float, dict[str, dict[str, float]]]]:
    """Return the reward, the base and the per-expert fields of a :class:`Score` for each row.

    Args:
        output: the output of one mixture for N conversations.
        objectives: the mixture's K objectives, in the order of the columns.
    """
    names, size = [objective.name for objective in objectives], len(output.reward_N)

    def named(values_NK: Tensor | None) -> list[dict[str, float]]:
        if values_NK is None:
            return [{} for _ in range(size)]
        return [dict(zip(names, row, strict=True)) for row in values_NK.tolist()]

    scores = named(output.scores_NK)
    columns = {
        "contributions": named(output.contributions_NK),
        "scores": scores,
        "ratings": [{o.name: o.from_unit(row[o.name]) for o in objectives} for row in scores],
        "weights": named(output.weights_NK),
        "coefficients": named(output.coefficients_NK),
    }
    rewards, bases = output.reward_N.tolist(), output.base_N.tolist()
    return [(rewards[n], bases[n], {name: rows[n] for name, rows in columns.items()}) for n in range(size)]


class Scorer(Protocol):
    """Anything that scores conversations and returns the scores in order; no conversations give an empty list.

    Example:
        >>> from facetrm import Scorer, World, toy_model
        >>> def best(scorer: Scorer, answers):
        ...     scores = scorer.score(answers)
        ...     return max(range(len(answers)), key=lambda n: scores[n].reward)
        ...
        >>> pair = next(World().preferences(1))
        >>> best(toy_model(), [pair.chosen, pair.rejected]) in (0, 1)
        True
    """

    def score(self, conversations: Sequence[Conversation]) -> list[Score]: ...
