"""Asking: many questions at once, each until it is answered or given up, within rate, budget and patience.

One question goes ahead of the others: a server that is not there, that refuses all, or that is no such API ends the run
before the others are sent.

wait before try n + 1 = min(longest, first * 2^(n - 1)) * u,  u uniform in [0.5, 1)
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, TypeGuard, final

from facetrm.core.errors import LabelError
from facetrm.label.client import Fault, Judge, Reply
from facetrm.label.plan import Question
from facetrm.label.settings import LabelConfig
from facetrm.label.store import LabelStore, StoredAnswer
from facetrm.label.verdicts import JudgeVerdict, read_verdict

_DOUBTS: Final = 3
_SILENCES: Final = 2


@final
@dataclass
class AskingOutcome:
    """What came of it.

    Attributes:
        answered: questions answered in this run.
        failures: question key -> why it was given up.
        permanent: those of them that the server refused for good, so that asking again is in vain.
        requests: sent in this run.
        stopped: why the run ended before the last question, or None.
        fatal: whether that is an error.
        fix: what the user can do about it; empty where nothing is known.
    """

    answered: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    permanent: set[str] = field(default_factory=set)
    requests: int = 0
    stopped: str | None = None
    fatal: bool = False
    fix: str = ""


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
        await asking.go_ahead()
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
        self._alone, self._put_back = False, list[Question]()
        self._tried: Counter[str] = Counter()
        self._next_slot = self._open_at = 0.0
        self._over = asyncio.Event()
        self._unwritten: dict[str, StoredAnswer] = {}
        self._written: asyncio.Future[dict[str, str]] | None = None

    async def go_ahead(self) -> None:
        """Ask one question alone; where what comes is not an answer of such an API, up to two others before the end.

        Several, since a question may be to blame: one that such a server hangs up on would else end every run.
        """
        self._alone = True
        doubts = list[Fault]()
        while len(doubts) < _DOUBTS and sum(fault.cause == "silent" for fault in doubts) < _SILENCES:
            question = next(self.questions, None)
            if question is None:
                if not self._put_back:
                    break
                question = self._put_back.pop(0)
            doubt = await self._one(question)
            if doubt is None:
                break
            doubts.append(doubt)
            if question.key not in self.asked.failures:
                self._put_back.append(question)
            await self._wait(len(doubts), 0.0)
        else:
            common = Counter(fault.reason for fault in doubts).most_common(1)[0][0]
            fix = "give the address of an OpenAI-compatible API; a slow server needs a longer timeout"
            self._stop(f"no usable answer to {len(doubts)} requests: {common}", fatal=True, fix=fix)
            for question in self._put_back:
                self._fail(question, common)
        self._alone = False

    async def work(self) -> None:
        """Take questions until there is none, or the run is stopped."""
        while self.asked.stopped is None:
            question = self._put_back.pop(0) if self._put_back else next(self.questions, None)
            if question is None:
                return
            await self._one(question)

    async def _one(self, question: Question) -> Fault | None:
        """Ask until there is an answer or none is to be had; the one that goes ahead returns what is doubtful."""
        config, key = self.config, question.key
        unread = 0
        plain = False
        reason = ""
        while True:
            if self.asked.stopped is not None:
                left = f"{reason}; " if reason else "not asked: "
                self._fail(question, left + self.asked.stopped)
                return None
            if not await self._turn():
                continue
            schema = self._schema and not plain
            self._tried[key] += 1
            said = await self.judge.ask(question.messages, schema=schema)
            if isinstance(said, Reply):
                try:
                    verdict: JudgeVerdict = "cannot_say" if said.refused else read_verdict(said.text)
                except LabelError as exc:
                    unread += 1
                    reason = f"{exc}; it was cut: raise max_tokens" if said.cut else str(exc)
                    self.store.spend(1, tokens_in=said.tokens_in, tokens_out=said.tokens_out)
                else:
                    await self._keep(question, verdict, said, schema=schema)
                    return None
            else:
                reason = said.reason
                self.store.spend(1, tokens_in=0, tokens_out=0)
                if said.kind == "refused" and schema and not (self._settled and self._schema):
                    # Perhaps it is the schema that the server refuses: only the same question without it can tell.
                    plain = True
                    continue
                if self._is_over(said):
                    refused = said.kind == "refused"
                    self._fail(question, reason, own=refused, permanent=refused)
                    return None
            tries = self._tried[key]
            if tries >= config.tries or unread >= config.readings:
                self._fail(question, f"{reason} (after {tries} tries)", own=unread > 0)
                return said if self._is_doubtful(said) else None
            if self._is_doubtful(said):
                return said
            await self._wait(tries, said.wait if isinstance(said, Fault) else 0.0)

    def _is_doubtful(self, said: Reply | Fault) -> TypeGuard[Fault]:
        return self._alone and isinstance(said, Fault) and said.cause in ("silent", "garbage")

    def _is_over(self, fault: Fault) -> bool:
        if fault.kind == "stop":
            told = "the server refuses all" if fault.cause == "status" else "the server cannot be used"
            self._stop(f"{told}: {fault.reason}", fatal=True, fix=fault.fix)
        elif self._alone and fault.cause == "unreachable":
            fix = "check the address, and that the server is up"
            self._stop(f"the server cannot be reached: {fault.reason}", fatal=True, fix=fix)
            return True
        return fault.kind != "again" or fault.wait > self.config.longest_wait

    async def _keep(self, question: Question, verdict: JudgeVerdict, said: Reply, *, schema: bool) -> None:
        answer = StoredAnswer(verdict, said.text, said.model, said.tokens_in, said.tokens_out)
        problem = await self._put(question.key, answer)
        if problem is not None:
            return self._fail(question, problem, own=True)
        self.asked.answered += 1
        self._proven, self._failed_in_a_row = True, 0
        if not self._settled:
            self._settled, self._schema = True, schema
        return self.heard(question.key, verdict)

    async def _put(self, key: str, answer: StoredAnswer) -> str | None:
        """Return when the answer is on the disk, or why it cannot be there; those that come together are one write."""
        self._unwritten[key] = answer
        if self._written is None:
            loop = asyncio.get_running_loop()
            self._written = loop.create_future()
            loop.call_soon(self._write, self._written)
        return (await asyncio.shield(self._written)).get(key)

    def _write(self, written: asyncio.Future[dict[str, str]]) -> None:
        answers, self._unwritten, self._written = self._unwritten, {}, None
        try:
            written.set_result(self.store.put(answers))
        except BaseException as exc:
            # Whoever waits for it must wake up, whatever happened.
            written.set_exception(exc if isinstance(exc, Exception) else asyncio.CancelledError())
            if not isinstance(exc, Exception):
                raise

    def _fail(self, question: Question, reason: str, *, own: bool = False, permanent: bool = False) -> None:
        """Give the question up.

        Args:
            question: which.
            reason: why.
            own: it may be the question's own fault, not the server's.
            permanent: asking again is in vain.
        """
        self.asked.failures[question.key] = reason
        if permanent:
            self.asked.permanent.add(question.key)
        self._failed_in_a_row += not (own and self._proven)
        if self._failed_in_a_row >= self.config.give_up_after:
            self._stop(f"{self._failed_in_a_row} questions failed in a row, the last: {reason}", fatal=True)
        self.heard(question.key, None)

    def _stop(self, reason: str, *, fatal: bool, fix: str = "") -> None:
        if self.asked.stopped is None:
            self.asked.stopped, self.asked.fatal, self.asked.fix = reason, fatal, fix
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
