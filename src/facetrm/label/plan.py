"""The plan: which questions a file of pairs and a rubric come to, each named by its content."""

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
    """One pair in one capability; ``keys`` name its two questions: as it stands, and with the replies swapped."""

    pair: Pair
    task: RubricTask
    capability: Capability
    keys: tuple[str, str]

    @property
    def aspect(self) -> str:
        """``task/capability``: the objective that it is about."""
        return capability_name(self.task, self.capability)


@final
@dataclass(frozen=True)
class Question:
    """One request: its content key and its messages."""

    key: str
    messages: list[dict[str, str]]


def question_key(messages: Sequence[dict[str, str]], config: LabelConfig) -> str:
    """Return the identity of a question: sha256 of its rendered ``messages`` and of the sampling of ``config``.

    The order of the replies is part of the messages. The address of the server is not: it may move.
    """
    return fingerprint([config.sampling(), list(messages)])


@final
@dataclass(frozen=True)
class Plan:
    """What is to be asked.

    Attributes:
        rubric: tasks and capabilities to ask about.
        config: settings of the labelling.
        pairs: the number of pairs read.
        judgements: every pair in every capability of its task, in the order of the file and of the rubric.
        skipped: pairs that are not asked about, by reason.
    """

    rubric: Rubric
    config: LabelConfig
    pairs: int
    judgements: list[PairInCapability]
    skipped: dict[str, int]

    def messages(self, judgement: PairInCapability, *, swapped: bool) -> list[dict[str, str]]:
        """Return the messages of one question of ``judgement``; ``swapped`` shows the second reply first."""
        return _messages(judgement.pair, judgement.task, judgement.capability, self.rubric, self.config, swapped)

    @cached_property
    def keys(self) -> frozenset[str]:
        """The keys of all questions; equal questions of several rows are one."""
        return frozenset(key for judgement in self.judgements for key in judgement.keys)

    def questions(self, known: set[str]) -> Iterator[Question]:
        """Yield every question once whose key is not ``known``; the two orders of a judgement stand together."""
        seen = set(known)
        for judgement in self.judgements:
            for swapped, key in enumerate(judgement.keys):
                if key not in seen:
                    seen.add(key)
                    yield Question(key, self.messages(judgement, swapped=bool(swapped)))

    def estimate(self, known: set[str]) -> dict[str, Any]:
        """Return requests, tokens and cost of what is not ``known``, before anything is asked.

        Tokens are a guess from letters (four to a token, one Chinese, Japanese or Korean letter to one), and the
        cost is as good as that guess. The largest is that of ``tries`` requests each, with answers of ``max_tokens``.
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
    """Return the questions about ``pairs`` in the capabilities of their tasks, both orders each.

    Args:
        pairs: what to compare. Replies with equal texts are skipped and counted: no judge is needed for them.
        rubric: the tasks and their capabilities.
        config: ``task``, ``tasks`` and ``unknown_task`` say what happens to rows whose task the rubric does not have.

    Raises:
        DataError: a row with an unknown task, or without one where the rubric has several.
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
    place = f"row '{pair.id}' (asked: {short(pair.prompt[-1].content, 40)})"
    if name is None:
        fix = f"say which of {', '.join(names)} such rows are: --set task=NAME; or --set unknown_task=skip"
        raise DataError("it names no task", place=place, fix=fix)
    fix = f"{did_you_mean(name, names)} Else --set tasks.NAME={next(iter(names))} or --set unknown_task=skip"
    raise DataError(f"task '{name}' is not in rubric '{rubric.name}'", place=place, fix=fix)


def _tokens(text: str) -> int:
    wide = len(_WIDE.findall(text))
    return wide + round((len(text) - wide) / _LETTERS_A_TOKEN)
