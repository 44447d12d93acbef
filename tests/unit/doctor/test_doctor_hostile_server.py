"""``doctor URL`` against servers that lie, drip, send on and repeat the key: it ends in time and gives nothing away."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from command_line import assert_refused, command
from facetrm.core.errors import FacetrmError, ModelError
from facetrm.core.web.key import ServerKey
from facetrm.data.read.files import write_records
from facetrm.data.records import Message, Preference
from facetrm.doctor.diagnosis import diagnose_server
from facetrm.doctor.server import connect
from fakes import chat
from raw_server import JUNK, LIES, Answer, raw_server, response

SECRET = "sk-nobody-may-see-this-0123456789"
ASKED = chat("what is private ?", "a private answer")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    responses = tuple(Message(role="assistant", content=text) for text in ("yes", "a longer no"))
    asked = Preference(id="a", prompt=(Message(role="user", content="what ?"),), responses=responses)
    write_records(tmp_path / "rows.jsonl", [asked])
    return tmp_path / "rows.jsonl"


def ending(answer: Answer) -> tuple[str, FacetrmError, float]:
    began = time.monotonic()
    with raw_server(answer) as server, pytest.raises(ModelError) as caught:
        connect(server.url, ASKED, timeout=0.4)
    return server.url, caught.value, time.monotonic() - began


def test_every_lie_ends_in_time_with_a_reason() -> None:
    lies = {**LIES, **JUNK}
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(ending, lies.values()))
    for name, (url, error, seconds) in zip(lies, found, strict=True):
        assert seconds < 5.0, name
        assert error.fix, name
        assert str(error.place).startswith(url), name
        assert len(str(error)) < 800, name
        assert str(error).isprintable(), (name, str(error))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_conversations_and_key_are_not_sent_on(status: int) -> None:
    with raw_server(response(b'{"scores": [{"reward": 1.0}]}')) as elsewhere:
        for first in (True, False):

            async def answer(request: bytes, first: bool = first) -> AsyncIterator[bytes]:
                away = response(b"", f"Location: {elsewhere.url}/v1/rewards", status=f"{status} Moved")
                yield away if first or b"private" in request else response(b"{}", status="422 No")

            with raw_server(answer) as server, pytest.raises(ModelError, match="redirects are not followed") as caught:
                connect(server.url, ASKED, timeout=9.0, key=ServerKey(SECRET))
            assert elsewhere.url in str(caught.value)
    assert elsewhere.requests == []


def test_a_server_that_wants_a_key_gets_it_by_name(rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def locked(request: bytes) -> AsyncIterator[bytes]:
        if f"Authorization: Bearer {SECRET}\r\n".encode() not in request:
            yield response(b'{"error": "a key is wanted"}', status="401 Unauthorized")
        elif b"conversations" not in request:
            yield response(b"{}", status="422 No")
        else:
            turns = json.loads(request.partition(b"\r\n\r\n")[2])["conversations"][0]
            words = float(sum(len(turn["content"].split()) for turn in turns))
            yield response(json.dumps({"scores": [{"reward": words}]}).encode())

    with raw_server(locked) as server:
        line = ["doctor", server.url, "--data", rows, "--timeout", "20"]
        assert_refused(command(*line), server.url, "HTTP 401", "a key is wanted", "--key-env NAME")
        monkeypatch.setenv("MY_KEY", SECRET)
        said = command(*line, "--key-env", "MY_KEY")
        assert said.code == 0, said
        monkeypatch.setenv("MY_KEY", "sk-wrong-key-0123456789")
        wrong = command(*line, "--key-env", "MY_KEY")
        assert_refused(wrong, "HTTP 401", "check the key")
        monkeypatch.delenv("MY_KEY")
        assert_refused(command(*line, "--key-env", "MY_KEY"), "--key-env: the environment variable MY_KEY is not set")
        assert_refused(command(*line, "--key-env", SECRET), "--key-env: not the name of an environment variable")
    assert_refused(command("doctor", rows.parent, "--key-env", "MY_KEY"), "--key-env: --key-env needs a server")
    assert all(SECRET not in text and "sk-wrong" not in text for text in (said.out, said.err, wrong.out, wrong.err))


@pytest.mark.parametrize("status", ["200 OK", "400 Bad", "401 No", "500 Broken"])
def test_a_server_that_repeats_the_key_does_not_spread_it(status: str) -> None:
    async def repeats(request: bytes) -> AsyncIterator[bytes]:
        empty = b"private" not in request
        told = json.dumps({"scores": f"{'.' * 30} {SECRET}", "detail": f"Bearer {SECRET}"}).encode()
        yield response(told, status="422 No" if empty and status != "401 No" else status)

    with raw_server(repeats) as server, pytest.raises(ModelError) as caught:
        connect(server.url, ASKED, timeout=9.0, key=ServerKey(SECRET))
    assert SECRET.encode() in server.requests[0]
    assert "***" in str(caught.value)
    assert "nobody" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://me:{}@127.0.0.1:9/v1/rewards", "http://127.0.0.1:9?key={}", "HTTP://{}@"])
def test_no_secret_of_an_address_is_shown(url: str, rows: Path) -> None:
    for more in ([], ["--data", rows], ["--data", rows, "--against", rows.parent]):
        said = command("doctor", url.format(SECRET), *more)
        assert_refused(said, "the address contains a user, a password or a query")
        assert SECRET not in said.err
    with pytest.raises(ModelError) as caught:
        diagnose_server(f"http://me:{SECRET}@127.0.0.1:9", [[ASKED]])
    assert SECRET not in str(caught.value)


def test_with_a_proxy_in_the_environment_this_machine_is_asked_straight(monkeypatch: pytest.MonkeyPatch) -> None:
    with raw_server() as proxy, raw_server(response(b'{"scores": [{"reward": 1.0}]}')) as server:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        assert connect(server.url, ASKED, timeout=9.0).dialect == "facetrm"
    assert proxy.requests == []
