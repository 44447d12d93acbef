"""The plan: all questions that follow from a file of pairs and a rubric. Each question is keyed by its content."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, final

from facetrm.core.errors import DataError, did_you_mean, short
from facetrm.core.fingerprint import fingerprint
from facetrm.data.rubric import Capability, Rubric, RubricTask, capability_name
from facetrm.label.pairs import Pair
from facetrm.label.prompts import render
from facetrm.label.settings import LabelConfig

_LETTERS_A_TOKEN: Final = 4.0
_WIDE: Final = re.compile(r"[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff]")
_MESSAGE_TOKENS: Final = 4
_VERDICT_TOKENS: Final = 10


@final
@dataclass(frozen=True)
class PairInCapability:
    """One pair to be judged in one capability.

    Attributes:
        pair: the two replies and their prompt.
        task: the task of the rubric that the pair belongs to.
        capability: the capability to compare the replies in.
        keys: the keys of its two questions: with the replies as they stand, and swapped.
    """

    pair: Pair
    task: RubricTask
    capability: Capability
    keys: tuple[str, str]

    @property
    def aspect(self) -> str:
        """The name of the objective, ``task/capability``."""
        return capability_name(self.task, self.capability)


@final
@dataclass(frozen=True)
class Question:
    """One question to a judge.

    Attributes:
        key: the fingerprint of the question, from :func:`question_key`.
        messages: the chat messages to send, with ``role`` and ``content``.
    """

    key: str
    messages: list[dict[str, str]]


def question_key(messages: Sequence[dict[str, str]], config: LabelConfig) -> str:
    """Return the key of a question: the sha256 of its messages and of the sampling settings.

    The order of the replies is part of the messages. The server's address is left out because it may change.

    Args:
        messages: the rendered chat messages.
        config: the settings. Only those in :meth:`LabelConfig.sampling` count.
    """
    return fingerprint([config.sampling(), list(messages)])


@final
@dataclass(frozen=True)
class Plan:
    """All judgements to be made, and their questions.

    Attributes:
        rubric: the tasks and capabilities to ask about.
        config: the settings of the labelling.
        pairs: the number of pairs read.
        judgements: every pair in every capability of its task, in the order of the file and of the rubric.
        skipped: the number of pairs that are left out, by reason.
    """

    rubric: Rubric
    config: LabelConfig
    pairs: int
    judgements: list[PairInCapability]
    skipped: dict[str, int]

    def messages(self, judgement: PairInCapability, *, swapped: bool) -> list[dict[str, str]]:
        """Return the messages of one question.

        Args:
            judgement: the pair and the capability to ask about.
            swapped: whether to show the second reply first.
        """
        return _messages(judgement.pair, judgement.task, judgement.capability, self.rubric, self.config, swapped)

    @cached_property
    def keys(self) -> frozenset[str]:
        """The keys of all questions. Rows with equal questions share one key."""
        return frozenset(key for judgement in self.judgements for key in judgement.keys)

    @cached_property
    def by_capability(self) -> dict[str, int]:
        """The number of pairs to judge, by ``task/capability``; 0 where the rows have no pair of the task."""
        counts = {f"{task.name}/{one.name}": 0 for task in self.rubric.tasks for one in task.capabilities}
        for judgement in self.judgements:
            counts[f"{judgement.task.name}/{judgement.capability.name}"] += 1
        return counts

    def questions(self, known: set[str]) -> Iterator[Question]:
        """Yield each question once, except those whose keys are ``known``. The two orders of a pair come together."""
        seen = set(known)
        for judgement in self.judgements:
            for swapped, key in enumerate(judgement.keys):
                if key not in seen:
                    seen.add(key)
                    yield Question(key, self.messages(judgement, swapped=bool(swapped)))

    def estimate(self, known: set[str]) -> dict[str, Any]:
        """Estimate requests, tokens and cost of the questions whose keys are not ``known``, without asking any.

        Tokens are estimated from characters: four per token, or one per token for Chinese, Japanese and Korean. The
        cost is only as exact as that. ``largest_cost`` assumes ``tries`` requests per question and ``max_tokens`` each.
        """
        asked = tokens_in = 0
        for question in self.questions(known):
            asked += 1
            tokens_in += sum(_tokens(m["content"]) + _MESSAGE_TOKENS for m in question.messages)
        tokens_out = asked * _VERDICT_TOKENS
        config = self.config
        return {
            "pairs": self.pairs,
            "judgements": len(self.judgements),
            "questions": len(self.keys),
            "answered_before": len(self.keys & known),
            "requests": asked,
            "tokens_in": tokens_in,
            "tokens_out": tokens_out,
            "cost": config.cost(tokens_in, tokens_out),
            "largest_cost": config.cost(config.tries * tokens_in, config.tries * asked * config.max_tokens),
            "skipped": self.skipped,
        }


def make_plan(pairs: Sequence[Pair], rubric: Rubric, config: LabelConfig) -> Plan:
    """Plan two questions, one per order of the replies, for every pair and every capability of its task.

    Args:
        pairs: the pairs to compare. Pairs of equal replies are skipped and counted.
        rubric: the tasks and their capabilities.
        config: the settings. ``task``, ``tasks`` and ``unknown_task`` apply to rows whose task is not in the rubric.

    Raises:
        DataError: the task of a row is not in the rubric, or a row names no task and the rubric has several.
    """
    judgements = []
    skipped: Counter[str] = Counter()
    for pair in pairs:
        if pair.replies[0].content == pair.replies[1].content:
            skipped["replies are the same text"] += 1
            continue
        task = _task_of(pair, rubric, config)
        if task is None:
            skipped["task is not in the rubric"] += 1
            continue
        for capability in task.capabilities:
            first, second = (
                question_key(_messages(pair, task, capability, rubric, config, swapped), config)
                for swapped in (False, True)
            )
            judgements.append(PairInCapability(pair, task, capability, (first, second)))
    return Plan(rubric, config, len(pairs), judgements, dict(sorted(skipped.items())))


def _messages(
    pair: Pair, task: RubricTask, capability: Capability, rubric: Rubric, config: LabelConfig, swapped: bool
) -> list[dict[str, str]]:
    return render(
        pair.prompt,
        (pair.replies[1], pair.replies[0]) if swapped else pair.replies,
        task=task,
        capability=capability,
        language=rubric.language,
        system_message=config.system_message,
    )


def _task_of(pair: Pair, rubric: Rubric, config: LabelConfig) -> RubricTask | None:
    names = {task.name: task for task in rubric.tasks}
    if pair.task is not None:
        name: str | None = config.tasks.get(pair.task, pair.task)
    else:
        name = config.task or (rubric.tasks[0].name if len(rubric.tasks) == 1 else None)
    if name in names:
        return names[name]
    if config.unknown_task == "skip":
        return None
    place = f"row '{pair.id}' (prompt: {short(pair.prompt[-1].content, 40)})"
    if name is None:
        fix = f"set the task of rows without one to one of {', '.join(names)}: --set task=NAME; or skip them: "
        raise DataError("the row names no task", place=place, fix=f"{fix}--set unknown_task=skip")
    fix = f"{did_you_mean(name, names)} Otherwise --set tasks.NAME={next(iter(names))} or --set unknown_task=skip"
    raise DataError(f"task '{name}' is not in rubric '{rubric.name}'", place=place, fix=fix)


def _tokens(text: str) -> int:
    wide = len(_WIDE.findall(text))
    return wide + round((len(text) - wide) / _LETTERS_A_TOKEN)
