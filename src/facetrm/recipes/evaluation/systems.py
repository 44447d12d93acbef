"""The systems that ``facetrm eval`` judges, by the text that names them.

    FOLDER, hf://OWNER/NAME, a shipped model     any reward model that :func:`facetrm.hub.load_model` loads
    length, shortest, random                     baselines that read no meaning
    judge:MODEL@BASE_URL                         an LLM behind an OpenAI-compatible API
    the address of a server                      a server of rewards
    FILE                                         stored scores

A system answers questions. One that scores single conversations is asked for each distinct conversation once; one that
compares answers is asked for each question.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, final

from facetrm.baselines.groups import GroupScorer, bare_score, groups_of
from facetrm.baselines.judges.store import group_key
from facetrm.core.errors import BackboneError, ConfigError, ModelError, TooLongError, short
from facetrm.core.fingerprint import fingerprint
from facetrm.core.progress import Meter, progress
from facetrm.data.records import Conversation, conversation_key
from facetrm.evaluate.benchmarks.item import Item
from facetrm.evaluate.benchmarks.result import AnswerScore
from facetrm.model.output import Score, Scorer
from facetrm.model.reward_model import RewardModel
from facetrm.recipes.evaluation.cache import ScoreCache
from facetrm.recipes.evaluation.score_files import StoredScores

_FAILED: Final = "no score"
_SHORTEN: Final = "give --truncation drop_oldest to drop its oldest turns"
_TRAINED: Final = "train it with backbone.truncation=drop_oldest to drop the oldest turns"
_GROUPS: Final = 32
_BATCH: Final = 256
"""Number of answers that are scored and stored together."""


@final
@dataclass(frozen=True)
class System:
    """A system under evaluation.

    Attributes:
        name: Name in tables and files.
        asked: Text that named it.
        kind: ``model``, ``baseline``, ``judge``, ``server`` or ``scores``.
        hash: Hash of everything that affects its scores.
        scorer: The scorer; None for stored scores.
        stored: The stored scores; None for a scorer.
        template: Hash of the chat template; empty if it has none.
        render: Function that returns a conversation as the chat template writes it; None if it has none.
    """

    name: str
    asked: str
    kind: str
    hash: str
    scorer: Scorer | None = None
    stored: StoredScores | None = None
    template: str = ""
    render: Callable[[Conversation], str] | None = None


@final
@dataclass(frozen=True)
class Answering:
    """The answers of a system and what they cost.

    Attributes:
        answers: Score of each answer, by question.
        scored: Number of answers that were scored now; the others were stored.
        tokens: Number of tokens that were read now.
        seconds: Time that this took.
    """

    answers: list[list[AnswerScore]]
    scored: int = 0
    tokens: int = 0
    seconds: float = 0.0

    def cost_with(self, other: Answering) -> Answering:
        """Return what both have cost, without the answers.

        Args:
            other: Other answers of the same system.
        """
        return Answering([], self.scored + other.scored, self.tokens + other.tokens, self.seconds + other.seconds)


def answer_questions(system: System, questions: Sequence[Item], cache: ScoreCache, *, benchmark: str = "") -> Answering:
    """Return the score of each answer, by question. Answers that the cache knows are not scored again.

    Args:
        system: The system.
        questions: The questions.
        cache: Scores of earlier runs; new ones are added to it.
        benchmark: Name of the benchmark, which stored scores may name.
    """
    if system.stored is not None:
        return Answering(system.stored.answer(questions, benchmark))
    assert system.scorer is not None
    if isinstance(system.scorer, GroupScorer):
        return _in_groups(system.scorer, system.hash, [q.conversations for q in questions], cache)
    return _by_prompt(system, [q.conversations for q in questions], [q.group for q in questions], cache)


def cached_scorer(system: System, cache: ScoreCache) -> CachedScorer | CachedGroups:
    """Return a system as a scorer that asks for no conversation, and no group, which the cache knows.

    Args:
        system: A system with a scorer.
        cache: Scores of earlier runs; new ones are added to it.
    """
    return CachedGroups(system, cache) if isinstance(system.scorer, GroupScorer) else CachedScorer(system, cache)


class _Cached:
    """A system through the cache.

    Args:
        system: The system.
        cache: Scores of earlier runs; new ones are added to it.

    Attributes:
        spent: What was scored now and what it cost.
    """

    def __init__(self, system: System, cache: ScoreCache) -> None:
        self._system, self._cache = system, cache
        self.spent = Answering([])


@final
class CachedScorer(_Cached):
    """A system that scores single conversations, through the cache."""

    def score(self, conversations: Sequence[Conversation]) -> list[Score]:
        """Return the score of each conversation, in order.

        Args:
            conversations: The conversations.

        Raises:
            ModelError: A conversation has no reward.
        """
        prompts = [conversation_key(messages[:-1]) for messages in conversations]
        done = _by_prompt(self._system, [[messages] for messages in conversations], prompts, self._cache)
        self.spent = self.spent.cost_with(done)
        rows = zip(conversations, done.answers, strict=True)
        return [_whole(self._system, messages, answer) for messages, (answer,) in rows]


@final
class CachedGroups(_Cached):
    """A system that compares the answers to a prompt, through the cache."""

    def score(self, conversations: Sequence[Conversation]) -> list[Score]:
        """Return the score of each conversation among its neighbours with the same prompt, in order.

        Args:
            conversations: The conversations.

        Raises:
            ModelError: A conversation has no reward.
        """
        return [score for group in self.score_groups(groups_of(conversations)) for score in group]

    def score_groups(self, groups: Sequence[Sequence[Conversation]]) -> list[list[Score]]:
        """Return the scores of each group, in order.

        Args:
            groups: Conversations by group. Those of a group share the prompt.

        Raises:
            ModelError: A conversation has no reward.
        """
        assert isinstance(self._system.scorer, GroupScorer)
        done = _in_groups(self._system.scorer, self._system.hash, groups, self._cache)
        self.spent = self.spent.cost_with(done)
        return [
            [_whole(self._system, messages, answer) for messages, answer in zip(group, answers, strict=True)]
            for group, answers in zip(groups, done.answers, strict=True)
        ]


def _whole(system: System, messages: Conversation, answer: AnswerScore) -> Score:
    """Return a stored score as the scorer's own."""
    if answer.reward is None:
        raise ModelError(
            answer.problem or "no reward",
            place=f"'{system.name}' on the answer {short(messages[-1].content)}",
            fix="score it alone, or leave its pair out",
        )
    plain = bare_score(
        answer.reward, model=system.hash, tokens=answer.tokens, length=answer.length, truncated=answer.truncated
    )
    return replace(
        plain,
        base=answer.base,
        contributions=dict(answer.contributions),
        scores=dict(answer.ratings),
        weights=dict(answer.weights),
        task=answer.task,
    )


