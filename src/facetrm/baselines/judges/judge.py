"""A language model as a judge, behind an OpenAI-compatible API: a rival without training.

    pairwise   every pair in both orders; reward = mean over the other answers of 1 (won), 1/2 (tie) or 0 (lost)
    ranking    all answers at once, in a seeded order; reward = (n - place) / (n - 1), place 1 is the best
    rating     one answer at a time, from 1 to 10; reward = the expected rating, else the number in the text

A pair that is judged differently in its two orders is a tie and is counted. Answers of equal text tie and are not asked
about. An answer without others gets 1/2. What cannot be read is a failure, never a number: the rewards of that group,
or of that answer in ``rating``, are NaN, and ``failures`` says why.

Reference: Zheng et al., Judging LLM-as-a-Judge (arXiv 2306.05685), both orders; RewardBench 2 (arXiv 2506.01937),
ranking and rating.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, final

from facetrm.baselines.groups import bare_score, groups_of
from facetrm.baselines.judges.prompts import JUDGE_PROMPTS, RANKING_KEY, RANKING_SCHEMA, JudgeMode, judge_messages
from facetrm.baselines.judges.replies import read_ranking, read_rating
from facetrm.baselines.judges.store import JudgeFailure, JudgeStore, group_key
from facetrm.core.errors import ConfigError, short
from facetrm.core.fingerprint import fingerprint
from facetrm.data.records import Conversation, Message, conversation_key
from facetrm.label.ask import verdict_of
from facetrm.label.client import Judge, OpenAIJudge, Reply, ReplyForm
from facetrm.label.outcomes import decide
from facetrm.label.plan import Question, question_key
from facetrm.label.settings import LabelConfig
from facetrm.model.output import Score

MakeJudge = Callable[[LabelConfig], Judge]
_CREDIT = {"first": 1.0, "second": 0.0, "tie": 0.5, "half_tie": 0.5, "first_twice": 0.5, "second_twice": 0.5}


def _judge_hash(mode: JudgeMode, config: LabelConfig, *more: Any) -> str:
    sent = [config.sampling(), config.system_message, config.answer_format]
    return fingerprint(["judge", mode, JUDGE_PROMPTS, sent, list(more)])


def _question(prompt: Conversation, answers: Sequence[Message], mode: JudgeMode, config: LabelConfig) -> Question:
    messages = judge_messages(prompt, answers, mode, system_message=config.system_message)
    return Question(question_key(messages, config), messages)


@final
class JudgeScorer:
    """A judge that compares the answers to one prompt: pair by pair, or all at once.

    Args:
        config: Judge, address, sampling, retries, limits and prices.
        folder: Folder in which the answers are stored; a later run continues there.
        mode: ``pairwise`` or ``ranking``.
        seed: Seed of the order in which ``ranking`` shows the answers.
        make_judge: Builds the judge from the settings; None uses the API that they name.

    Attributes:
        name: Name for tables and files.
        hash: Fingerprint of the model's name, the settings and the prompts.
        failures: Reason by :func:`~facetrm.baselines.judges.store.group_key` of each group without rewards.
        outcomes: Number of judged pairs by outcome, as in labelling; of ``ranking`` the number of rankings.

    Raises:
        ConfigError: The mode is unknown, the address is invalid, or a public server has no key.
    """

    def __init__(
        self,
        config: LabelConfig,
        *,
        folder: str | Path,
        mode: Literal["pairwise", "ranking"] = "pairwise",
        seed: int = 0,
        make_judge: MakeJudge | None = None,
    ) -> None:
        if mode not in ("pairwise", "ranking"):
            fix = "use pairwise or ranking; for ratings use RatingJudge"
            raise ConfigError(f"unknown mode {short(mode)}", place="judge", fix=fix)
        self._config, self._mode, self._seed = config, mode, seed
        if make_judge is not None:
            judge = make_judge(config)
        elif mode == "ranking":
            judge = OpenAIJudge(config, form=ReplyForm(RANKING_KEY, RANKING_SCHEMA))
        else:
            judge = OpenAIJudge(config)
        self._counts: dict[str, int] = {}
        self.store = JudgeStore(config, Path(folder), judge, verdict_of if mode == "pairwise" else self._read)
        self.name = f"{config.model} ({mode})"
        self.hash = _judge_hash(mode, config, seed if mode == "ranking" else None)
        self.failures: dict[str, str] = {}
        self.outcomes: Counter[str] = Counter()

    def score(self, conversations: Sequence[Conversation]) -> list[Score]:
        """Return one score per conversation, in order. Consecutive conversations with one prompt are a group.

        Args:
            conversations: Conversations, each ending with an answer.
        """
        return [score for group in self.score_groups(groups_of(conversations)) for score in group]

    def score_groups(self, groups: Sequence[Sequence[Conversation]]) -> list[list[Score]]:
        """Return the scores of each group, in order; NaN rewards for a group that was not judged.

        Args:
            groups: Conversations by group. Those of a group share the prompt.

        Raises:
            LabelError: The server cannot be used.
        """
        plans = [self._plan(group) for group in groups]
        found = self.store.ask([question for plan in plans for question in plan])
        result = []
        for group, plan in zip(groups, plans, strict=True):
            missing = next((found.failures[q.key] for q in plan if q.key in found.failures), None)
            readings = [found.readings.get(q.key, "") for q in plan]
            if missing is None and "cannot_say" in readings:
                missing = "the judge cannot say which answer is better"
            key = group_key(group)
            self.failures.pop(key, None)
            if missing is None:
                rewards = self._shares(group, readings) if self._mode == "pairwise" else self._places(group, readings)
            else:
                self.failures[key] = missing
                rewards = [math.nan] * len(group)
            result.append([self._score(reward, c) for reward, c in zip(rewards, group, strict=True)])
        return result

    def failure_rows(self) -> list[JudgeFailure]:
        """Return the groups without rewards, each with its reason."""
        return [JudgeFailure(key, reason) for key, reason in self.failures.items()]

    def _score(self, reward: float, conversation: Conversation) -> Score:
        return bare_score(reward, model=self.hash, length=len(conversation[-1].content))

    def _plan(self, group: Sequence[Conversation]) -> list[Question]:
        if len(group) < 2:
            return []
        prompt, answers = group[0][:-1], [c[-1] for c in group]
        if self._mode == "ranking":
            question = _question(prompt, [answers[n] for n in self._order(group)], "ranking", self._config)
            self._counts[question.key] = len(answers)
            return [question]
        pairs = [(a, b) for a, b in combinations(answers, 2) if a.content != b.content]
        return [_question(prompt, shown, "pairwise", self._config) for pair in pairs for shown in (pair, pair[::-1])]

    def _order(self, group: Sequence[Conversation]) -> list[int]:
        """Return the rows in the order in which they are shown: by a hash of the seed, the group and the row's text."""
        whole = sorted(conversation_key(c) for c in group)
        return sorted(
            range(len(group)), key=lambda n: (fingerprint([self._seed, whole, conversation_key(group[n])]), n)
        )

    def _read(self, question: Question, reply: Reply) -> str:
        return " ".join(map(str, read_ranking(reply, self._counts[question.key])))

    def _shares(self, group: Sequence[Conversation], readings: Sequence[Any]) -> list[float]:
        """Return the mean credit of each answer against the others."""
        if len(group) < 2:
            return [0.5] * len(group)
        shares, said = [0.0] * len(group), iter(readings)
        for a, b in combinations(range(len(group)), 2):
            credit = 0.5
            if group[a][-1].content != group[b][-1].content:
                outcome = decide(next(said), next(said))
                self.outcomes[outcome] += 1
                credit = _CREDIT[outcome]
            shares[a] += credit / (len(group) - 1)
            shares[b] += (1.0 - credit) / (len(group) - 1)
        return shares

    def _places(self, group: Sequence[Conversation], readings: Sequence[str]) -> list[float]:
        if len(group) < 2:
            return [0.5] * len(group)
        self.outcomes[RANKING_KEY] += 1
        order, rewards = self._order(group), [0.0] * len(group)
        for place, shown in enumerate(readings[0].split(), start=1):
            rewards[order[int(shown) - 1]] = (len(group) - place) / (len(group) - 1)
        return rewards


