from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from adapter_models import two_tasks
from facetrm.core.errors import ModelError
from facetrm.data.records import Conversation
from facetrm.data.world.world import World
from facetrm.explain.ask import explain_pair, flip_explained
from facetrm.explain.edits import edit
from facetrm.model.output import Score
from facetrm.model.reward_model import RewardModel
from fakes import chat
from serving import ANSWERS, PAIR, PROMPT, TALKS, TURNS, Client, exact_toy, reward_server


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with reward_server(max_answers=20, max_body_bytes=20_000) as made:
        yield made


@pytest.fixture(scope="module")
def model() -> RewardModel:
    return exact_toy()


def row(score: Score, index: int) -> dict[str, Any]:
    """Return what a response says of a score."""
    known = score.to_dict()
    for key in ("model", "template", "mode"):
        del known[key]
    return {**known, "index": index, "uncertainty": None, "settings": {}, "error": None}


# --- rewards


def test_every_form_of_a_request_gives_the_bits_of_the_library(client: Client, model: RewardModel) -> None:
    scores = model.score(TALKS)
    both = [row(score, n) for n, score in enumerate(scores)]
    for body, wanted in (
        (PAIR, both),
        ({"conversations": TURNS}, both),
        ({"messages": TURNS[0]}, both[:1]),
        ({"prompt": TURNS[0][:-1], "responses": ANSWERS}, both),
        ({**PAIR, "model": "toy"}, both),
        ({**PAIR, "model": model.hash}, both),
    ):
        reply = client.post("/v1/rewards", body)
        assert reply.status == 200, reply.text
        assert reply.value["scores"] == wanted
        assert reply.value["edit"] is None
        assert reply.value["usage"] == {"tokens": sum(one["tokens"] for one in wanted)}
        assert reply.value["provenance"] == {
            "model": "toy",
            "model_hash": model.hash,
            "template_hash": model.encoder.template_hash,
            "mode": "exact",
            "dtype": "float32",
        }


def test_an_edit_is_applied_and_recorded(client: Client, model: RewardModel) -> None:
    reply = client.post("/v1/rewards", {**PAIR, "objective_weights": {"helpful": 2, "honest": 1}, "mask": ["verbose"]})
    edited = edit(model, scale={"helpful": 2.0}, drop=["verbose"])
    assert reply.value["scores"] == [row(score, n) for n, score in enumerate(edited.score(TALKS))]
    assert reply.value["provenance"]["model_hash"] == edited.hash != model.hash
    assert reply.value["edit"] == {
        "objective_weights": {"helpful": 2.0},
        "mask": ["verbose"],
        "unedited_model_hash": model.hash,
    }
    none = client.post("/v1/rewards", {**PAIR, "objective_weights": {"helpful": 1.0}})
    assert none.value["edit"] is None
    assert none.value["provenance"]["model_hash"] == model.hash


@pytest.mark.parametrize(
    ("change", "status", "code", "words"),
    [
        ({"objective_weights": {"helpfull": 2}}, 422, "edit", "did you mean 'helpful'?"),
        ({"objective_weights": {"helpfull": 1}}, 422, "edit", "did you mean 'helpful'?"),
        ({"mask": ["verbos"]}, 422, "edit", "did you mean 'verbose'?"),
        ({"mask": ["helpful", "honest", "verbose"]}, 422, "edit", "no objective is left"),
        ({"mask": ["honest"], "objective_weights": {"honest": 2}}, 422, "edit", "both dropped and scaled"),
        ({"objective_weights": {"honest": -1}}, 422, "invalid_body", "objective_weights.honest"),
        ({"responses": []}, 422, "invalid_body", "responses"),
        ({"responses": None}, 422, "invalid_body", "found prompt"),
        ({"messages": TURNS[0]}, 422, "invalid_body", "found messages and prompt and responses"),
        ({"responses": [" "]}, 422, "unreadable", "the answer is blank"),
        ({"prompt": " "}, 422, "unreadable", "message 0 (user) is blank"),
        ({"prompt": TURNS[0]}, 200, "", ""),
        ({"prompt": [], "responses": ["a"]}, 422, "invalid_body", "prompt"),
        ({"surprise": 1}, 422, "invalid_body", "surprise"),
        ({"model": "other"}, 404, "model_not_found", "leave it out, or give 'toy'"),
        ({"responses": ["well"] * 21}, 413, "too_many_conversations", "more than 20"),
        ({"responses": ["well " * 600]}, 422, "unreadable", "above the limit of 512"),
        ({"responses": ["well " * 6000]}, 413, "body_too_large", "larger than 20000 bytes"),
    ],
)
def test_a_request_that_cannot_be_answered_says_why(
    change: dict[str, Any], status: int, code: str, words: str, client: Client
) -> None:
    reply = client.post("/v1/rewards", {**PAIR, **change})
    assert reply.status == status, reply.text
    if status != 200:
        assert reply.value["error"]["code"] == code
        assert words in reply.text
        assert reply.value["request_id"] == reply.headers["x-request-id"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 422),
        (b"{", 400),
        (b"nonsense", 400),
        (b"[" * 10_000, 400),
        (b'{"prompt": ' + b"9" * 5000 + b"}", 400),
        (b"\xff\xfe", 400),
        (b'{"prompt": "\\ud800", "responses": ["a"]}', 422),
        (b'{"prompt": "a", "responses": ["b"], "objective_weights": {"\\ud800": 2}}', 422),
        (b'{"prompt": "a", "responses": ["b"], "objective_weights": {"honest": NaN}}', 422),
        (b'{"prompt": "a", "responses": ["b"], "objective_weights": {"honest": 1e999}}', 422),
        (b'{"prompt": "a", "responses": ["b"], "mask": ["\\u0000\\u001b[2J"]}', 422),
        (b"[]", 422),
        (b"null", 422),
    ],
    ids=range(13),
)
def test_a_malformed_body_is_the_fault_of_the_client(body: bytes, status: int, client: Client) -> None:
    reply = client.post("/v1/rewards", body)
    assert reply.status == status, reply.text
    assert "\x1b" not in reply.text


