"""Reward servers with one planted fault each, for the doctor: a local HTTP server with a tiny model.

with served(folder, dialect="vLLM", fault="sigmoid") as url: ...
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from facetrm.core.errors import FacetrmError
from facetrm.data.records import Conversation, Message, conversation
from facetrm.doctor.readings import Reader, mistakes
from facetrm.doctor.server import PATHS
from facetrm.hub.load import load_model
from loopback import serving

LIMIT = 100


@dataclass
class State:
    """State of a faulty server, kept during and between requests."""

    reader: Reader
    lock: threading.Lock = field(default_factory=threading.Lock)
    before: float = 0.0
    inside: int = 0
    noise: random.Random = field(default_factory=lambda: random.Random(0))

    def score(self, messages: Conversation) -> float:
        """Return the model's score of one conversation, scored by itself."""
        with self.lock:
            return self.reader.engine(self.reader.tokenized([messages]), mode="exact")[0]


Score = Callable[[State, Conversation], float]


def _healthy(state: State, messages: Conversation) -> float:
    return state.score(messages)


def _sigmoid(state: State, messages: Conversation) -> float:
    return 1.0 / (1.0 + math.exp(-state.score(messages)))


def _cuts_the_end(state: State, messages: Conversation) -> float:
    words = messages[-1].content.split()[:LIMIT]
    return state.score((*messages[:-1], Message(role="assistant", content=" ".join(words))))


def _cuts_the_beginning(state: State, messages: Conversation) -> float:
    with state.lock:
        (row,) = state.reader.tokenized([messages])
        kept = replace(row, ids=row.ids[-LIMIT:], prompt_end=0, response_start=0)
        return state.reader.engine([kept], mode="exact")[0]


def _by_company(state: State, messages: Conversation) -> float:
    with state.lock:
        state.inside += 1
    time.sleep(0.05)
    with state.lock:
        company = state.inside
    reward = state.score(messages) + 0.1 * (company - 1)
    with state.lock:
        state.inside -= 1
    return reward


def _by_order(state: State, messages: Conversation) -> float:
    own = state.score(messages)
    with state.lock:
        reward, state.before = own + 0.2 * state.before, own
    return reward


def _noisy(state: State, messages: Conversation) -> float:
    return state.score(messages) + state.noise.gauss(0.0, 0.1)


def _ones(_: State, __: Conversation) -> float:
    return 1.0


def _two_bos(state: State, messages: Conversation) -> float:
    with state.lock:
        (row,) = state.reader.tokenized([messages])
        return state.reader.engine([mistakes(state.reader)["double BOS"](row)], mode="exact")[0]


def _breaks(state: State, messages: Conversation) -> float:
    if len(messages[-1].content.split()) > 2 * LIMIT:
        raise RuntimeError("out of memory")
    return state.score(messages)


SERVERS: Mapping[str, tuple[str | None, Score]] = {
    "healthy": (None, _healthy),
    "sigmoid": ("server-activation", _sigmoid),
    "cuts the end": ("server-truncates", _cuts_the_end),
    "cuts the beginning": ("server-truncates", _cuts_the_beginning),
    "company": ("server-batch", _by_company),
    "order": ("server-order", _by_order),
    "noise": ("server-unstable", _noisy),
    "all ones": ("server-constant", _ones),
    "double BOS": ("server-drift", _two_bos),
    "breaks on long text": ("server-fails", _breaks),
    "two labels": ("server-labels", _healthy),
}
"""What is planted, by name: the code that must be found (None: nothing), and how a conversation is scored."""


@contextmanager
def served(folder: Path, *, dialect: str = "vLLM", fault: str = "healthy") -> Iterator[str]:
    """Serve the model in ``folder`` in a ``dialect`` with a ``fault``; yield the address."""
    state = State(Reader(load_model(folder, device="cpu")))
    score = SERVERS[fault][1]
    numbers = 2 if fault == "two labels" else 1

    def handle(path: str, body: Any) -> tuple[int, Any]:
        if path != PATHS[dialect]:  # type: ignore[index]
            return 404, {"detail": "Not Found"}
        try:
            reward = score(state, _messages(body, dialect, state.reader))
        except (FacetrmError, ValueError, KeyError) as exc:
            return 400, {"error": {"message": str(exc)}}
        except RuntimeError as exc:
            return 500, {"error": {"message": str(exc)}}
        return 200, _reply(reward, dialect, numbers)

    with serving(handle, {"/v1/models": {"data": [{"id": "tiny"}]}} if dialect == "vLLM" else {}) as url:
        yield url


def _messages(body: dict[str, Any], dialect: str, reader: Reader) -> Conversation:
    if dialect == "facetrm":
        (turns,) = body["conversations"]
        return conversation(turns)
    if dialect == "vLLM":
        if body["use_activation"] is not False or body["model"] != "tiny":
            raise ValueError("the raw reward of the served model is asked for")
        return conversation(body["messages"])
    (text,) = body["query"]
    return _parsed(text)


def _parsed(text: str) -> Conversation:
    """Return the conversation that the tiny tokenizer's template rendered to ``text``."""
    turns = []
    for part in text.removeprefix("<bos>").split("<end>"):
        role, _, content = part.strip().partition("> ")
        if content:
            turns.append({"role": role.removeprefix("<"), "content": content})
    return conversation(turns)


def _reply(reward: float, dialect: str, numbers: int) -> dict[str, Any]:
    if dialect == "facetrm":
        return {"scores": [{"reward": reward, "truncated": False}], "model": "tiny"}
    if dialect == "vLLM":
        return {"object": "list", "data": [{"index": 0, "probs": [reward] * numbers, "num_classes": numbers}]}
    return {"rewards": [reward], "scores": [reward], "extra_logs": {}}
