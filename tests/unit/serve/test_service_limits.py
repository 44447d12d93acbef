from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from facetrm.core.errors import ConfigError, ModelError
from facetrm.model.output import Score
from facetrm.model.reward_model import RewardModel
from facetrm.serve import RewardHttpServer, ServeConfig
from serving import ANSWERS, PAIR, PROMPT, TURNS, Client, exact_toy, reward_server


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with reward_server(max_answers=20, max_body_bytes=20_000) as made:
        yield made


def test_alive_before_it_is_ready() -> None:
    free = threading.Event()

    def slow() -> RewardModel:
        assert free.wait(30.0)
        return exact_toy()

    with reward_server(slow, wait=False) as client:
        assert client.get("/health").value == {"status": "alive"}
        for reply in (client.get("/ready"), client.post("/v1/rewards", PAIR), client.get("/v1/models")):
            assert (reply.status, reply.value["error"]["code"]) == (503, "loading")
            assert reply.headers["retry-after"] == "5"
        free.set()
        until = time.monotonic() + 30.0
        while client.get("/ready").status != 200:
            assert time.monotonic() < until
        assert client.post("/v1/rewards", PAIR).status == 200


def test_a_model_that_cannot_be_loaded_stops_the_server() -> None:
    def broken() -> RewardModel:
        raise ModelError("broken", place="folder")

    server = RewardHttpServer(broken, config=ServeConfig(), name="x", port=0)
    with pytest.raises(ModelError, match="folder: broken"):
        server.serve_until_stopped()


def test_a_port_that_is_taken_is_named(client: Client) -> None:
    server = RewardHttpServer(exact_toy, config=ServeConfig(), name="x", port=client.port)
    with pytest.raises(ConfigError, match=f"127.0.0.1:{client.port}: cannot listen at this address"):
        server.serve_until_stopped()


class Held:
    """A model whose reading waits."""

    def __init__(self) -> None:
        self.free, self.begun = threading.Event(), threading.Event()
        self.read = list[int]()

    def load(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[], RewardModel]:
        plain, held = RewardModel.score, self

        def score(self: RewardModel, conversations: Any) -> list[Score]:
            held.read.append(len(conversations))
            held.begun.set()
            assert held.free.wait(30.0)
            return plain(self, conversations)

        monkeypatch.setattr(RewardModel, "score", score)
        return exact_toy


@pytest.fixture
def held() -> Iterator[Held]:
    made = Held()
    yield made
    made.free.set()


def in_background(call: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    found = list[Any]()
    thread = threading.Thread(target=lambda: found.append(call()), daemon=True)
    thread.start()
    return thread, found


def test_a_full_queue_is_a_429(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    with reward_server(held.load(monkeypatch), max_queue=2, max_answers=2) as client:
        thread, found = in_background(lambda: client.post("/v1/rewards", PAIR))
        assert held.begun.wait(30.0)
        refused = client.post("/v1/rewards", {"messages": TURNS[0]})
        assert (refused.status, refused.value["error"]["code"]) == (429, "queue_full")
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        held.free.set()
        thread.join(30.0)
        assert found[0].status == 200
        assert client.post("/v1/rewards", {"messages": TURNS[0]}).status == 200


def test_what_is_too_late_is_a_504_and_frees_its_place(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    with reward_server(held.load(monkeypatch), max_queue=3, max_answers=2) as client:
        thread, _ = in_background(lambda: client.post("/v1/rewards", {"messages": TURNS[0]}))
        assert held.begun.wait(30.0)
        for path in ("/v1/rewards", "/v1/explain", "/v1/best-of", "/get_reward"):
            body = {"prompts": [PROMPT] * 2, "responses": ANSWERS} if path == "/get_reward" else PAIR
            late = client.post(path, body, X_Timeout_Seconds="0.1")
            assert (late.status, late.value["error"]["code"]) == (504, "too_late"), path
            assert late.value["error"]["message"] == "not answered in time"
        assert client.server.served.service is not None
        assert client.server.served.service.batcher.accepted == 1
        assert client.server.served.service.batcher.waiting == 0
        assert client.post("/v1/rewards", PAIR, X_Timeout_Seconds="soon").status == 400
        held.free.set()
        thread.join(30.0)
    assert held.read == [1], "what was too late was not read"


def test_what_nobody_waits_for_is_not_read(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    with reward_server(held.load(monkeypatch)) as client:
        thread, _ = in_background(lambda: client.post("/v1/rewards", {"messages": TURNS[0]}))
        assert held.begun.wait(30.0)
        connection = http.client.HTTPConnection("127.0.0.1", client.port)
        connection.request("POST", "/v1/rewards", json.dumps(PAIR), {"Content-Type": "application/json"})
        batcher = client.server.served.service.batcher  # type: ignore[union-attr]
        until = time.monotonic() + 30.0
        while batcher.waiting != 2:
            assert time.monotonic() < until
            time.sleep(0.005)
        connection.close()
        while batcher.accepted != 1:
            assert time.monotonic() < until
            time.sleep(0.005)
        assert batcher.waiting == 0
        gone = 'facetrm_requests_total{route="/v1/rewards",status="499"} 1.0'
        while gone not in (figures := client.get("/metrics").text):
            assert time.monotonic() < until
        assert 'facetrm_rejected_total{reason="client_gone"} 1.0' in figures
        assert "facetrm_queue_conversations 0.0" in figures
        held.free.set()
        thread.join(30.0)
    assert held.read == [1]


def test_a_signal_to_stop_finishes_what_was_accepted(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    with reward_server(held.load(monkeypatch)) as client:
        threads = [in_background(lambda: client.post("/v1/rewards", PAIR)) for _ in range(3)]
        until = time.monotonic() + 30.0
        while client.server.served.service.batcher.accepted != 6:  # type: ignore[union-attr]
            assert time.monotonic() < until
            time.sleep(0.005)
        kept = http.client.HTTPConnection("127.0.0.1", client.port)
        kept.request("GET", "/health")
        kept.getresponse().read()
        client.server.served.stop()
        kept.request("POST", "/v1/rewards", json.dumps(PAIR), {"Content-Type": "application/json"})
        assert kept.getresponse().status == 503
        kept.close()
        client.server.handle_exit(15, None)
        held.free.set()
        for thread, _ in threads:
            thread.join(30.0)
        assert [found[0].status for _, found in threads] == [200, 200, 200]