def test_a_conversation_that_fails_is_null_with_a_reason_or_refuses_the_request(
    client: Client, model: RewardModel
) -> None:
    long = chat(PROMPT, "well " * 600)
    body = {"conversations": [TURNS[0], [{"role": m.role, "content": m.content} for m in long], TURNS[1]]}
    refused = client.post("/v1/rewards", body)
    assert refused.status == 422
    assert refused.value["error"]["row"] == 1
    assert refused.value["error"]["message"] == "conversation 1: 609 tokens, above the limit of 512"
    for way in ("shorten the conversation", "--set backbone.truncation=drop_oldest", '"on_error": "skip"'):
        assert way in refused.value["error"]["fix"]
    assert "score:" not in refused.text, "options of the command line mean nothing to a client"
    skipped = client.post("/v1/rewards", {**body, "on_error": "skip"})
    assert skipped.status == 200
    first, failed, last = skipped.value["scores"]
    assert [first["reward"], last["reward"]] == [score.reward for score in model.score(TALKS)]
    assert failed["reward"] is None
    assert "above the limit of 512" in failed["error"]["message"]
    assert failed["error"]["row"] == failed["index"] == 1
    assert "shorten the conversation" in failed["error"]["fix"]
    assert "on_error" not in skipped.text, "it was sent"


def test_a_blank_answer_or_a_talk_without_one_is_skipped_as_any_other_failure(
    client: Client, model: RewardModel
) -> None:
    rewards = [score.reward for score in model.score(TALKS)]
    reply = client.post("/v1/rewards", {"prompt": PROMPT, "responses": [ANSWERS[0], "", ANSWERS[1]]})
    assert (reply.status, reply.value["error"]["row"]) == (422, 1)
    blank = [*TURNS[0][:-1], {"role": "assistant", "content": "\n"}]
    for body in (
        {"prompt": PROMPT, "responses": [ANSWERS[0], "", ANSWERS[1], " "]},
        {"conversations": [TURNS[0], blank, TURNS[1], TURNS[0][:-1]]},
    ):
        reply = client.post("/v1/rewards", {**body, "on_error": "skip"})
        assert reply.status == 200, reply.text
        rows = reply.value["scores"]
        assert [row["reward"] for row in rows] == [rewards[0], None, rewards[1], None]
        assert rows[1]["error"]["message"] == "the answer is blank"
        assert [rows[n]["error"]["row"] for n in (1, 3)] == [1, 3]
    long = {"prompt": PROMPT, "responses": ["", "well " * 600], "on_error": "skip"}
    assert client.post("/v1/rewards", long).value["scores"][1]["error"]["message"].startswith("conversation 1: ")
    alone = client.post("/v1/rewards", {"prompt": PROMPT, "responses": [""], "on_error": "skip"})
    assert [row["reward"] for row in alone.value["scores"]] == [None]
    many = client.post("/v1/rewards", {"prompt": PROMPT, "responses": [""] * 21, "on_error": "skip"})
    assert many.status == 413


