"""A chat-completions server of our own on loopback: it judges by a rule, keeps accounts, and fails on demand.

The rule: a reply is as good as the number behind its word ``worth``. A conversation that says ``fond of the first``
gets ``reply_1`` whatever it holds, one that says ``silent`` gets ``cannot_say``, one that says ``refuse`` a refusal.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from raw_server import listening

REPLY = re.compile(r"<<reply_(\d) (\w+)>>\n(.*?)\n<</reply_\1 \2>>", re.DOTALL)
FAULTS = ("429", "500", "503", "timeout", "drop", "half", "html", "no_choices", "chatter")
KEY = "sk-a-key-that-nobody-may-see-0123456789"


def content_of(messages: Any) -> str:
    """Return the server's own name of a question: a hash of its messages."""
    return hashlib.sha256(json.dumps(messages, sort_keys=True).encode()).hexdigest()


@dataclass
class LabelServer:
    """The accounts, and what to do.

    ``fault(content, n)`` says what goes wrong with the n-th request, from 0, for one question: one of FAULTS, a
    ``status:text`` of any other kind, or None. ``schema`` is the status of requests with a schema; None knows schemas.
    Requests after the first ``hold_after`` wait until it is None again; ``holding`` is set when there is one.
    """

    fault: Callable[[str, int], str | None] = lambda content, n: None
    schema: str | None = None
    delay: float = 0.0
    hold_after: int | None = None
    holding: threading.Event = field(default_factory=threading.Event)
    url: str = ""
    asked: Counter[str] = field(default_factory=Counter)
    answered: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    stored: set[str] = field(default_factory=set)
    asked_though_stored: Counter[str] = field(default_factory=Counter)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keep_bodies: bool = True
    keys: set[str] = field(default_factory=set)
    in_flight: int = 0
    most_in_flight: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        try:
            while await self._one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = re.search(r"content-length: (\d+)", head)
        body = json.loads(await reader.readexactly(int(length[1]) if length else 0))
        assert head.startswith("post /v1/chat/completions ")
        authorization = re.search(r"authorization: bearer (.*)\r", head)
        self.keys.add(authorization[1] if authorization else "")
        content = content_of(body["messages"])
        number = self.asked[content]
        self.asked[content] += 1
        self.asked_though_stored[content] += content in self.stored
        if self.keep_bodies:
            self.bodies.append(body)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(self.delay)
            order = self.asked.total()
            while self.hold_after is not None and order > self.hold_after:
                self.holding.set()
                await asyncio.sleep(0.005)
            return await self._answer(reader, writer, body, content, number)
        finally:
            self.in_flight -= 1

    async def _answer(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        body: dict[str, Any],
        content: str,
        number: int,
    ) -> bool:
        fault = self.fault(content, number)
        if fault is None and self.schema and "response_format" in body:
            fault = f"{self.schema}:response_format is not supported here"
        if fault is not None:
            self.faults[fault.split(":")[0]] += 1
            if fault == "timeout":
                await reader.read(1)  # says nothing until the client has gone
                return False
            return await self._fail(writer, body, fault)
        await say(writer, 200, json.dumps(completion(body, judge(body["messages"]))))
        self.answered[content] += 1
        return True

    async def _fail(self, writer: asyncio.StreamWriter, body: dict[str, Any], fault: str) -> bool:
        if fault == "drop":
            return False
        if fault == "half":
            await say(writer, 200, json.dumps(completion(body, judge(body["messages"]))), cut=True)
            return False
        if fault == "429":
            await say(writer, 429, '{"error": {"message": "slow down"}}', "Retry-After-Ms: 20\r\n")
        elif fault == "html":
            await say(writer, 200, "<html>busy</html>")
        elif fault == "no_choices":
            await say(writer, 200, '{"object": "chat.completion", "choices": []}')
        elif fault == "chatter":
            await say(writer, 200, json.dumps(completion(body, {"content": "1. Reply 2 beats reply 1."})))
        else:
            status, _, text = fault.partition(":")
            await say(writer, int(status), json.dumps({"error": {"message": text or "broken"}}))
        return True


def judge(messages: list[dict[str, str]]) -> dict[str, Any]:
    """Return the assistant's message: the verdict of the rule above."""
    text = messages[-1]["content"]
    replies = {number: reply for number, _, reply in REPLY.findall(text)}
    assert set(replies) == {"1", "2"}, text
    worth = {n: float(re.search(r"worth (-?[\d.]+)", reply)[1]) for n, reply in replies.items()}
    if "refuse" in text:
        return {"content": None, "refusal": "I would rather not."}
    if "silent" in text:
        verdict = "cannot_say"
    elif "fond of the first" in text or worth["1"] > worth["2"]:
        verdict = "reply_1"
    else:
        verdict = "tie" if worth["1"] == worth["2"] else "reply_2"
    return {"content": json.dumps({"better": verdict})}


def completion(body: dict[str, Any], message: dict[str, Any]) -> dict[str, Any]:
    """Return a chat completion with this message; a token is four letters."""
    sent = sum(len(m["content"]) for m in body["messages"]) // 4
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": f"{body['model']}-0613",
        "choices": [{"index": 0, "message": {"role": "assistant", **message}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": sent, "completion_tokens": 9, "total_tokens": sent + 9},
    }


async def say(writer: asyncio.StreamWriter, status: int, text: str, headers: str = "", *, cut: bool = False) -> None:
    """Write a response; ``cut`` sends half of the body that was announced."""
    data = text.encode()
    head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n{headers}\r\n"
    writer.write(head.encode() + (data[: len(data) // 2] if cut else data))
    await writer.drain()


@contextmanager
def label_server(server: LabelServer | None = None) -> Iterator[LabelServer]:
    """Serve in a thread of its own, on a free port of this machine."""
    state = server or LabelServer()
    with listening(state.serve) as port:
        state.url = f"http://127.0.0.1:{port}/v1"
        yield state
