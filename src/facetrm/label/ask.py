"""Ask many questions concurrently, within the rate limit and the budget. Each is retried until answered or given up.

One question is sent before the others. If the server is unreachable, refuses every request or does not speak the OpenAI
API, the run ends before the other questions are sent.

wait before try n + 1 = min(longest_wait, first_wait * 2^(n - 1)) * u,  u uniform in [0.5, 1)
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, Generic, TypeGuard, TypeVar, final

from facetrm.core.errors import LabelError
from facetrm.label.client import Fault, Judge, Reply
from facetrm.label.plan import Question
from facetrm.label.settings import LabelConfig
from facetrm.label.store import LabelStore, StoredAnswer
from facetrm.label.verdicts import JudgeVerdict, read_verdict

V = TypeVar("V", bound=str)
_DOUBTS: Final = 3
_SILENCES: Final = 2


@final
@dataclass
class AskingOutcome:
    """The result of asking all questions.

    Attributes:
        answered: the number of questions answered in this run.
        failures: for each question that was given up, the reason, by question key.
        permanent: the keys of the failed questions that the server refuses. Asking them again will not help.
        requests: the number of requests sent in this run.
        stopped: the reason why the run ended early, or None if it did not.
        fatal: whether ending early is an error.
        fix: what the user can do about it; empty if unknown.
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
    heard: Callable[[str, V | None], None],
    read: Callable[[Question, Reply], V],
    proven: bool = False,
) -> AskingOutcome:
    """Ask every question and store each answer as soon as it arrives.

    Args:
        questions: the questions to ask. If the run is stopped, the remaining ones are not drawn from the iterator.
        judge: the judge that answers them.
        store: the store that every answer is written to first.
        config: the settings: concurrency, rate limit, tries, waits and budgets.
        heard: called for each finished question with its key and its verdict, or None if it was given up.
        read: returns the verdict in a reply, or raises LabelError if it holds none. The question is then asked again.
        proven: whether this judge has answered questions like these before. If so, a question that it refuses or
            answers in the wrong form does not count as a sign that the server refuses everything.

    Raises:
        StoreError: the store cannot be written.
    """
    asking = _Asking(questions, judge, store, config, heard, read, proven)
    try:
        await asking.go_ahead()
        async with asyncio.TaskGroup() as group:
            for _ in range(config.in_flight):
                group.create_task(asking.work())
    except BaseExceptionGroup as exc:
        raise exc.exceptions[0] from None
    return asking.asked


def verdict_of(question: Question, reply: Reply) -> JudgeVerdict:
    """Return the verdict in a reply; ``cannot_say`` if the model refused.

    Args:
        question: the question.
        reply: the reply to it.

    Raises:
        LabelError: the reply is not a verdict.
    """
    return "cannot_say" if reply.refused else read_verdict(reply.text)


@final
class _Asking(Generic[V]):
    """The state shared by the workers of one run."""

    def __init__(
        self,
        questions: Iterator[Question],
        judge: Judge,
        store: LabelStore,
        config: LabelConfig,
        heard: Callable[[str, V | None], None],
        read: Callable[[Question, Reply], V],
        proven: bool,
    ) -> None:
        self.questions, self.judge, self.store, self.config, self.heard = questions, judge, store, config, heard
        self.read = read
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
        """Ask one question before the others. If the reply is not usable, ask up to two more and then stop the run.

        More than one is tried because the question itself may be the cause. A server can hang up on one particular
        question, and that question alone must not end every run.
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
            fix = "give the address of an OpenAI-compatible API, or raise timeout if the server is slow"
            self._stop(f"no usable answer to {len(doubts)} requests: {common}", fatal=True, fix=fix)
            for question in self._put_back:
                self._fail(question, common)
        self._alone = False

    async def work(self) -> None:
        """Ask questions until none is left or the run is stopped."""
        while self.asked.stopped is None:
            question = self._put_back.pop(0) if self._put_back else next(self.questions, None)
            if question is None:
                return
            await self._one(question)

    async def _one(self, question: Question) -> Fault | None:
        """Ask until the question is answered or given up.

        Returns:
            While the first question is tried on its own: a fault that suggests the server is unusable. Otherwise None.
        """
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
                    verdict = self.read(question, said)
                except LabelError as exc:
                    unread += 1
                    reason = f"{exc}; it was cut off: raise max_tokens" if said.cut else str(exc)
                    self.store.spend(1, tokens_in=said.tokens_in, tokens_out=said.tokens_out)
                else:
                    await self._keep(question, verdict, said, schema=schema)
                    return None
            else:
                reason = said.reason
                self.store.spend(1, tokens_in=0, tokens_out=0)
                if said.kind == "refused" and schema and not (self._settled and self._schema):
                    # The server may be refusing the schema. Only the same question without a schema can tell.
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
            told = "the server refuses every request" if fault.cause == "status" else "the server cannot be used"
            self._stop(f"{told}: {fault.reason}", fatal=True, fix=fault.fix)
        elif self._alone and fault.cause == "unreachable":
            fix = "check the address, and check that the server is running"
            self._stop(f"the server cannot be reached: {fault.reason}", fatal=True, fix=fix)
            return True
        return fault.kind != "again" or fault.wait > self.config.longest_wait

    async def _keep(self, question: Question, verdict: V, said: Reply, *, schema: bool) -> None:
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
        """Wait until the answer is on disk; answers that arrive together share one write.

        Returns:
            None, or the reason why the answer cannot be stored.
        """
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
            # The coroutines that await this write must wake up, whatever happened.
            written.set_exception(exc if isinstance(exc, Exception) else asyncio.CancelledError())
            if not isinstance(exc, Exception):
                raise

    def _fail(self, question: Question, reason: str, *, own: bool = False, permanent: bool = False) -> None:
        """Give a question up.

        Args:
            question: the question to give up.
            reason: why it is given up.
            own: whether the question itself, not the server, may be the cause.
            permanent: whether asking again would not help.
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
        """Sleep for ``seconds``, or until the run is stopped."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._over.wait(), timeout=seconds)

    async def _turn(self) -> bool:
        """Wait until a request may be sent, and count it. Return False if the run stopped or the budget is spent."""
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
        """Wait before the next try. A wait that the server asked for (``wanted`` seconds) applies to all workers."""
        if wanted > 0.0:
            self._open_at = max(self._open_at, time.monotonic() + wanted)
        await self._sleep(max(self.config.backoff(tries), wanted * random.uniform(1.0, 1.1)))


def refuse_running_loop(call: str) -> None:
    """Raise LabelError if an event loop is already running, as in a notebook.

    Args:
        call: the call that starts a loop of its own, as the user would write it.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    function, arguments = call.removesuffix(")").split("(", 1)
    fix = f"write await asyncio.to_thread({function}, {arguments})"
    raise LabelError("an event loop is already running, as in a notebook", place=function, fix=fix)
