"""Asking: many questions at once, each until it is answered or given up, within rate, budget and patience.

wait before try n + 1 = min(longest, first * 2^(n - 1)) * u,  u uniform in [0.5, 1)
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import final

from facetrm.core.errors import LabelError, StoreError
from facetrm.label.client import Fault, Judge, Reply
from facetrm.label.plan import Question
from facetrm.label.settings import LabelConfig
from facetrm.label.store import LabelStore, StoredAnswer
from facetrm.label.verdicts import JudgeVerdict, read_verdict


@final
@dataclass
class AskingOutcome:
    """What came of it.

    Attributes:
        answered: questions answered in this run.
        failures: question key -> why it was given up.
        requests: sent in this run.
        stopped: why the run ended before the last question, or None; ``fatal`` where that is an error.
    """

    answered: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    requests: int = 0
    stopped: str | None = None
    fatal: bool = False


async def ask_all(
    questions: Iterator[Question],
    *,
    judge: Judge,
    store: LabelStore,
    config: LabelConfig,
    heard: Callable[[str, JudgeVerdict | None], None],
    proven: bool = False,
) -> AskingOutcome:
    """Ask every question and keep each answer in the store as soon as it is there.

    Args:
        questions: what to ask; those that a stop leaves over are not drawn from it.
        judge: answers.
        store: where answers go, before anything else.
        config: in_flight, rate, tries, waits and budgets.
        heard: called with the key and the verdict of each question that ended; None where it was given up.
        proven: this judge has answered such questions before, so one that it refuses, or cannot answer in the right
            form, is no sign that it would refuse all.

    Raises:
        StoreError: an answer cannot be kept.
    """
    asking = _Asking(questions, judge, store, config, heard, proven)
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(config.in_flight):
                group.create_task(asking.work())
    except BaseExceptionGroup as exc:
        raise exc.exceptions[0] from None
    return asking.asked


@final
class _Asking:
    """The state that the workers of one run share."""

    def __init__(
        self,
        questions: Iterator[Question],
        judge: Judge,
        store: LabelStore,
        config: LabelConfig,
        heard: Callable[[str, JudgeVerdict | None], None],
        proven: bool,
    ) -> None:
        self.questions, self.judge, self.store, self.config, self.heard = questions, judge, store, config, heard
        self.asked = AskingOutcome()
        self._schema = config.answer_format != "text"
        self._settled = config.answer_format != "auto"
        self._proven, self._failed_in_a_row = proven, 0
        self._next_slot = self._open_at = 0.0
        self._over = asyncio.Event()
        self._unwritten: dict[str, StoredAnswer] = {}
        self._written: asyncio.Future[None] | None = None

    async def work(self) -> None:
        """Take questions until there is none, or the run is stopped."""
        while self.asked.stopped is None:
            question = next(self.questions, None)
            if question is None:
                return
            await self._one(question)

    async def _one(self, question: Question) -> None:
        config = self.config
        tries = unread = 0
        plain = False
        reason = ""
        while True:
            if self.asked.stopped is not None:
                left = f"{reason}; " if reason else "not asked: "
                return self._fail(question, left + self.asked.stopped)
            if not await self._turn():
                continue
            schema = self._schema and not plain
            tries += 1
            said = await self.judge.ask(question.messages, schema=schema)
            if isinstance(said, Reply):
                try:
                    verdict: JudgeVerdict = "cannot_say" if said.refused else read_verdict(said.text)
                except LabelError as exc:
                    unread += 1
                    reason = f"{exc}; it was cut: raise max_tokens" if said.cut else str(exc)
                    self.store.spend(1, tokens_in=said.tokens_in, tokens_out=said.tokens_out)
                else:
                    return await self._keep(question, verdict, said, schema=schema)
            else:
                reason = said.reason
                self.store.spend(1, tokens_in=0, tokens_out=0)
                if said.kind == "refused" and schema and not (self._settled and self._schema):
                    # Perhaps it is the schema that the server refuses: only the same question without it can tell.
                    plain = True
                    continue
                if self._is_over(said):
                    return self._fail(question, reason, own=said.kind == "refused")
            if tries >= config.tries or unread >= config.readings:
                return self._fail(question, f"{reason} (after {tries} tries)", own=unread > 0)
            await self._wait(tries, said.wait if isinstance(said, Fault) else 0.0)

    def _is_over(self, fault: Fault) -> bool:
        if fault.kind == "stop":
            self._stop(f"the server refuses all: {fault.reason}", fatal=True)
        return fault.kind != "again" or fault.wait > self.config.longest_wait

    async def _keep(self, question: Question, verdict: JudgeVerdict, said: Reply, *, schema: bool) -> None:
        await self._put(question.key, StoredAnswer(verdict, said.text, said.model, said.tokens_in, said.tokens_out))
        self.asked.answered += 1
        self._proven, self._failed_in_a_row = True, 0
        if not self._settled:
            self._settled, self._schema = True, schema
        self.heard(question.key, verdict)

    async def _put(self, key: str, answer: StoredAnswer) -> None:
        """Return when the answer is on the disk; answers that arrive together are flushed together."""
        self._unwritten[key] = answer
        if self._written is None:
            loop = asyncio.get_running_loop()
            self._written = loop.create_future()
            loop.call_soon(self._write, self._written)
        await asyncio.shield(self._written)

    def _write(self, written: asyncio.Future[None]) -> None:
        answers, self._unwritten, self._written = self._unwritten, {}, None
        try:
            self.store.put(answers)
        except StoreError as exc:
            written.set_exception(exc)
        else:
            written.set_result(None)

    def _fail(self, question: Question, reason: str, *, own: bool = False) -> None:
        """Give the question up; ``own``: it may be the question's own fault, not the server's."""
        self.asked.failures[question.key] = reason
        self._failed_in_a_row += not (own and self._proven)
        if self._failed_in_a_row >= self.config.give_up_after:
            self._stop(f"{self._failed_in_a_row} questions failed in a row, the last: {reason}", fatal=True)
        self.heard(question.key, None)

    def _stop(self, reason: str, *, fatal: bool) -> None:
        if self.asked.stopped is None:
            self.asked.stopped, self.asked.fatal = reason, fatal
            self._over.set()

    async def _sleep(self, seconds: float) -> None:
        """Sleep, but not beyond the end of the run."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._over.wait(), timeout=seconds)

    async def _turn(self) -> bool:
        """Wait until a request may be sent and count it; False where the budget does not allow one more."""
        config = self.config
        if config.requests_per_minute is not None:
            now = time.monotonic()
            slot = max(now, self._next_slot)
            self._next_slot = slot + 60.0 / config.requests_per_minute
            await self._sleep(slot - now)
        while (left := self._open_at - time.monotonic()) > 0 and self.asked.stopped is None:
            await self._sleep(left + random.uniform(0.0, 0.1 * left))
        if self.asked.stopped is not None:
            return False
        if config.max_requests is not None and self.asked.requests >= config.max_requests:
            self._stop(f"the budget of {config.max_requests} requests is spent", fatal=False)
            return False
        if config.max_cost is not None:
            spent = self.store.spent()
            cost = config.cost(spent.tokens_in, spent.tokens_out)
            if cost is not None and cost >= config.max_cost:
                self._stop(f"the budget of {config.max_cost:g} is spent", fatal=False)
                return False
        self.asked.requests += 1
        return True

    async def _wait(self, tries: int, wanted: float) -> None:
        """Wait before the next try; a server that says how long is left alone that long by everyone."""
        config = self.config
        backoff = min(config.longest_wait, config.first_wait * 2.0 ** min(tries - 1, 60))
        if wanted > 0.0:
            self._open_at = max(self._open_at, time.monotonic() + wanted)
        await self._sleep(max(backoff * random.uniform(0.5, 1.0), wanted * random.uniform(1.0, 1.1)))