def test_a_reward_that_is_not_finite_is_an_error_and_spoils_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def poisoned() -> RewardModel:
        made = exact_toy(mode="fast")
        plain = RewardModel.score_features

        def score_features(self: RewardModel, features: Any, *, task: str | None = None) -> list[Score]:
            scores = plain(self, features, task=task)
            if any(score.length == 3 for score in scores):
                raise ModelError("the reward of a conversation of 3 tokens is nan", place="task 'all'")
            return scores

        monkeypatch.setattr(RewardModel, "score_features", score_features)
        return made

    with reward_server(poisoned) as client:
        body = {"prompt": PROMPT, "responses": ["fine", "fine fine", "fine fine fine"], "on_error": "skip"}
        rows = client.post("/v1/rewards", body).value["scores"]
        assert [one["reward"] is None for one in rows] == [False, True, False]
        assert rows[1]["error"]["code"] == "not_scored"
        refused = client.post("/v1/rewards", {**body, "on_error": "stop"})
        assert (refused.status, refused.value["error"]["row"]) == (500, 1)


# --- the other native routes


def test_explanations_are_those_of_the_command_line(client: Client, model: RewardModel) -> None:
    pair = explain_pair(model, *TALKS, preferred="A")
    flip = flip_explained(model, pair)
    reply = client.post("/v1/explain", {**PAIR, "preferred": "A"})
    assert flip is not None
    assert reply.value["kind"] == "pair"
    assert reply.value["explanation"] == json.loads(json.dumps(pair.to_dict()))
    assert reply.value["flip"] == json.loads(json.dumps(flip.to_dict()))
    one = client.post("/v1/explain", {"messages": TURNS[0], "mask": ["verbose"]}).value
    assert one["kind"] == "answer"
    assert one["explanation"]["unedited"] == model.score(TALKS)[0].reward
    assert one["edit"]["mask"] == ["verbose"]
    assert client.post("/v1/explain", {**PAIR, "responses": ["a", "b", "c"]}).status == 422
    assert client.post("/v1/explain", {**PAIR, "responses": ["well " * 600]}).value["error"]["code"] == "unreadable"


def test_answers_are_ranked(client: Client, model: RewardModel) -> None:
    answers = [*ANSWERS, ANSWERS[0], "no"]
    rewards = [score.reward for score in model.score([chat(PROMPT, answer) for answer in answers])]
    reply = client.post("/v1/best-of", {"prompt": PROMPT, "responses": answers}).value
    order = [one["index"] for one in reply["ranked"]]
    assert order == sorted(range(4), key=lambda n: -rewards[n])
    assert [one["reward"] for one in reply["ranked"]] == [rewards[n] for n in order]
    assert reply["winner"] == order[0]
    assert reply["margin"] == rewards[order[0]] - rewards[order[1]]
    assert reply["facts"]
    alone = client.post("/v1/best-of", {"prompt": PROMPT, "responses": ["no"]}).value
    assert (alone["winner"], alone["margin"], alone["facts"]) == (0, None, [])


def test_the_model_is_listed_with_its_scales(client: Client, model: RewardModel) -> None:
    [listed] = client.get("/v1/models").value["data"]
    assert (listed["id"], listed["hash"], listed["owned_by"]) == ("toy", model.hash, "facetrm")
    assert (listed["max_tokens"], listed["max_answers"]) == (512, 20)
    [task] = listed["tasks"]
    assert [one["name"] for one in task["objectives"]] == ["helpful", "honest", "verbose"]
    assert (task["objectives"][0]["low"], task["objectives"][0]["high"]) == (0.0, 4.0)
    assert task["editable"] == ["objective_weights", "mask"]


def test_a_model_of_several_tasks_with_adapters() -> None:
    model = two_tasks()
    talks = [chat(f"question {i} about {'sums' if i % 2 else 'poems'}", f"well answer {i}") for i in range(8)]
    bodies = {"conversations": [[{"role": m.role, "content": m.content} for m in talk] for talk in talks]}
    with reward_server(two_tasks) as client:
        rows = client.post("/v1/rewards", bodies).value["scores"]
        assert [one["reward"] for one in rows] == [score.reward for score in model.score(talks)]
        assert {one["task"] for one in rows} == {"chat", "maths"}
        sums = [one["base"] + sum(one["contributions"].values()) for one in rows]
        assert [one["reward"] for one in rows] == pytest.approx(sums, abs=1e-5)
        masked = client.post("/v1/rewards", {**bodies, "mask": ["maths/logic"]}).value["scores"]
        edited = edit(model, drop=["maths/logic"]).score(talks)
        assert [one["reward"] for one in masked] == [score.reward for score in edited]
        logs = [
            client.post("/get_reward", {"prompts": [ask.content], "query": [ask.content + said.content]}).value
            for ask, said in talks
        ]
        assert len({tuple(one["extra_logs"]) for one in logs}) == 1, "a trainer stacks the columns of all replies"
        refused = client.post("/v1/rewards", {**bodies, "objective_weights": {"maths/logic": 2}})
        assert refused.status == 422
        tasks = client.get("/v1/models").value["data"][0]["tasks"]
        assert [task["editable"] for task in tasks] == [["mask"], ["mask"]]
        refused = client.post("/classify", {"input": "hello"})
        assert (refused.status, refused.value["error"]["code"]) == (422, "unreadable")


