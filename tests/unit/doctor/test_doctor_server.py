"""The client against real HTTP servers on this machine: dialects, refusals, silence; and what is concluded."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from facetrm.core.errors import ModelError
from facetrm.data.records import Conversation
from facetrm.doctor.drift import answer_pairs
from facetrm.doctor.probes import BF16, REFERENCE, Probed
from facetrm.doctor.served import (
    LOCAL,
    REVERSED,
    SERVED,
    SERVED_AGAIN,
    TOGETHER,
    judge_server,
    probe_length,
    probe_server,
    suspect_activation,
)
from facetrm.doctor.server import RewardServer, connect
from facetrm.doctor.verdicts import tabulate
from fakes import chat
from reward_server import Handle, native, serving, words

ROWS: list[Conversation] = [chat(f"question {n}", "well " * n + "yes") for n in range(1, 7)]


def vllm(path: str, body: Any) -> tuple[int, Any]:
    if path != "/classify":
        return 404, {}
    if "messages" not in body:
        return 400, {}
    assert body["use_activation"] is False
    assert "model" not in body
    return 200, {"data": [{"probs": [float(words(body["messages"]))], "num_classes": 1}]}


# --- the client


def test_each_dialect_is_found_by_itself() -> None:
    def openrlhf(path: str, body: Any) -> tuple[int, Any]:
        if path != "/get_reward":
            return 405, {}
        return (200, {"rewards": [len(body["query"][0].split())]}) if "query" in body else (500, "KeyError")

    for handle, dialect in ((native, "facetrm"), (vllm, "vLLM"), (openrlhf, "OpenRLHF")):
        with serving(handle) as url:
            server = connect(url + "/", ROWS[0], render=lambda m: " ".join(x.content for x in m))
            assert server.dialect == dialect
            assert [a.reward for a in server.ask_all(ROWS)] == [4, 5, 6, 7, 8, 9]
            assert [a.reward for a in server.ask_all(ROWS, at_once=4)] == [4, 5, 6, 7, 8, 9]


def test_the_address_of_one_endpoint_will_do() -> None:
    with serving(vllm) as url:
        assert str(connect(f"{url}/classify", ROWS[0]).address) == url
        with pytest.raises(ModelError, match=r"none of the endpoints"):
            connect(f"{url}/v1/rewards", ROWS[0])


def test_rendered_text_needs_a_template() -> None:
    with (
        serving(lambda path, _: (200 if path == "/get_reward" else 404, {})) as url,
        pytest.raises(ModelError, match="--against MODEL"),
    ):
        connect(url, ROWS[0])


@pytest.mark.parametrize(
    ("handle", "said"),
    [
        (lambda path, body: (404, {}), r"none of the endpoints /v1/rewards, /classify, /get_reward"),
        (lambda path, body: (200, b"<html>"), r"the response is not JSON \('<html>'\)"),
        (lambda path, body: (503, {"error": "loading"}), r"does not score the first conversation \(HTTP 503.*loading"),
        (lambda path, body: (401, {"error": "key"}), r"HTTP 401"),
        (lambda path, body: (200, {"scores": []}), r"the response has another format"),
        (lambda path, body: (200, {"scores": [{"reward": "high"}]}), r"the response has another format"),
        (lambda path, body: (200, {"scores": [{"reward": "1.5"}]}), r"the response has another format"),
        (lambda path, body: (200, {"scores": [{"reward": True}]}), r"the response has another format"),
        (lambda path, body: (200, {"scores": [{"reward": 10**400}]}), r"the response has another format"),
        (
            lambda path, body: (200, {"scores": [{"reward": json.loads("[" * 400 + "]" * 400)}]}),
            r"the response has another format",
        ),
        (lambda path, body: (200, b"[" * 100_000), r"the response is not JSON"),
        (lambda path, body: (200, []), r"the response has another format"),
        (lambda path, body: (200, b'{"scores": [{"reward": NaN}]}'), r"the reward is nan"),
    ],
)
def test_what_is_no_reward_server_says_so(handle: Handle, said: str) -> None:
    with serving(handle) as url, pytest.raises(ModelError, match=said) as caught:
        connect(url, ROWS[0])
    assert caught.value.fix


def test_silence_ends() -> None:
    def slow(path: str, body: Any) -> tuple[int, Any]:
        time.sleep(1.0)
        return 404, {}

    with serving(slow) as url, pytest.raises(ModelError, match=r"no whole answer within 0\.2 s"):
        connect(url, ROWS[0], timeout=0.2)


def test_nobody_there() -> None:
    with serving(native) as url:
        pass
    with pytest.raises(ModelError, match="connection refused"):
        connect(url, ROWS[0])
    with pytest.raises(ModelError, match="not an http address"):
        connect("http://", ROWS[0])


# --- long conversations


def test_a_server_that_refuses_what_is_too_long_does_right() -> None:
    def limited(path: str, body: Any) -> tuple[int, Any]:
        long = any(words(turns) > 1000 for turns in body.get("conversations", []))
        return (413, {"error": "too long"}) if long else native(path, body)

    with serving(limited) as url:
        assert probe_length(connect(url, ROWS[0]), ROWS[0]) == (None, [])


def test_a_server_that_says_that_it_cuts_does_right() -> None:
    def honest(path: str, body: Any) -> tuple[int, Any]:
        if "conversations" not in body:
            return 422, {}
        (turns,) = body["conversations"]
        return 200, {"scores": [{"reward": min(words(turns), 500), "truncated": words(turns) > 500}]}

    with serving(honest) as url:
        assert probe_length(connect(url, ROWS[0]), ROWS[0]) == (None, [])


def test_the_side_that_is_cut_is_found() -> None:
    def cut(path: str, body: Any) -> tuple[int, Any]:
        if "conversations" not in body:
            return 422, {}
        text = " ".join(m["content"] for m in body["conversations"][0]).split()
        kept = text[:600] if side == "end" else text[-600:]
        return 200, {"scores": [{"reward": sum(len(word) * n for n, word in enumerate(kept))}]}

    for side in ("end", "beginning"):
        with serving(cut) as url:
            found, failed = probe_length(connect(url, ROWS[0]), ROWS[0])
        assert found is not None
        assert (found.words, found.side, failed) == (1024, side, [])


def test_a_server_that_breaks_on_length_fails() -> None:
    def breaks(path: str, body: Any) -> tuple[int, Any]:
        long = any(words(turns) > 1000 for turns in body.get("conversations", []))
        return (500, "out of memory") if long else native(path, body)

    with serving(breaks) as url:
        found, (failed,) = probe_length(connect(url, ROWS[0]), ROWS[0])
    assert found is None
    assert failed.code == "server-fails"
    assert "1024 words: HTTP 500" in failed.measured


# --- readings and conclusions


def test_readings_are_put_back_in_order() -> None:
    with serving(native) as url:
        probed, failed = probe_server(connect(url, ROWS[0]), ROWS, local=[1.0] * 6)
    assert failed == []
    assert probed.rewards() == [1.0] * 6
    for name in (SERVED, SERVED_AGAIN, REVERSED, TOGETHER):
        assert probed.rewards(name) == [4, 5, 6, 7, 8, 9], name
    assert probed.readings[SERVED].against == LOCAL


def test_a_server_that_dies_between_is_reported() -> None:
    with serving(native) as url:
        server = connect(url, ROWS[0])
    probed, (failed,) = probe_server(server, ROWS)
    assert (failed.code, probed.rewards(SERVED)) == ("server-fails", None)
    assert isinstance(server, RewardServer)


def concluded(local: list[float] | None = None, bf16: list[float] | None = None, **readings: list[float]) -> Any:
    names = {"served": SERVED, "again": SERVED_AGAIN, "turned": REVERSED, "together": TOGETHER}
    probed, copy = Probed(), None
    if local is not None:
        copy = Probed()
        copy.add(REFERENCE, "", lambda: local)
        copy.add("no BOS", REFERENCE, lambda: [x + 1 for x in local], moves=True)
        if bf16 is not None:
            copy.add(BF16, REFERENCE, lambda: bf16)
        probed.add(LOCAL, "", lambda: local)
    for key, rewards in readings.items():
        against = (LOCAL if local is not None else "") if key == "served" else SERVED
        probed.add(names[key], against, lambda rewards=rewards: rewards)  # type: ignore[misc]
    table = tabulate(probed, pairs_P2=answer_pairs([2, 2]), threshold=0.01)
    return [(f.code, f.severity, f.culprit) for f in judge_server(table, probed, local=copy, threshold=0.01)]


BASE = [0.0, 1.0, 2.0, 3.0]


def test_steady_rewards_are_no_finding() -> None:
    assert concluded(served=BASE, again=BASE, turned=BASE, together=BASE) == []
    assert concluded(local=BASE, served=BASE, again=BASE) == []


def test_what_moves_most_is_blamed() -> None:
    wobble, far = [0.1, 1.0, 2.1, 3.0], [1.0, 1.5, 2.5, 3.9]
    assert [c for c, *_ in concluded(served=BASE, again=wobble, turned=wobble, together=wobble)] == ["server-unstable"]
    assert [c for c, *_ in concluded(served=BASE, again=wobble, turned=far, together=wobble)] == ["server-order"]
    assert [c for c, *_ in concluded(served=BASE, again=BASE, turned=BASE, together=far)] == ["server-batch"]


def test_one_number_for_all() -> None:
    assert [c for c, *_ in concluded(served=[0.5] * 4, again=[0.5] * 4)] == ["server-constant"]


def test_drift_from_the_copy_is_explained() -> None:
    ((code, severity, culprit),) = concluded(local=BASE, served=[1.0, 2.0, 3.0, 4.0])
    assert (code, severity, culprit) == ("server-drift", "error", "it gives the same rewards as the reading 'no BOS'")
    ((code, severity, culprit),) = concluded(local=BASE, served=[3.0, 2.0, 1.0, 0.0])
    assert (code, severity) == ("server-drift", "error")
    assert "other weights" in culprit


def test_as_far_as_bfloat16_is_a_note() -> None:
    ((code, severity, _),) = concluded(local=BASE, bf16=[0.05, 1.0, 2.0, 3.05], served=[0.0, 1.05, 2.0, 3.0])
    assert (code, severity) == ("server-drift", "note")


def test_a_sigmoid_is_known_by_its_copy() -> None:
    squashed = [0.5, 0.7310585786, 0.880797078, 0.9525741268]
    ((code, severity, _),) = concluded(local=BASE, served=squashed)
    assert (code, severity) == ("server-activation", "error")
    assert [(f.code, f.severity) for f in suspect_activation(squashed)] == [("server-activation", "warning")]
    assert suspect_activation([0.5, 1.5]) == []
    # Rewards may lie between 0 and 1 by themselves: the copy says so.
    assert concluded(local=squashed, served=squashed) == []
