"""Labelling against servers that lie, drip, flood and send on: it ends soon, with a reason, the address and a fix."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from command_line import assert_refused, command
from facetrm.core.errors import LabelError, StoreError
from facetrm.data.read.files import write_records
from facetrm.label.client import Fault, Reply
from facetrm.label.run import label_pairs
from facetrm.label.store import LabelStore, stored_keys
from label_samples import plan, preference
from label_server import KEY, LabelServer, label_server
from raw_server import JUNK, LIES, Answer, completion_of, raw_server, response

IMPATIENT = {"timeout": 0.4, "tries": 2, "give_up_after": 4}
VERDICT = '{"better": "reply_1"}'


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def ending(answer: Answer, out: Path, **settings: Any) -> tuple[LabelError, float]:
    """Return the error with which labelling ended, and the seconds that it took."""
    began = time.monotonic()
    with raw_server(answer) as server, pytest.raises(LabelError) as caught:
        label_pairs(plan(server.url, **{**IMPATIENT, **settings}), out, quiet=True)
    assert caught.value.place == server.url
    return caught.value, time.monotonic() - began


def test_every_lie_ends_a_run_soon_with_a_reason(tmp_path: Path) -> None:
    lies = {**LIES, **JUNK}
    folders = [tmp_path / str(n) for n in range(len(lies))]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(ending, lies.values(), folders))
    for name, (error, seconds) in zip(lies, found, strict=True):
        text = str(error)
        assert seconds < 10.0, name
        assert error.fix, name
        assert len(text) < 1000, name
        assert text.isprintable(), (name, text)
        assert "internal error" not in text, name
    by_name = dict(zip(lies, (str(error) for error, _ in found), strict=True))
    assert "no usable answer to 2 requests: no whole answer within 0.4 s" in by_name["silence"]
    assert "larger than 4 MiB" in by_name["a gzip bomb"]
    assert "the server redirects to 'http://127.0.0.1:1/elsewhere'" in by_name["sent on"]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_prompts_and_key_are_not_sent_on(status: int, tmp_path: Path) -> None:
    with raw_server(completion_of(VERDICT)) as elsewhere:
        away = response(b"", f"Location: {elsewhere.url}/v1/chat/completions", status=f"{status} Moved")
        error, _ = ending(away, tmp_path)
    assert elsewhere.requests == []
    assert elsewhere.url in str(error)
    assert "give it as base_url" in str(error)


def test_with_a_proxy_in_the_environment_prompts_go_straight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with raw_server() as proxy, label_server() as server:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        assert len(label_pairs(plan(server.url), tmp_path, quiet=True).preferences) == 12
    assert proxy.requests == []


# --- answers that cannot be stored


@pytest.mark.parametrize("in_flight", [1, 4])
@pytest.mark.parametrize(
    "answer",
    [
        completion_of(VERDICT, model="half \ud83d a pair"),
        completion_of(f"<think>\ud83d</think>{VERDICT}"),
        completion_of(f"<think>\x00</think>{VERDICT}"),
        completion_of(VERDICT, usage={"prompt_tokens": "12", "completion_tokens": True}),
        completion_of(f"{VERDICT}<|im_end|>"),
        completion_of(f"so it is the first</think>\n\n{VERDICT}</s>\n"),
    ],
)
def test_odd_but_readable_replies_are_kept(answer: bytes, in_flight: int, tmp_path: Path) -> None:
    with raw_server(answer) as server:
        made = plan(server.url, in_flight=in_flight)
        assert label_pairs(made, tmp_path, quiet=True).report["answered"] == 24
    assert stored_keys(tmp_path) == made.keys


@pytest.mark.parametrize("tokens", [2**63, 2**63 - 1, 10**30, -1])
@pytest.mark.parametrize("in_flight", [1, 4])
def test_a_count_that_cannot_be_is_named_and_a_later_run_goes_on(tokens: int, in_flight: int, tmp_path: Path) -> None:
    answer = completion_of(VERDICT, usage={"prompt_tokens": tokens, "completion_tokens": 1})
    error, seconds = ending(answer, tmp_path, in_flight=in_flight)
    assert "the body is not a chat completion: it reports" in str(error)
    assert seconds < 10.0
    with label_server() as server:
        assert label_pairs(plan(server.url), tmp_path, quiet=True).report["answered"] == 24


class Scripted:
    """A judge of others, whose replies come as they are."""

    def __init__(self, odd: Reply) -> None:
        self.odd, self.asked = odd, 0

    async def ask(self, messages: Any, *, schema: bool) -> Reply | Fault:
        self.asked += 1
        return self.odd if self.asked % 5 == 3 else Reply(VERDICT, "m", 1, 1)


ODD = [
    Reply(VERDICT + " ", "half \ud83d", 1, 1),
    Reply(f"<think>\ud83d</think>{VERDICT}", "m", 1, 1),
    Reply(VERDICT, "m", 2**63, 1),
    Reply(VERDICT, "m", 2**62, 1),
    Reply(VERDICT, "m", -5, 1),
    Reply(VERDICT, "m", 1.5, 1),  # type: ignore[arg-type]
    Reply(VERDICT, {"no": "text"}, 1, 1),  # type: ignore[arg-type]
    Reply(VERDICT, None, 1, 1),  # type: ignore[arg-type]
]


@pytest.mark.parametrize("in_flight", [1, 4])
@pytest.mark.parametrize("odd", ODD, ids=range(len(ODD)))
def test_what_the_store_cannot_hold_fails_alone(odd: Reply, in_flight: int, tmp_path: Path) -> None:
    labelled = label_pairs(plan(in_flight=in_flight), tmp_path, make_judge=lambda _: Scripted(odd), quiet=True)
    report = labelled.report
    assert 3 <= report["failed"] <= 5
    assert report["answered"] == 24 - report["failed"]
    assert all(row["reason"].startswith("the answer cannot be stored (") for row in labelled.failures)
    assert report["folder"]["requests"] == 24
    fine = Scripted(Reply(VERDICT, "m", 1, 1))
    assert label_pairs(plan(), tmp_path, make_judge=lambda _: fine, quiet=True).report["answered"] == 24
    assert fine.asked == report["failed"]


@pytest.mark.parametrize("in_flight", [1, 4])
@pytest.mark.parametrize("error", [RuntimeError("odd"), OverflowError("odd"), MemoryError(), KeyError("x")])
def test_a_writer_that_fails_in_any_way_ends_the_run_and_locks_nothing(
    error: Exception, in_flight: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, calls = LabelStore._problem, []

    def fails(store: LabelStore, *args: Any) -> str | None:
        calls.append(1)
        if len(calls) == 7:
            store._base.execute("BEGIN IMMEDIATE")
            store._guard(lambda: (_ for _ in ()).throw(error))
        return whole(store, *args)

    monkeypatch.setattr(LabelStore, "_problem", fails)
    with label_server() as server:
        with pytest.raises(StoreError, match=r"labels\.sqlite: .*; .+"):
            label_pairs(plan(server.url, in_flight=in_flight), tmp_path, quiet=True)
        monkeypatch.undo()
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        assert label_pairs(plan(server.url), tmp_path, quiet=True).report["answered"] == 24


# --- the question that goes ahead


@pytest.mark.parametrize(
    ("said", "told", "fix"),
    [
        ("401:no", "the server refuses every request: HTTP 401", "check the key in OPENAI_API_KEY"),
        ("403:no", "the server refuses every request: HTTP 403", "check the key in OPENAI_API_KEY"),
        ("404:no", "the server refuses every request: HTTP 404", "most addresses end in /v1"),
        ("404:The model `m` does not exist", "HTTP 404", "the server has no model 'judge'"),
        ("400:model_not_found", "HTTP 400", "the server has no model 'judge'"),
        ("422:unknown model judge", "HTTP 422", "the server has no model 'judge'"),
    ],
)
def test_one_question_finds_what_is_wrong_for_all(said: str, told: str, fix: str, tmp_path: Path) -> None:
    with label_server(LabelServer(fault=lambda content, n: said)) as server:
        with pytest.raises(LabelError, match=told) as caught:
            label_pairs(plan(server.url), tmp_path, quiet=True)
        assert server.asked.total() <= 2, "once with a schema, once without"
    assert caught.value.place == server.url
    assert fix in str(caught.value)


def test_a_question_that_breaks_the_server_does_not_end_every_run(tmp_path: Path) -> None:
    with label_server() as server:
        first: list[str] = []

        def drop(content: str, n: int) -> str | None:
            first.append(content)
            return "drop" if content == first[0] else None

        server.fault = drop
        report = label_pairs(plan(server.url, tries=3), tmp_path, quiet=True).report
        assert (report["answered"], report["failed"], report["refused"]) == (23, 1, 0)
        assert server.asked[first[0]] == 3


def test_nothing_answered_is_an_error_on_the_screen(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    write_records(rows, [preference(0, 2, 1, task="chat")])
    line = ["label", "--data", rows, "--rubric", "general", "--model", "m", "--out", tmp_path / "out"]
    said = command(*line, "--base-url", "http://127.0.0.1:9/v1")
    assert_refused(said, "http://127.0.0.1:9/v1: the server cannot be reached", "connection refused")
    with label_server(LabelServer(fault=lambda content, n: "400:too long")) as server:
        said = command(*line, "--base-url", server.url)
    assert_refused(said, server.url, "no question was answered", "(8 of 8): HTTP 400", "too long", "failures.jsonl")
    assert [json.loads(row)["permanent"] for row in (tmp_path / "out/failures.jsonl").open()] == [True] * 8
