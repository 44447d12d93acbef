"""Labelling against a real server on loopback that fails in every way it can."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from facetrm.core.errors import LabelError, StoreError
from facetrm.data.read.files import read_preferences
from facetrm.label.pairs import preference_pairs
from facetrm.label.run import label_pairs
from facetrm.label.store import LabelStore, stored_keys
from label_samples import plan, preference, rubric
from label_server import FAULTS, KEY, LabelServer, label_server


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[LabelServer]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with label_server() as running:
        yield running


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_labels_are_those_of_the_judge(server: LabelServer, tmp_path: Path) -> None:
    made = plan(server.url)
    labelled = label_pairs(made, tmp_path, quiet=True)
    assert read_preferences(tmp_path / "preferences.jsonl") == labelled.preferences
    assert [(p.id, p.aspect, p.task) for p in labelled.preferences] == [
        (f"row{n}#chat/{name}", f"chat/{name}", "chat") for n in range(6) for name in ("kind", "clear")
    ]
    for found in labelled.preferences:
        assert [r.content[-1] for r in found.responses] == ["2", "1"]
        assert found.meta == {"judge": "judge", "rubric": "small"}
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert report == json.loads(json.dumps(labelled.report))
    assert report["all"]["keep_rate"] == 1.0
    assert report["models_that_answered"] == {"judge-0613": 24}
    assert report["folder"]["requests"] == report["this_run"]["requests"] == len(server.bodies) == 24
    assert report["folder"]["tokens_out"] == 24 * 9
    given = report["with_given"]["chat/kind"]["overall"]
    assert (given["pairs"], given["agreement"]) == (6, pytest.approx(4 / 6))
    assert report["between_capabilities"] == [
        {"capabilities": ["chat/kind", "chat/clear"], "pairs": 6, "agreement": 1.0}
    ]


def test_a_request_is_what_the_settings_say(server: LabelServer, tmp_path: Path) -> None:
    label_pairs(plan(server.url, extra={"top_k": 1}, max_tokens=11), tmp_path / "a", quiet=True)
    body = server.bodies[0]
    assert (body["model"], body["temperature"], body["seed"], body["max_tokens"]) == ("judge", 0.0, 0, 11)
    assert body["top_k"] == 1
    assert body["response_format"]["json_schema"]["strict"] is True
    server.bodies.clear()
    bare = {"temperature": None, "seed": None, "max_tokens_field": "max_completion_tokens", "answer_format": "text"}
    label_pairs(plan(server.url, **bare), tmp_path / "b", quiet=True)
    assert set(server.bodies[0]) == {"model", "messages", "max_completion_tokens"}
    assert server.keys == {KEY}
    assert 1 < server.most_in_flight <= 4


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_passes_costs_requests_and_no_label(server: LabelServer, fault: str, tmp_path: Path) -> None:
    server.fault = lambda content, n: fault if n == 0 and int(content[0], 16) < 8 else None
    made = plan(server.url, timeout=1.5 if fault == "timeout" else 10.0, in_flight=24)
    labelled = label_pairs(made, tmp_path, quiet=True)
    assert server.faults[fault] > 3, "the fault happened"
    assert labelled.failures == lines(tmp_path / "failures.jsonl") == []
    assert len(labelled.preferences) == 12
    assert labelled.report["folder"]["requests"] == 24 + server.faults[fault] == server.asked.total()
    assert set(server.answered.values()) == {1}


REASONS = {
    "429": "HTTP 429",
    "503": "HTTP 503",
    "timeout": "no whole answer within 1.5 s",
    "drop": "the connection failed",
    "half": "the connection failed",
    "html": "the body is not a chat completion: '<html>busy</html>'",
    "no_choices": "the body is not a chat completion",
    "chatter": "the reply '1. Reply 2 beats reply 1.' is not a verdict",
    "400:too long": "HTTP 400",
}


@pytest.mark.parametrize(("fault", "reason"), REASONS.items())
def test_a_fault_that_stays_names_the_question(server: LabelServer, fault: str, reason: str, tmp_path: Path) -> None:
    made = plan(server.url, timeout=1.5 if fault == "timeout" else 10.0, tries=3, answer_format="schema")
    label_pairs(made, tmp_path / "first", quiet=True)
    bad = sorted(server.asked)[:2]
    server.fault = lambda content, n: fault if content in bad else None
    server.asked.clear()
    labelled = label_pairs(made, tmp_path / "second", quiet=True)
    tries = {"chatter": 2, "400:too long": 1}.get(fault, 3)
    assert [server.asked[content] for content in bad] == [tries, tries]
    failures = lines(tmp_path / "second" / "failures.jsonl")
    assert len(failures) == len({row["key"] for row in failures}) == 2
    for row in failures:
        assert row["reason"].startswith(reason), row
        assert row["key"] in made.keys
    assert labelled.report["failed"] == labelled.report["questions"] - labelled.report["answered"] == 2
    judged = {(row["id"], row["aspect"]) for row in failures}
    assert {p.id for p in labelled.preferences} == {
        f"{j.pair.id}#{j.aspect}" for j in made.judgements if (j.pair.id, j.aspect) not in judged
    }
    server.fault = lambda content, n: None
    server.asked.clear()
    assert len(label_pairs(made, tmp_path / "second", quiet=True).preferences) == 12
    assert server.asked == dict.fromkeys(bad, 1), "only what had no answer is asked"
    assert lines(tmp_path / "second" / "failures.jsonl") == []


def test_what_is_not_kept_is_named(server: LabelServer, tmp_path: Path) -> None:
    rows = preference_pairs(
        [
            preference(0, 2, 2),
            preference(1, 2, 1, says="fond of the first"),
            preference(2, 2, 1, says="silent"),
            preference(3, 2, 1, says="refuse"),
            preference(4, 1, 2),
        ]
    )
    labelled = label_pairs(plan(server.url, rows=rows, of=rubric("kind")), tmp_path, quiet=True)
    assert [(row["id"], row["outcome"]) for row in lines(tmp_path / "undecided.jsonl")] == [
        ("row0", "tie"),
        ("row1", "first_twice"),
        ("row2", "cannot_say"),
        ("row3", "cannot_say"),
    ]
    assert [p.id for p in labelled.preferences] == ["row4#chat/kind"]
    whole = labelled.report["all"]
    assert (whole["keep_rate"], whole["position_bias_rate"], whole["first_share"]) == (0.2, 0.5, 1.0)
    assert whole["outcomes"]["tie"] == 1
    assert whole["outcomes"]["cannot_say"] == 2


@pytest.mark.parametrize("status", ["400", "404", "422", "501"])
def test_a_server_without_schemas_is_asked_in_words(server: LabelServer, status: str, tmp_path: Path) -> None:
    server.schema = status
    assert len(label_pairs(plan(server.url), tmp_path / "auto", quiet=True).preferences) == 12
    assert server.faults[status] <= 4, "only until it is known"
    server.faults.clear()
    strict = plan(server.url, answer_format="schema", give_up_after=99)
    with pytest.raises(LabelError, match=r"no question was answered.*24 of 24.*response_format is not supported here"):
        label_pairs(strict, tmp_path / "schema", quiet=True)
    assert server.faults[status] == 24
    assert "response_format is not supported here" in lines(tmp_path / "schema" / "failures.jsonl")[0]["reason"]


def test_a_rerun_asks_nothing_twice(server: LabelServer, tmp_path: Path) -> None:
    small = plan(server.url, max_requests=10)
    labelled = label_pairs(small, tmp_path, quiet=True)
    assert server.asked.total() == labelled.report["this_run"]["requests"] == 10
    assert labelled.report["stopped"] == "the budget of 10 requests is spent"
    assert {row["reason"] for row in labelled.failures} == {"not asked: the budget of 10 requests is spent"}
    assert len(labelled.failures) == 14
    label_pairs(plan(server.url), tmp_path, quiet=True)
    assert server.asked.total() == 24
    assert set(server.asked.values()) == {1}
    label_pairs(plan(server.url), tmp_path, quiet=True)
    more = plan(server.url, rows=preference_pairs([preference(n, 2, 1) for n in range(8)]))
    label_pairs(more, tmp_path, quiet=True)
    assert set(server.asked.values()) == {1}
    assert server.asked.total() == len(stored_keys(tmp_path)) > 24


def test_the_budget_of_money_ends_a_run(server: LabelServer, tmp_path: Path) -> None:
    priced = plan(server.url, price_in=0.0, price_out=1e6, max_cost=90.0, in_flight=1)
    report = label_pairs(priced, tmp_path, quiet=True).report
    assert report["folder"]["cost"] == 90.0
    assert server.asked.total() == 10
    assert report["stopped"] == "the budget of 90 is spent"


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_of_everything_stops_at_once(server: LabelServer, status: int, tmp_path: Path) -> None:
    label_pairs(plan(server.url, max_requests=5, in_flight=1), tmp_path, quiet=True)
    server.fault = lambda content, n: f"{status}:no such thing"
    server.asked.clear()
    with pytest.raises(
        LabelError, match=f"the server refuses every request: HTTP {status}.*5 of 24 questions are answered"
    ):
        label_pairs(plan(server.url), tmp_path, quiet=True)
    assert server.asked.total() <= (8 if status == 404 else 4), "a 404 can be about the schema: asked without it too"
    assert len(stored_keys(tmp_path)) == 5
    assert len(lines(tmp_path / "failures.jsonl")) == 19


def test_a_spent_quota_is_not_waited_for(server: LabelServer, tmp_path: Path) -> None:
    server.fault = lambda content, n: "429:insufficient_quota"
    with pytest.raises(LabelError, match="the server refuses every request: HTTP 429"):
        label_pairs(plan(server.url), tmp_path, quiet=True)
    assert server.asked.total() <= 4


def test_a_dead_server_is_given_up(tmp_path: Path) -> None:
    dead = plan("http://127.0.0.1:9/v1")
    said = r"127\.0\.0\.1:9/v1: the server cannot be reached: the connection failed \(connection refused\)"
    with pytest.raises(LabelError, match=said):
        label_pairs(dead, tmp_path, quiet=True)
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert report["this_run"]["requests"] == 1, "one question goes ahead of all"
    assert len(lines(tmp_path / "failures.jsonl")) == 24


def test_questions_that_are_refused_do_not_end_the_run_of_a_judge_that_answers(
    server: LabelServer, tmp_path: Path
) -> None:
    refusing = plan(server.url, give_up_after=3)
    server.fault = lambda content, n: "400:too long"
    with pytest.raises(LabelError, match="3 questions failed in a row, the last: HTTP 400"):
        label_pairs(refusing, tmp_path / "new", quiet=True)
    server.fault = lambda content, n: "400:too long" if int(content[0], 16) >= 4 else None
    label_pairs(plan(server.url, give_up_after=99), tmp_path, quiet=True)
    labelled = label_pairs(refusing, tmp_path, quiet=True)
    assert len(labelled.failures) > 3, "all were asked again, and none ended the run"
    assert all(row["reason"].startswith("HTTP 400") for row in labelled.failures)


def test_a_wish_to_wait_is_granted_up_to_a_limit(server: LabelServer, tmp_path: Path) -> None:
    server.fault = lambda content, n: "429" if n == 0 else None  # asks for 20 ms
    began = time.monotonic()
    label_pairs(plan(server.url, in_flight=24, first_wait=0.0001), tmp_path / "a", quiet=True)
    assert time.monotonic() - began >= 0.02
    assert server.asked.total() == 48
    server.fault = lambda content, n: "429"
    with pytest.raises(LabelError, match="no question was answered"):
        label_pairs(plan(server.url, longest_wait=0.01, give_up_after=99), tmp_path / "b", quiet=True)
    assert server.asked.total() == 48 + 24, "not asked again sooner than the server wants"


def test_requests_per_minute_are_kept(server: LabelServer, tmp_path: Path) -> None:
    began = time.monotonic()
    label_pairs(plan(server.url, requests_per_minute=1200.0), tmp_path, quiet=True)
    assert time.monotonic() - began >= 23 / 20


def test_a_cut_answer_says_what_to_do(server: LabelServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut = {"message": {"role": "assistant", "content": "<think>well"}, "finish_reason": "length"}
    monkeypatch.setattr("label_server.completion", lambda body, message: {"choices": [cut]})
    with pytest.raises(LabelError, match=r"no question was answered.*it was cut off: raise max_tokens"):
        label_pairs(plan(server.url, give_up_after=99), tmp_path, quiet=True)
    failures = lines(tmp_path / "failures.jsonl")
    assert all("it was cut off: raise max_tokens" in row["reason"] for row in failures)
    assert len(failures) == 24


def test_a_store_that_fails_ends_the_run_with_its_error(
    server: LabelServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = LabelStore.put

    def put(store: LabelStore, answers: dict[str, Any]) -> dict[str, str]:
        if len(store.keys()) >= 4:
            raise StoreError("cannot be used (disk full)", place=store.path, fix="make room")
        return whole(store, answers)

    monkeypatch.setattr(LabelStore, "put", put)
    with pytest.raises(StoreError, match="disk full"):
        label_pairs(plan(server.url), tmp_path, quiet=True)
    monkeypatch.undo()
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert 4 <= len(stored_keys(tmp_path)) < 12
    assert len(label_pairs(plan(server.url), tmp_path, quiet=True).preferences) == 12


def test_a_notebook_is_told_how(server: LabelServer, tmp_path: Path) -> None:
    async def notebook() -> int:
        with pytest.raises(LabelError, match=r"an event loop is already running.*await asyncio\.to_thread"):
            label_pairs(plan(server.url), tmp_path, quiet=True)
        labelled = await asyncio.to_thread(label_pairs, plan(server.url), tmp_path, quiet=True)
        return len(labelled.preferences)

    assert asyncio.run(notebook()) == 12


def test_progress_says_what_is_kept_and_paid(
    server: LabelServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("facetrm.core.progress._INTERVAL_SECONDS", 0.0)
    label_pairs(plan(server.url, in_flight=1, price_in=0.0, price_out=1e6), tmp_path)
    events = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [event["done"] for event in events if event["event"] == "label"] == list(range(25))
    assert events[1]["note"] == "nothing judged, 0 failed, cost 9.00"
    assert events[-1]["note"] == "100% kept, 0 failed, cost 216.00"


def test_a_dummy_key_is_no_secret(server: LabelServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "reply")
    assert len(label_pairs(plan(server.url), tmp_path, quiet=True).preferences) == 12
    assert server.keys == {"reply"}