def _by_prompt(
    system: System, rows: Sequence[Sequence[Conversation]], prompts: Iterable[str], cache: ScoreCache
) -> Answering:
    """Return the scores of each row of conversations; those of one prompt go into one batch."""
    started = time.monotonic()
    wanted: dict[str, Conversation] = {}
    keys = [[conversation_key(c) for c in row] for row in rows]
    by_prompt: dict[str, list[int]] = {}
    for n, prompt in enumerate(prompts):
        by_prompt.setdefault(prompt, []).append(n)
    for n in (n for found in by_prompt.values() for n in found):
        wanted |= zip(keys[n], rows[n], strict=True)
    before = len(wanted) - sum(cache.get(system.hash, key) is None for key in wanted)
    scores, meter = _fill(system, wanted, cache)
    answers = [[scores[key] for key in row] for row in keys]
    return Answering(answers, len(wanted) - before, meter.tokens, time.monotonic() - started)


def score_conversations(system: System, conversations: Sequence[Conversation], cache: ScoreCache) -> list[AnswerScore]:
    """Return the score of each conversation. Those that the cache knows are not scored again.

    Args:
        system: A system that scores single conversations.
        conversations: The conversations.
        cache: Scores of earlier runs; new ones are added to it.

    Raises:
        ConfigError: The system compares answers, so a single score means nothing.
    """
    if system.scorer is None or isinstance(system.scorer, GroupScorer):
        raise ConfigError(
            f"'{system.name}' has no score of a single answer",
            place="--on",
            fix="give ratings only to a model that scores single answers",
        )
    wanted = {conversation_key(c): c for c in conversations}
    scores, _ = _fill(system, wanted, cache)
    return [scores[conversation_key(c)] for c in conversations]


def _fill(
    system: System, wanted: Mapping[str, Conversation], cache: ScoreCache
) -> tuple[dict[str, AnswerScore], Meter]:
    """Return the score of every conversation; those that the cache does not know are scored batch by batch."""
    assert system.scorer is not None
    known = {key: score for key in wanted if (score := cache.get(system.hash, key)) is not None}
    missing = [key for key in wanted if key not in known]
    with progress(f"score with {system.name}", len(wanted)) as meter:
        meter.skip(len(wanted) - len(missing))
        for start in range(0, len(missing), _BATCH):
            part = missing[start : start + _BATCH]
            scores = _scored(system.scorer, [wanted[key] for key in part])
            new = dict(zip(part, scores, strict=True))
            known |= new
            cache.put(system.hash, _lasting(new))
            meter.advance(len(part), tokens=sum(score.tokens for score in scores))
    return known, meter