# --- the door


def test_ids_come_back_and_foreign_hosts_are_refused(client: Client) -> None:
    assert client.get("/health", X_Request_Id="my-id.1").headers["x-request-id"] == "my-id.1"
    made = client.get("/health", X_Request_Id="not an id").headers["x-request-id"]
    assert len(made) == 32
    for host in ("evil.example.com", "127.0.0.1.example.com", ""):
        assert client.get("/health", Host=host).status == 421, host
    for host in ("localhost", "LOCALHOST:1", "[::1]:8000", "127.0.0.1"):
        assert client.get("/health", Host=host).status == 200, host
    answer = client.post("/v1/rewards", PAIR, Origin="http://example.com")
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert client.post("/v1/rewards", PAIR, Content_Type="text/plain").status == 415
    assert client.send("DELETE", "/v1/rewards").status == 405
    assert client.get("/docs").status == 404


def test_a_large_body_is_refused_with_an_answer(client: Client) -> None:
    for size in (20_001, 60_000, 5_000_000):
        try:
            reply = client.post("/v1/rewards", b" " * size)
        except OSError:
            assert size > 100_000, "only a client that sends far too much may be cut off"
            continue
        assert (reply.status, reply.value["error"]["code"]) == (413, "body_too_large")
    assert client.post("/v1/rewards", b" " * 20_000).status == 400


def test_figures_for_prometheus(client: Client) -> None:
    client.post("/v1/rewards", PAIR)
    client.post("/v1/rewards", {**PAIR, "mask": ["none"]})
    text = client.get("/metrics").text
    for line in (
        'facetrm_requests_total{route="/v1/rewards",status="200"}',
        'facetrm_requests_total{route="/v1/rewards",status="422"}',
        'facetrm_request_seconds_bucket{le="0.1",route="/v1/rewards"}',
        'facetrm_rejected_total{reason="edit"}',
        "facetrm_batch_conversations_count",
        "facetrm_tokens_total",
        "facetrm_queue_conversations 0.0",
        "facetrm_ready 1.0",
    ):
        assert line in text


def test_the_log_has_no_text_unless_asked(capsys: pytest.CaptureFixture[str]) -> None:
    secret = {"prompt": "my secret question", "responses": ["my secret answer"]}
    wrong = {"prompt": "my secret question", "responses": ["my secret answer"], "my secret key": 1}
    for asked in (False, True):
        with reward_server(log_text=asked) as client:
            client.post("/v1/rewards", secret, X_Request_Id="one")
            client.post("/v1/rewards", wrong)
            client.post("/classify", {"input": "my secret text"})
        said = capsys.readouterr().err
        assert ("secret" in said) == asked
        lines = [json.loads(line) for line in said.splitlines()]
        [request] = [line for line in lines if line.get("id") == "one" and line["event"] == "request"]
        assert request["route"] == "/v1/rewards"
        assert (request["status"], request["conversations"]) == (200, 1)


def test_of_an_unforeseen_error_the_log_has_the_place_and_not_the_text(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: RewardModel, conversations: Any) -> Any:
        raise KeyError(conversations[0][0].content)

    with reward_server() as client:
        monkeypatch.setattr(RewardModel, "score", broken)
        reply = client.post("/v1/rewards", {"prompt": "my secret question", "responses": ["my secret answer"]})
    said = capsys.readouterr().err
    assert reply.status == 500
    assert "secret" not in reply.text + said
    warned = [
        one for one in map(json.loads, said.splitlines()) if one.get("warning") == "a conversation was not scored"
    ]
    assert [(one["error"], one["at"].partition(":")[0]) for one in warned] == [("KeyError", "test_routes.py")]


def test_fast_mode_shares_prompts_and_agrees_to_the_last_digits() -> None:
    with reward_server(lambda: exact_toy(mode="fast")) as client:
        pairs = list(World().preferences(8))
        talks: list[Conversation] = [talk for pair in pairs for talk in (pair.chosen, pair.rejected)]
        found = list[tuple[int, Any]]()

        def ask(n: int) -> None:
            turns = [{"role": m.role, "content": m.content} for m in talks[n]]
            found.append((n, client.post("/v1/rewards", {"messages": turns}).value["scores"][0]["reward"]))

        threads = [threading.Thread(target=ask, args=(n,)) for n in range(len(talks))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wanted = [score.reward for score in exact_toy().score(talks)]
        assert [reward for _, reward in sorted(found)] == pytest.approx(wanted, abs=1e-4)
