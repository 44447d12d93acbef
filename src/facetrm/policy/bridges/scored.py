"""Scores of a batch of sampled answers: what every bridge starts from.

One pass scores all objectives, and the last batch is kept, so k reward functions of one batch cost one pass. An answer
that cannot be scored has no score but a reason. It never stops the others, and its reward is never a made-up number
unless the trainer accepts nothing else.

Shapes: N answers, K objectives.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any, final

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from facetrm.core.errors import (
    BackboneError,
    ConfigError,
    DataError,
    FacetrmError,
    ServerError,
    did_you_mean,
    short,
)
from facetrm.core.fingerprint import fingerprint
from facetrm.core.progress import log
from facetrm.data.read.turns import turns
from facetrm.data.records import Conversation, conversation
from facetrm.model.output import Score, Scorer
from facetrm.model.reward_model import RewardModel
from facetrm.policy.advantages import FLOOR, grouped_advantages

Answer = Conversation | FacetrmError
"""A prompt with its answer, or why it cannot be read."""

RATING = "rating/"
WEIGHT = "weight/"
CONTRIBUTION = "contribution/"


@final
@dataclass(frozen=True)
class ScoredAnswers:
    """The scores of N answers.

    Attributes:
        scores: the score of each answer; None if it could not be scored.
        reasons: why an answer could not be scored; empty if it was.
        objectives: the names of the K objectives.
    """

    scores: tuple[Score | None, ...]
    reasons: tuple[str, ...]
    objectives: tuple[str, ...]

    @property
    def rewards(self) -> list[float | None]:
        """The reward of each answer; None if it could not be scored."""
        return [None if score is None else score.reward for score in self.scores]

    def contributions(self, objective: str) -> list[float | None]:
        """Return what one objective adds to each reward; None for an answer that could not be scored.

        It is 0 for an answer to a task without that objective, so base and contributions always sum to the reward.

        Args:
            objective: name of the objective.
        """
        return [None if score is None else score.contributions.get(objective, 0.0) for score in self.scores]

    def advantages(self, groups: Iterable[Hashable], *, floor: float = FLOOR) -> NDArray[np.float64]:
        """Return the advantages that keep the gate, [N]; 0 for an answer that could not be scored.

        Ratings on the [0, 1] scale are weighted by :func:`weight_shares`, penalties included.

        Args:
            groups: group of each answer.
            floor: least deviation that a column of ratings is divided by.

        Raises:
            ConfigError: A score has no coefficients: its reward is not a weighted sum of ratings.
        """
        bare = next((score for score in self.scores if score is not None and not score.coefficients), None)
        if bare is not None:
            raise ConfigError(
                f"a score of task '{bare.task}' has no coefficients: its reward is no weighted sum of ratings",
                place="advantages that keep the gate",
                fix="use the reward itself, or a model whose aggregator is a gated sum",
            )
        shape = (len(self.scores), len(self.objectives))
        ratings_NK, weights_NK = np.full(shape, np.nan), np.full(shape, np.nan)
        for n, score in enumerate(self.scores):
            if score is not None:
                shares = weight_shares(score)
                ratings_NK[n] = [score.scores.get(name, np.nan) for name in self.objectives]
                weights_NK[n] = [shares.get(name, np.nan) for name in self.objectives]
        return grouped_advantages(ratings_NK, weights_NK, groups, floor=floor)

    def columns(self, row: int, *, missing: float) -> dict[str, float]:
        """Return one answer as a dict of finite numbers, for trainers that know no absent value.

        Every answer has the same keys: ``score``, ``failed`` (0 or 1), ``base``, and for each objective
        ``contribution/NAME``, ``rating/NAME`` (on [0, 1]) and ``weight/NAME`` (:func:`weight_shares`).

        Args:
            row: number of the answer.
            missing: ``score`` of an answer that could not be scored; its other values are 0.
        """
        score = self.scores[row]
        known = {"score": missing, "failed": 1.0, "base": 0.0}
        shares: dict[str, float] = {}
        if score is not None:
            known, shares = {"score": score.reward, "failed": 0.0, "base": score.base}, weight_shares(score)
        for name in self.objectives:
            known[CONTRIBUTION + name] = 0.0 if score is None else score.contributions.get(name, 0.0)
            known[RATING + name] = 0.0 if score is None else score.scores.get(name, 0.0)
            known[WEIGHT + name] = shares.get(name, 0.0)
        return known


def weight_shares(score: Score) -> dict[str, float]:
    """Return the coefficients of a score divided by the sum of their sizes, so that advantages have a common scale.

    They are signed (a penalty is negative) and the same for all answers to a prompt, as its gate is.

    Args:
        score: score whose reward is a weighted sum of ratings; any other has no shares.
    """
    total = math.fsum(map(abs, score.coefficients.values()))
    return {name: value / total if total else 0.0 for name, value in score.coefficients.items()}


@final
class RewardSource:
    """A scorer that hands out the scores of a batch as often as they are asked for, after one pass.

    Args:
        scorer: a reward model, or anything that scores conversations.
        objectives: the names of the objectives; None takes those of a reward model or an ``HttpScorer``, of all tasks.
        taken: names that a bridge uses for something else.

    Raises:
        ConfigError: the scorer does not say what its objectives are, has no such objective, or one has a taken name.

    Example:
        >>> from facetrm import World, toy_model
        >>> from facetrm.policy import RewardSource
        >>> pair = next(World().preferences(1))
        >>> scored = RewardSource(toy_model()).score([pair.chosen, pair.rejected])
        >>> len(scored.rewards), scored.objectives
        (2, ('helpful', 'honest', 'verbose'))
    """

    def __init__(self, scorer: Scorer, *, objectives: Sequence[str] | None = None, taken: Sequence[str] = ()) -> None:
        self.scorer = scorer
        self.objectives = _objectives(scorer, objectives)
        for name in set(taken).intersection(self.objectives):
            raise ConfigError(f"an objective is named '{name}'", place="objectives", fix="give it another name")
        self._lock = Lock()
        self._last: tuple[tuple[object, ...], ScoredAnswers] | None = None

    def score(self, answers: Sequence[Answer]) -> ScoredAnswers:
        """Return the scores of a batch. If it is the batch of the last call, nothing is computed.

        Args:
            answers: prompts with their answers, or the errors that say why they cannot be read.

        Raises:
            ServerError: the scorer's server does not answer, so no answer can have a reward.
        """
        key = tuple(str(answer) if isinstance(answer, FacetrmError) else answer for answer in answers)
        with self._lock:
            if self._last is None or self._last[0] != key:
                self._last = (key, self._scored(answers))
            return self._last[1]

    def _scored(self, answers: Sequence[Answer]) -> ScoredAnswers:
        reasons = [str(answer) if isinstance(answer, FacetrmError) else "" for answer in answers]
        scores: dict[int, Score] = {}
        readable = {n: answer for n, answer in enumerate(answers) if not isinstance(answer, FacetrmError)}
        for n, found in self._each(readable).items():
            if isinstance(found, FacetrmError):
                reasons[n] = str(found)
            elif not _finite(found):
                reasons[n] = f"the reward is {found.reward}"
            else:
                scores[n] = found
        if failed := len(answers) - len(scores):
            most, times = Counter(reason for reason in reasons if reason).most_common(1)[0]
            log("answers without a reward", warning=most, with_this=times, failed=failed, of=len(answers))
        return ScoredAnswers(tuple(scores.get(n) for n in range(len(answers))), tuple(reasons), self.objectives)

    def _each(self, readable: dict[int, Conversation]) -> dict[int, Score | FacetrmError]:
        """Return the score of each answer, or the error of those that have none: one pass unless there are errors."""
        left, found = dict(readable), dict[int, Score | FacetrmError]()
        while left:
            numbers = list(left)
            try:
                scores = self.scorer.score(list(left.values()))
            except ServerError:
                raise
            except FacetrmError as exc:
                row = exc.row if isinstance(exc, BackboneError) else None
                if row is None and len(left) > 1:  # an error that does not say whose it is
                    return found | {n: self._each({n: answer})[n] for n, answer in left.items()}
                number = numbers[row or 0]
                found[number] = exc
                del left[number]
                continue
            return found | dict(zip(numbers, scores, strict=True))
        return found


def _objectives(scorer: Scorer, asked: Sequence[str] | None) -> tuple[str, ...]:
    known: tuple[str, ...] = tuple(getattr(scorer, "objectives", ()))
    if isinstance(scorer, RewardModel):
        named = (o.name for mixture in scorer.mixtures.values() for o in mixture.objectives)
        known = tuple(dict.fromkeys(named))
    if asked is None and not known:
        raise ConfigError(
            f"a {type(scorer).__name__} does not say what its objectives are",
            place="objectives",
            fix="name them: objectives=[...]",
        )
    wanted = known if asked is None else tuple(asked)
    unknown = next((name for name in wanted if known and name not in known), None)
    if unknown is not None:
        raise ConfigError(f"unknown objective '{unknown}'", place="objectives", fix=did_you_mean(unknown, known))
    return wanted


def _finite(score: Score) -> bool:
    numbers = (score.reward, score.base, *score.contributions.values(), *score.scores.values())
    return all(math.isfinite(number) for number in (*numbers, *score.coefficients.values()))


def sampled_answer(prompt: object, response: object) -> Answer:
    """Return a prompt with its answer as a conversation, or the error that says why it is none.

    A prompt is text, text rendered by a common chat template, or a message list. An answer is text, never looked into
    for markers of turns (a policy could write them), or a list of the messages that follow the prompt.

    Args:
        prompt: the prompt as the trainer holds it.
        response: the answer as the trainer holds it.
    """
    try:
        asked = turns(prompt, "prompt", "user")
        said = [{"role": "assistant", "content": response}] if isinstance(response, str) else None
        return answered_messages([*asked, *(said or turns(response, "response", "assistant"))])
    except FacetrmError as exc:
        return exc


def answered_messages(messages: object) -> Answer:
    """Return a message list that ends with an answer as a conversation, or the error that says why it is none.

    Args:
        messages: message list.
    """
    try:
        told = turns(messages, "messages", "user")
        blank = next((n for n, turn in enumerate(told) if not str(turn["content"]).strip()), None)
        if blank is not None:
            return DataError("the answer is blank" if blank == len(told) - 1 else f"message {blank} is blank")
        return conversation(told)
    except FacetrmError as exc:
        return exc
    except ValidationError as exc:
        said = exc.errors()[0]
        problem = f"{said['msg'].removeprefix('Value error, ')} ({short(said['input'], 60)})"
        return DataError(problem, place=".".join(map(str, said["loc"])))


def same_prompt(prompt: Any) -> str:
    """Return a key that two prompts share if they are equal, whatever their type.

    Args:
        prompt: text or message list.
    """
    return fingerprint(repr(prompt))