def _lasting(scores: Mapping[str, AnswerScore]) -> dict[str, AnswerScore]:
    """Return the scores that will be the same next time; a server or a judge that failed may answer then."""
    return {key: score for key, score in scores.items() if not score.problem.startswith(_FAILED)}


def _in_groups(
    scorer: GroupScorer, name: str, groups: Sequence[Sequence[Conversation]], cache: ScoreCache
) -> Answering:
    """Return the scores of a system that compares the answers of a group."""
    started = time.monotonic()
    keys = []
    for group in groups:
        named = fingerprint([conversation_key(c) for c in group])
        keys.append([f"{named}/{n}" for n in range(len(group))])
    known = {key: score for row in keys for key in row if (score := cache.get(name, key)) is not None}
    missing = [n for n, row in enumerate(keys) if row[0] not in known]
    with progress("compare answers", len(groups)) as meter:
        meter.skip(len(groups) - len(missing))
        for start in range(0, len(missing), _GROUPS):
            part = missing[start : start + _GROUPS]
            asked = [groups[n] for n in part]
            new: dict[str, AnswerScore] = {}
            for n, answers in zip(part, _compared(scorer, asked), strict=True):
                new |= zip(keys[n], answers, strict=True)
            known |= new
            cache.put(name, _lasting(new))
            meter.advance(len(part), tokens=sum(score.tokens for score in new.values()))
    found = [[known[key] for key in row] for row in keys]
    return Answering(found, sum(len(keys[n]) for n in missing), meter.tokens, time.monotonic() - started)


def _compared(scorer: GroupScorer, groups: Sequence[Sequence[Conversation]]) -> list[list[AnswerScore]]:
    """Return the scores of each group; one that is too long to be compared has a problem instead of rewards."""
    try:
        found = scorer.score_groups(groups)
    except TooLongError as exc:
        if len(groups) > 1:
            return [answers for group in groups for answers in _compared(scorer, [group])]
        return [[AnswerScore(None, problem=_why_not(exc, scorer)) for _ in group] for group in groups]
    why = [getattr(scorer, "failures", {}).get(group_key(group), "") for group in groups]
    return [[_answer(score, said) for score in scores] for scores, said in zip(found, why, strict=True)]


def _scored(scorer: Scorer, conversations: Sequence[Conversation]) -> list[AnswerScore]:
    """Return the score of each conversation; one that cannot be read has a problem instead of a reward."""
    failed: dict[int, str] = {}
    while True:
        left = [n for n in range(len(conversations)) if n not in failed]
        try:
            scores = scorer.score([conversations[n] for n in left]) if left else []
        except BackboneError as exc:
            row = exc.row
            if row is None and isinstance(exc, TooLongError):  # it does not say which one
                if len(left) > 1:
                    return [one for messages in conversations for one in _scored(scorer, [messages])]
                row = 0
            if row is None:
                raise
            failed[left[row]] = _why_not(exc, scorer)
            continue
        why = getattr(scorer, "failures", {})
        found = {
            n: _answer(score, why.get(conversation_key(conversations[n]), ""))
            for n, score in zip(left, scores, strict=True)
        }
        return [found[n] if n in found else AnswerScore(None, problem=failed[n]) for n in range(len(conversations))]


def _why_not(error: BackboneError, scorer: Scorer) -> str:
    """Return why a conversation has no score, and what to do about it; its number in a batch means nothing here."""
    if not isinstance(error, TooLongError):
        return str(error)
    return f"{error.problem}; {_SHORTEN if isinstance(scorer, RewardModel) else _TRAINED}"


def _answer(score: Score, why: str) -> AnswerScore:
    if not math.isfinite(score.reward):
        return AnswerScore(None, score.tokens, score.truncated, problem=f"{_FAILED}: {why or 'no reward'}")
    contributions, ratings, weights = (
        {name: round(value, 8) for name, value in held.items()}
        for held in (score.contributions, score.scores, score.weights)
    )
    return AnswerScore(
        score.reward,
        score.tokens,
        score.truncated,
        contributions,
        ratings,
        base=score.base,
        weights=weights,
        length=score.length,
        task=score.task,
    )