@final
class RatingJudge:
    """A judge that rates one answer at a time, from 1 to 10.

    With log-probabilities the reward is the expected rating, else the number in the text.

    Args:
        config: Judge, address, sampling, retries, limits and prices.
        folder: Folder in which the answers are stored; a later run continues there.
        top_logprobs: Number of most probable tokens to ask for; 0 reads the text alone. A server that refuses them is
            asked without.
        make_judge: Builds the judge from the settings; None uses the API that they name.

    Attributes:
        name: Name for tables and files.
        hash: Fingerprint of the model's name, the settings and the prompts.
        failures: Reason by ``conversation_key`` of each answer without a rating.
        sources: Number of ratings that are an expectation (``logprobs``) and that are a number in a text (``text``).

    Raises:
        ConfigError: The address is invalid, or a public server has no key.
    """

    def __init__(
        self,
        config: LabelConfig,
        *,
        folder: str | Path,
        top_logprobs: int = 20,
        make_judge: MakeJudge | None = None,
    ) -> None:
        self._config, self._top = config.model_copy(update={"answer_format": "text"}), top_logprobs
        judge = OpenAIJudge(self._config, top_logprobs=top_logprobs) if make_judge is None else make_judge(self._config)
        self.store = JudgeStore(self._config, Path(folder), judge, _read_rating)
        self.name = f"{config.model} (rating)"
        self.hash = _judge_hash("rating", self._config, top_logprobs)
        self.failures: dict[str, str] = {}
        self.sources: Counter[str] = Counter()

    def score(self, conversations: Sequence[Conversation]) -> list[Score]:
        """Return one score per conversation, in order; a NaN reward for an answer that was not rated.

        Args:
            conversations: Conversations, each ending with an answer.

        Raises:
            LabelError: The server cannot be used.
        """
        plain = [_question(c[:-1], [c[-1]], "rating", self._config) for c in conversations]
        questions = [Question(fingerprint([q.key, self._top]), q.messages) for q in plain]
        found = self.store.ask(questions)
        result = []
        for question, c in zip(questions, conversations, strict=True):
            key, reward = conversation_key(c), math.nan
            self.failures.pop(key, None)
            if question.key in found.readings:
                value, source = found.readings[question.key].split()
                self.sources[source] += 1
                reward = float(value)
            else:
                self.failures[key] = found.failures[question.key]
            result.append(bare_score(reward, model=self.hash, length=len(c[-1].content)))
        return result

    def failure_rows(self) -> list[JudgeFailure]:
        """Return the answers without a rating, each with its reason."""
        return [JudgeFailure(key, reason) for key, reason in self.failures.items()]


def _read_rating(question: Question, reply: Reply) -> str:
    """Return the rating in a reply, as it is stored: the number and where it comes from."""
    value, expected = read_rating(reply)
    return f"{value!r} {'logprobs' if expected else 'text'}"
