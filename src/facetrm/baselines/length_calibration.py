"""Remove the part of a reward that the length of the answer explains, after training and without labels.

    r'(x, y) = r(x, y) - strength * curve(length of y)
    curve    = LOWESS of the reward on the length, over all answers of reference conversations, pooled

The curve is stored as points. Between them it is linear; below the shortest and above the longest reference answer it
is constant. The method assumes that, over the reference answers, true quality does not depend on length. Where longer
answers are really better, it removes that too: fit it on answers like those that will be scored, and compare.

Reference: Huang et al., Post-hoc Reward Calibration: A Case Study on Length Bias (arXiv 2409.17407). As in its code,
the length is in characters, the fraction is 0.5, and there are three robustifying iterations (the default of the
statsmodels function that it calls). We differ in four points: the curve is fitted once, on reference conversations,
while the paper fits it on the answers that it scores; it is interpolated, while the code takes the value of the next
longer answer; an answer longer than all others gets the last value, where the code's index runs past the end; and all
answers of one length count, whatever their order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, final, get_args

import numpy as np
from numpy.typing import ArrayLike

from facetrm.baselines.lowess import lowess
from facetrm.baselines.named import check_single, scorer_hash
from facetrm.baselines.plain import LengthUnit, answer_length
from facetrm.core.errors import ConfigError, FitError, ModelError, short
from facetrm.core.files import read_json, write_json
from facetrm.core.fingerprint import fingerprint
from facetrm.core.statistics import Floats
from facetrm.data.records import Conversation
from facetrm.model.output import Score, Scorer

LENGTH_CALIBRATION: Final = "length-calibration"
"""Name of the contribution ``-strength * curve(length)``."""

_FORMAT: Final = 1
_AGAIN: Final = "fit the calibration again"


@final
@dataclass(frozen=True)
class LengthCurve:
    """The reward that is expected of an answer of a given length.

    Attributes:
        lengths: Lengths of its points, increasing.
        rewards: Reward at each of them.
        unit: Unit of the lengths.
        scorer: Hash of the scorer that it was fitted to.
    """

    lengths: tuple[float, ...]
    rewards: tuple[float, ...]
    unit: LengthUnit
    scorer: str

    def at(self, lengths: ArrayLike) -> Floats:
        """Return the expected reward of answers of these lengths: linear between points, constant outside.

        Args:
            lengths: Length of each answer in the curve's unit, [N].
        """
        return np.asarray(np.interp(np.asarray(lengths, dtype=np.float64), self.lengths, self.rewards))

    def save(self, path: str | Path) -> None:
        """Write the curve to a JSON file.

        Args:
            path: File to write.
        """
        write_json(Path(path), {"format": _FORMAT, **{name: getattr(self, name) for name in self.__dataclass_fields__}})

    @staticmethod
    def load(path: str | Path) -> LengthCurve:
        """Read a curve from a JSON file.

        Args:
            path: File written by :meth:`save`.

        Raises:
            ModelError: The file is missing, not JSON, or holds no curve.
        """
        value = read_json(Path(path), ModelError, fix=_AGAIN)
        problem = _problem_of(value)
        if problem is not None:
            raise ModelError(problem, place=path, fix=_AGAIN)
        points = [tuple(float(v) for v in value[name]) for name in ("lengths", "rewards")]
        return LengthCurve(points[0], points[1], value["unit"], value["scorer"])


def _problem_of(value: Any) -> str | None:
    """Return why a JSON value is no curve, or None."""
    names = {"format", *LengthCurve.__dataclass_fields__}
    if not isinstance(value, dict) or value.keys() != names:
        return f"not a length curve: {short(value)}"
    if value["format"] != _FORMAT:
        return f"the curve has format {short(value['format'])}; this version reads format {_FORMAT}"
    if value["unit"] not in get_args(LengthUnit) or not isinstance(value["scorer"], str):
        return f"unit {short(value['unit'])} or scorer {short(value['scorer'])} is unknown"
    for name in ("lengths", "rewards"):
        numbers = value[name]
        if not isinstance(numbers, list) or not all(type(v) in (int, float) and math.isfinite(v) for v in numbers):
            return f"'{name}' is no list of finite numbers: {short(numbers)}"
    lengths = value["lengths"]
    if not lengths or len(lengths) != len(value["rewards"]):
        return f"{len(lengths)} lengths and {len(value['rewards'])} rewards"
    if any(b <= a for a, b in pairwise(lengths)):
        return "the lengths do not increase"
    return None


@final
class LengthCalibrated:
    """A scorer without the part of its reward that length explains. Make it with :func:`fit_length_calibration`.

    The contributions are those of the scorer and ``length-calibration``; with the scorer's base they sum to the reward.

    Args:
        scorer: Scorer of single answers.
        curve: The reward that is expected of an answer of a given length, fitted to this scorer.
        strength: How much of the curve is removed: 1 all of it, 0 nothing.

    Raises:
        ConfigError: The scorer compares answers or has no hash, the curve was fitted to another scorer, or the strength
            is not a finite number of at least 0.
    """

    def __init__(self, scorer: Scorer, curve: LengthCurve, *, strength: float = 1.0) -> None:
        check_single(scorer, place="length calibration")
        found = scorer_hash(scorer)
        if found != curve.scorer:
            problem = f"the curve belongs to scorer {curve.scorer[:12]}, not to {found[:12]}"
            raise ConfigError(problem, place="length calibration", fix="fit the calibration to this scorer")
        if not 0.0 <= strength < math.inf:
            problem = f"the strength is {strength}"
            raise ConfigError(problem, place="length calibration", fix="give a number of at least 0, such as 1")
        self.scorer, self.curve, self.strength = scorer, curve, float(strength)
        self.name = f"{getattr(scorer, 'name', 'model')} without length"
        self.hash = fingerprint(["length calibration", found, curve.lengths, curve.rewards, curve.unit, self.strength])

    def score(self, conversations: Sequence[Conversation]) -> list[Score]:
        """Return one score per conversation, in order.

        Args:
            conversations: Conversations, each ending with an answer.
        """
        scores = self.scorer.score(conversations)
        expected = self.curve.at([answer_length(c, self.curve.unit) for c in conversations]).tolist()
        return [self._without(score, value) for score, value in zip(scores, expected, strict=True)]

    def _without(self, score: Score, expected: float) -> Score:
        removed = -self.strength * expected
        parts = {**score.contributions, LENGTH_CALIBRATION: removed + score.contributions.get(LENGTH_CALIBRATION, 0.0)}
        return replace(score, reward=score.reward + removed, contributions=parts, model=self.hash)


def fit_length_calibration(
    scorer: Scorer,
    conversations: Sequence[Conversation],
    *,
    strength: float = 1.0,
    fraction: float = 0.5,
    robust: int = 3,
    unit: LengthUnit = "characters",
    points: int = 400,
) -> LengthCalibrated:
    """Return a scorer without the part of its reward that length explains on reference conversations.

    Args:
        scorer: Scorer of single answers.
        conversations: Reference conversations: all answers to many prompts, good and bad ones. No labels are needed.
        strength: How much of the curve is removed: 1 all of it, 0 nothing.
        fraction: Share of the answers that a local line is fitted to.
        robust: Number of iterations that reduce the weight of outliers; 0 for none.
        unit: Unit of the length.
        points: Largest number of points of the curve.

    Raises:
        ConfigError: The scorer compares answers or has no hash, or the strength is out of range.
        FitError: There are fewer than three answers, a reward is not finite, or an argument is out of range.
    """
    check_single(scorer, place="length calibration")
    rewards = [score.reward for score in scorer.score(conversations)]
    missing = next((n for n, reward in enumerate(rewards) if not math.isfinite(reward)), None)
    if missing is not None:
        problem = f"the reward of reference conversation {missing} is {rewards[missing]}"
        raise FitError(problem, place="length calibration", fix="leave that conversation out")
    lengths = [answer_length(c, unit) for c in conversations]
    grid, curve = lowess(lengths, rewards, fraction=fraction, robust=robust, points=points)
    found = LengthCurve(tuple(grid.tolist()), tuple(curve.tolist()), unit, scorer_hash(scorer))
    return LengthCalibrated(scorer, found, strength=strength)
