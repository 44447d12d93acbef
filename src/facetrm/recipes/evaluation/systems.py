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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, final

from facetrm.baselines.groups import GroupScorer
from facetrm.baselines.judges.store import group_key
from facetrm.core.errors import BackboneError, ConfigError
from facetrm.core.fingerprint import fingerprint
from facetrm.core.progress import Meter, progress
from facetrm.data.records import Conversation, conversation_key
from facetrm.evaluate.benchmarks.item import Item
from facetrm.evaluate.benchmarks.result import AnswerScore
from facetrm.model.output import Score, Scorer
from facetrm.recipes.evaluation.cache import ScoreCache
from facetrm.recipes.evaluation.score_files import StoredScores

_FAILED: Final = "no score"
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
    """

    name: str
    asked: str
    kind: str
    hash: str
    scorer: Scorer | None = None
    stored: StoredScores | None = None
    template: str = ""


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


def answer_questions(system: System, questions: Sequence[Item], cache: ScoreCache) -> Answering:
    """Return the score of each answer, by question. Answers that the cache knows are not scored again.

    Args:
        system: The system.
        questions: The questions.
        cache: Scores of earlier runs; new ones are added to it.
    """
    if system.stored is not None:
        return Answering(system.stored.answer(questions))
    assert system.scorer is not None
    if isinstance(system.scorer, GroupScorer):
        return _by_question(system.scorer, system.hash, questions, cache)
    started = time.monotonic()
    wanted: dict[str, Conversation] = {}
    keys = [[conversation_key(c) for c in q.conversations] for q in questions]
    by_prompt: dict[str, list[int]] = {}
    for n, question in enumerate(questions):
        by_prompt.setdefault(question.group, []).append(n)
    for n in (n for rows in by_prompt.values() for n in rows):  # answers to one prompt go into one batch
        wanted |= zip(keys[n], questions[n].conversations, strict=True)
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


def _by_question(scorer: GroupScorer, name: str, questions: Sequence[Item], cache: ScoreCache) -> Answering:
    """Return the scores of a system that compares the answers to a question."""
    started = time.monotonic()
    keys = []
    for question in questions:
        group = fingerprint([conversation_key(c) for c in question.conversations])
        keys.append([f"{group}/{n}" for n in range(len(question.answers))])
    known = {key: score for row in keys for key in row if (score := cache.get(name, key)) is not None}
    missing = [n for n, row in enumerate(keys) if row[0] not in known]
    with progress("compare answers", len(questions)) as meter:
        meter.skip(len(questions) - len(missing))
        for start in range(0, len(missing), _GROUPS):
            part = missing[start : start + _GROUPS]
            groups = [questions[n].conversations for n in part]
            new: dict[str, AnswerScore] = {}
            for n, answers, scores in zip(part, groups, scorer.score_groups(groups), strict=True):
                why = getattr(scorer, "failures", {}).get(group_key(answers), "")
                new |= zip(keys[n], (_answer(score, why) for score in scores), strict=True)
            known |= new
            cache.put(name, _lasting(new))
            meter.advance(len(part), tokens=sum(score.tokens for score in new.values()))
    found = [[known[key] for key in row] for row in keys]
    return Answering(found, sum(len(keys[n]) for n in missing), meter.tokens, time.monotonic() - started)


def _scored(scorer: Scorer, conversations: Sequence[Conversation]) -> list[AnswerScore]:
    """Return the score of each conversation; one that cannot be read has a problem instead of a reward."""
    failed: dict[int, str] = {}
    while True:
        left = [n for n in range(len(conversations)) if n not in failed]
        try:
            scores = scorer.score([conversations[n] for n in left]) if left else []
        except BackboneError as exc:
            if exc.row is None:
                raise
            failed[left[exc.row]] = str(exc)
            continue
        why = getattr(scorer, "failures", {})
        found = {
            n: _answer(score, why.get(conversation_key(conversations[n]), ""))
            for n, score in zip(left, scores, strict=True)
        }
        return [found[n] if n in found else AnswerScore(None, problem=failed[n]) for n in range(len(conversations))]


def _answer(score: Score, why: str) -> AnswerScore:
    if not math.isfinite(score.reward):
        return AnswerScore(None, score.tokens, score.truncated, problem=f"{_FAILED}: {why or 'no reward'}")
    contributions = {name: round(value, 8) for name, value in score.contributions.items()}
    ratings = {name: round(value, 8) for name, value in score.scores.items()}
    shown = {} if len(contributions) < 2 else contributions
    return AnswerScore(score.reward, score.tokens, score.truncated, shown, ratings)
