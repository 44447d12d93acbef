from __future__ import annotations

import copy
import itertools
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import torch

from facetrm.core.errors import BackboneError, ModelError, ServerError
from facetrm.core.web.key import ServerKey
from facetrm.data.world.world import World
from facetrm.explain.edits import edit
from facetrm.model.mixture import Mixture
from facetrm.model.reward_model import RewardModel
from facetrm.model.uncertainty.reward_uncertainty import RewardUncertainty
from facetrm.policy import trl_reward
from facetrm.recipes.evaluation.served import ServedScorer, served_scorer
from facetrm.serve import HttpScorer
from facetrm.serve.keys import KnownKey, key_digest
from fakes import chat
from serving import ANSWERS, PROMPT, Client, exact_toy, reward_server
from serving import TALKS as BOTH

TALKS = [talk for pair in World().preferences(10) for talk in (pair.chosen, pair.rejected)]


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with reward_server() as made:
        yield made


def test_served_scores_are_the_scores_of_the_library(client: Client) -> None:
    model = exact_toy()
    scorer = HttpScorer(client.url, rows=3)
    assert scorer.score(TALKS) == model.score(TALKS)
    assert scorer.score([]) == []
    assert (scorer.hash, scorer.name) == (model.hash, client.url)
    assert scorer.objectives == ("helpful", "honest", "verbose")
    assert trl_reward(scorer)(prompts=[PROMPT], completions=ANSWERS[:1]) == [model.score(BOTH[:1])[0].reward]
    edited = HttpScorer(f"{client.url}/", objective_weights={"helpful": 2.0}, mask=["verbose"])
    assert edited.score(TALKS[:3]) == edit(model, scale={"helpful": 2.0}, drop=["verbose"]).score(TALKS[:3])


def test_evaluations_get_whole_scores_from_a_server_of_ours(client: Client) -> None:
    scorer = served_scorer(client.url)
    assert isinstance(scorer, HttpScorer)
    assert scorer.score(TALKS[:2])[0].contributions


def unsure_toy() -> RewardModel:
    """Return the toy model with three gates in place of one, so that its rewards have a deviation."""
    model = exact_toy()
    mixture = model.mixtures["all"]
    gates = []
    for seed in (1, 2):
        gate = copy.deepcopy(mixture.gated_sum.gate)
        torch.manual_seed(seed)
        gate.load_state_dict({n: t + 0.1 * torch.randn_like(t) for n, t in gate.named_parameters()}, strict=False)
        gates.append(gate)
    unsure = Mixture(mixture.experts, mixture.aggregator, uncertainty=RewardUncertainty(gates=gates))
    return RewardModel(model.encoder, {"all": unsure})


def test_the_uncertainty_of_a_score_survives_the_way() -> None:
    with reward_server(unsure_toy) as client:
        scores = HttpScorer(client.url).score(TALKS[:3])
    assert scores == unsure_toy().score(TALKS[:3])
    assert all(score.uncertainty is not None and score.uncertainty.gate for score in scores)


def test_a_server_that_says_nothing_of_its_model_gives_rewards_alone(client: Client) -> None:
    busy = Busy(client, [], hidden="/v1/models")
    try:
        scorer = served_scorer(busy.url)
        assert isinstance(scorer, ServedScorer)
        rewards = [score.reward for score in scorer.score(TALKS[:3])]
        assert rewards == [score.reward for score in exact_toy().score(TALKS[:3])]
        assert len(scorer.hash) == 64
    finally:
        busy.close()


def test_a_conversation_that_cannot_be_scored_is_named_by_its_number(client: Client) -> None:
    with pytest.raises(BackboneError, match=r"conversation 7: HTTP 422: .*above the limit of 512") as found:
        HttpScorer(client.url, rows=4).score([*TALKS[:7], chat("long ?", "well " * 600)])
    assert found.value.row == 7, "so that an evaluation counts it as failed and goes on"
    with pytest.raises(ModelError, match="did you mean 'honest'"):
        HttpScorer(client.url, mask=["honet"]).score(TALKS[:1])


def test_keys_are_sent() -> None:
    with reward_server(keys=[KnownKey("me", key_digest("right-key-1234"))]) as client:
        assert len(HttpScorer(client.url, key=ServerKey("right-key-1234")).score(TALKS[:1])) == 1
        with pytest.raises(ModelError, match="HTTP 401") as refused:
            HttpScorer(client.url, key=ServerKey("wrong-key-1234"))
        assert "wrong-key-1234" not in str(refused.value)


class Busy:
    """A server between the client and the real one that refuses the first requests, or hangs up."""

    def __init__(self, client: Client, refusals: list[Any], *, hidden: str = "") -> None:
        self.seen, answers = 0, itertools.chain(refusals, itertools.repeat(None))
        busy = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                busy.seen += 1
                body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
                refusal = 404 if self.path == hidden else next(answers) if self.command == "POST" else None
                if refusal == "hang up":
                    self.connection.close()
                    return
                reply = client.send(self.command, self.path, body or None) if refusal is None else None
                self.send_response(refusal if reply is None else reply.status)
                data = b"{}" if reply is None else reply.text.encode()
                self.send_header("Retry-After", "0")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST

            def log_message(self, *_: Any) -> None:
                return None

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.handle_error = lambda *_: None  # type: ignore[method-assign]
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def test_a_busy_server_is_asked_again(client: Client) -> None:
    busy = Busy(client, [429, 503, "hang up", None, 429])
    try:
        start = time.monotonic()
        assert HttpScorer(busy.url, rows=1, at_once=1).score(TALKS[:2]) == exact_toy().score(TALKS[:2])
        assert busy.seen == 1 + 4 + 2
        assert time.monotonic() - start < 20.0
    finally:
        busy.close()


def test_a_server_that_stays_busy_or_fails_is_an_error(client: Client) -> None:
    for refusals, words, tries in (([429] * 9, "HTTP 429", 3), ([500], "HTTP 500", 3), ([404], "HTTP 404", 3)):
        busy = Busy(client, refusals)
        try:
            with pytest.raises(ModelError, match=words) as caught:
                HttpScorer(busy.url, tries=tries).score(TALKS[:1])
            assert isinstance(caught.value, ServerError) == (refusals != [500])
            assert busy.seen == 1 + (tries if refusals[0] == 429 else 1)
        finally:
            busy.close()
    with pytest.raises(ModelError, match="connection refused"):
        HttpScorer(busy.url, tries=1)
