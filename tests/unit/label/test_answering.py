"""Answers of a served model: the conversation is sent as it is, faults are retried, and refusals end it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest

from facetrm.core.errors import LabelError
from facetrm.data.records import Message
from facetrm.label.answering import ServedModel
from facetrm.label.settings import LabelConfig
from raw_server import completion_of, raw_server, response

PROMPT = (Message(role="system", content="Be brief."), Message(role="user", content="What is 2 + 2?"))


def served(url: str, **settings: object) -> ServedModel:
    return ServedModel(LabelConfig(base_url=url, model="m", max_tokens=9, first_wait=0.001, tries=3, **settings))


def test_the_conversation_is_sent_and_the_text_comes_back() -> None:
    with raw_server(completion_of("It is 4.")) as server:
        assert served(server.url, temperature=0.5).answer(PROMPT) == "It is 4."
    body = json.loads(server.requests[0].split(b"\r\n\r\n", 1)[1])
    assert body["messages"] == [m.model_dump(include={"role", "content"}) for m in PROMPT]
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("m", 9, 0.5)
    assert "response_format" not in body


def test_faults_are_retried() -> None:
    replies = [response(b"busy", status="503 Busy"), response(b"", status="429 Slow"), completion_of("4")]

    async def answer(request: bytes) -> AsyncIterator[bytes]:
        yield replies.pop(0)

    with raw_server(answer) as server:
        assert served(server.url).answer(PROMPT) == "4"
        assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("reply", "requests", "says"),
    [
        (response(b"busy", status="503 Busy"), 3, "503.*after 3 tries"),
        (response(b"too long", status="400 Bad"), 1, "400: too long"),
    ],
)
def test_what_cannot_be_answered_is_an_error(reply: bytes, requests: int, says: str) -> None:
    with raw_server(reply) as server, pytest.raises(LabelError, match=says):
        served(server.url).answer(PROMPT)
    assert len(server.requests) == requests


def test_waits_double_up_to_the_longest() -> None:
    config = LabelConfig(model="m", first_wait=2.0, longest_wait=20.0)
    for tries, most in ((1, 2.0), (2, 4.0), (3, 8.0), (4, 16.0), (5, 20.0), (1000, 20.0)):
        waits = [config.backoff(tries) for _ in range(50)]
        assert most / 2 <= min(waits) < max(waits) <= most
