"""Ask a judge many questions, each once: answers are stored in SQLite, so a later run asks only what is missing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from facetrm.core.errors import LabelError
from facetrm.core.fingerprint import fingerprint
from facetrm.label.ask import AskingOutcome, ask_all, refuse_running_loop
from facetrm.label.client import Judge, Reply, judge_address
from facetrm.label.plan import Question
from facetrm.label.settings import LabelConfig
from facetrm.label.store import LabelStore


@final
@dataclass(frozen=True)
class JudgeFailure:
    """A group of answers, or a single answer, that a judge did not judge.

    Attributes:
        key: Key of the group (:func:`group_key`), or of the conversation if answers are rated one by one.
        reason: Why.
    """

    key: str
    reason: str


@final
@dataclass(frozen=True)
class JudgeAnswers:
    """The answers to some questions.

    Attributes:
        readings: What was read from the reply to each question, by question key.
        failures: Why a question has no answer, by question key.
    """

    readings: Mapping[str, str]
    failures: Mapping[str, str]


def group_key(conversations: Sequence[Sequence[Any]]) -> str:
    """Return the key of a group of conversations: a fingerprint of their texts, in their order.

    Args:
        conversations: The conversations of the group, each a sequence of messages.
    """
    return fingerprint([[[message.role, message.content] for message in c] for c in conversations])


@final
class JudgeStore:
    """A judge with a memory, and an account of what it cost.

    Args:
        config: Judge, address, sampling, retries, rate limits, budgets and prices.
        folder: Folder of the answers; it is created if it does not exist.
        judge: The judge that answers.
        read: Returns the text to store for a reply, or raises LabelError.
    """

    def __init__(self, config: LabelConfig, folder: Path, judge: Judge, read: Callable[[Question, Reply], str]) -> None:
        self.config, self.folder = config, folder
        self._judge, self._read = judge, read
        self.requests = self.answered = 0

    def ask(self, questions: Sequence[Question]) -> JudgeAnswers:
        """Return the answer to each question. Those that are stored are not asked again.

        Args:
            questions: The questions.

        Raises:
            LabelError: The server cannot be used, or an event loop is already running. Earlier answers are kept.
            StoreError: The store cannot be used, or another run has it open.
        """
        refuse_running_loop("scorer.score(conversations)")
        with LabelStore(self.folder) as store:
            known = store.readings()
            new = list({q.key: q for q in questions if q.key not in known}.values())
            outcome = asyncio.run(self._ask_all(new, store, known)) if new else AskingOutcome()
            self.requests += outcome.requests
            self.answered += outcome.answered
        if outcome.fatal:
            fix = outcome.fix or "fix the cause and run it again; the answers so far are stored"
            raise LabelError(str(outcome.stopped), place=judge_address(self.config), fix=fix)
        missing = f"not asked: {outcome.stopped}"
        failures = {q.key: outcome.failures.get(q.key, missing) for q in questions if q.key not in known}
        return JudgeAnswers({q.key: known[q.key] for q in questions if q.key in known}, failures)

    async def _ask_all(self, new: list[Question], store: LabelStore, known: dict[str, Any]) -> AskingOutcome:
        def hear(key: str, reading: str | None) -> None:
            if reading is not None:
                known[key] = reading

        return await ask_all(
            iter(new),
            judge=self._judge,
            store=store,
            config=self.config,
            heard=hear,
            read=self._read,
            proven=bool(known),
        )

    def cost(self) -> dict[str, Any]:
        """Return what the folder has cost so far, and the requests of this process.

        Returns:
            ``requests``, ``tokens_in``, ``tokens_out`` and ``cost`` of the folder (None without prices), and
            ``requests_now`` and ``answered_now`` of this process.
        """
        with LabelStore(self.folder) as store:
            spent = store.spent()
        return {
            "requests": spent.requests,
            "tokens_in": spent.tokens_in,
            "tokens_out": spent.tokens_out,
            "cost": self.config.cost(spent.tokens_in, spent.tokens_out),
            "requests_now": self.requests,
            "answered_now": self.answered,
        }
