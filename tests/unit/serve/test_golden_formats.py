"""The formats of other servers: each golden request is sent to the real server, and its golden answer comes back.

``--update-golden`` writes the answers anew. The rewards of all formats are those of the library for the same texts.
"""

from __future__ import annotations

import base64
import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fakes import chat
from serving import Client, exact_toy, reward_server

FOLDER = Path(__file__).parents[2] / "golden" / "serve"
FILES = sorted(FOLDER.glob("*.json"))
CHANGING = ("id", "created", "request_id")


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with reward_server() as made:
        yield made


def settled(value: Any) -> Any:
    """Return a response without what differs from one request to the next, and with rounded numbers."""
    if isinstance(value, dict):
        if isinstance(packed := value.get("data"), str):
            value = {**value, "data": {"float32": struct.unpack("<f", base64.b64decode(packed))[0]}}
        return {key: settled(one) if key not in CHANGING else type(one).__name__ for key, one in value.items()}
    if isinstance(value, list):
        return [settled(one) for one in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def test_there_is_a_golden_file_for_every_route() -> None:
    with reward_server() as client:
        routes = {path for path, item in client.get("/openapi.json").value["paths"].items() if "post" in item}
    assert {json.loads(path.read_text())["route"] for path in FILES} == routes


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_golden_request_gets_its_golden_answer(path: Path, client: Client, update_golden: bool) -> None:
    golden = json.loads(path.read_text())
    reply = client.post(golden["route"], golden["request"])
    answer = {"status": reply.status, "response": settled(reply.value)}
    if update_golden:
        path.write_text(json.dumps({**golden, **answer}, indent=2) + "\n")
        return
    assert answer["status"] == golden["status"], reply.text
    assert close(answer["response"], golden["response"]), answer


def close(one: Any, other: Any) -> bool:
    """Whether two values are equal, and numbers equal to rounding."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(close(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(close, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-3, abs_tol=1e-4)
    return type(one) is type(other) and one == other


PROMPT, ANSWERS = "how are you ?", ("fine , thank you", "no")
START = f"<bos> <user> {PROMPT} <end> <assistant>"
TEXTS = [f"{START} {answer} <end>" for answer in ANSWERS]
TURNS = [{"role": "user", "content": PROMPT}, {"role": "assistant", "content": ANSWERS[0]}]
# what a client of each format sends, and where it looks for the rewards of both answers, or of the first
CLIENTS: list[tuple[str, dict[str, Any], Any]] = [
    ("/classify", {"model": "toy", "input": TEXTS}, lambda v: [one["probs"][-1] for one in v["data"]]),
    ("/classify", {"input": TEXTS[0], "use_activation": False}, lambda v: [v["data"][-1]["probs"][0]]),
    ("/classify", {"messages": TURNS}, lambda v: [v["data"][0]["probs"][0]]),
    ("/pooling", {"input": TEXTS, "task": "classify"}, lambda v: [one["data"][0] for one in v["data"]]),
    (
        "/rerank",
        {"query": PROMPT, "documents": list(ANSWERS)},
        lambda v: [one["relevance_score"] for one in sorted(v["results"], key=lambda one: one["index"])],
    ),
    ("/get_reward", {"query": TEXTS, "prompts": [START] * 2, "labels": ["", ""]}, lambda v: v["rewards"]),
    ("/get_reward", {"query": TEXTS[0]}, lambda v: v["rewards"]),
    ("/get_reward", {"query": TEXTS}, lambda v: [sum(row) for row in zip(*v["extra_logs"].values(), strict=True)]),
    (
        "/get_reward",
        {"prompts": [PROMPT] * 2, "responses": list(ANSWERS), "golden_responses": []},
        lambda v: v["rewards"],
    ),
    ("/v1/score/evaluation", {"model": "model", "messages": [f"<pad><pad>{TEXTS[0]}"]}, lambda v: v["scores"]),
    ("/slime", {"prompt": PROMPT, "response": ANSWERS[0], "label": "42"}, lambda v: [v]),
    ("/slime", {"prompt": START, "response": f" {ANSWERS[0]} <end>", "label": None}, lambda v: [v]),
    ("/slime", {"prompt": TURNS[:1], "response": f"{ANSWERS[0]} <end>"}, lambda v: [v]),
    ("/predict", {"inputs": TEXTS[0], "raw_scores": True}, lambda v: [v[0]["score"]]),
    ("/predict", {"inputs": [PROMPT, ANSWERS[0]]}, lambda v: [v[0]["score"]]),
    ("/predict", {"inputs": [[TEXTS[0]], [PROMPT, ANSWERS[1]]]}, lambda v: [one[0]["score"] for one in v]),
]


@pytest.mark.parametrize(("path", "body", "rewards"), CLIENTS)
def test_a_client_of_each_format_finds_the_raw_rewards(
    path: str, body: dict[str, Any], rewards: Any, client: Client
) -> None:
    wanted = [score.reward for score in exact_toy().score([chat(PROMPT, answer) for answer in ANSWERS])]
    reply = client.post(path, body)
    assert reply.status == 200, reply.text
    found = rewards(reply.value)
    assert found == pytest.approx(wanted[: len(found)], abs=1e-5 if "extra_logs" in reply.text else 0.0)


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("/classify", {"input": "hello"}, "not a conversation as the model's chat template renders it"),
        ("/classify", {"input": [TEXTS[0], "hello"]}, '"row": 1'),
        ("/classify", {"input": []}, "input is empty"),
        ("/classify", {"input": [1, 2, 3]}, "valid string"),
        ("/classify", {"input": "a", "messages": TURNS}, "give input or messages"),
        ("/classify", {"messages": TURNS[:1]}, "end with the assistant message"),
        ("/classify", {"messages": [{"role": "tool", "content": "x"}, TURNS[1]]}, "cannot be read"),
        ("/classify", {"input": TEXTS, "truncate_prompt_tokens": 10}, "leave truncate_prompt_tokens out"),
        ("/classify", {"messages": TURNS, "add_generation_prompt": True}, "leave out add_generation_prompt"),
        ("/classify", {"messages": TURNS, "chat_template": "x"}, "leave chat_template out"),
        ("/pooling", {"input": TEXTS, "task": "embed"}, "task"),
        ("/rerank", {"query": PROMPT, "documents": []}, "documents"),
        ("/rerank", {"query": " <user> x", "documents": ["a"]}, "the text is not a conversation"),
        ("/get_reward", {}, "query"),
        ("/get_reward", {"query": ["a"], "prompts": ["a", "b"]}, "1 queries, but 2 prompts"),
        ("/get_reward", {"prompts": ["a"], "responses": []}, "1 prompts, but 0 responses"),
        ("/slime", {"prompt": PROMPT, "response": " <end>"}, "the answer is blank"),
        ("/predict", {"inputs": []}, "inputs"),
        ("/predict", {"inputs": [["a", "b", "c"]]}, "inputs"),
        ("/predict", {"inputs": TEXTS[0], "truncate": True}, "leave truncate out"),
    ],
)
def test_what_cannot_be_scored_gets_a_reason_and_no_number(
    path: str, body: dict[str, Any], words: str, client: Client
) -> None:
    reply = client.post(path, body)
    assert reply.status == 422, reply.text
    assert words in reply.text


def test_a_sigmoid_only_where_it_is_asked_for(client: Client) -> None:
    [raw] = [score.reward for score in exact_toy().score([chat(PROMPT, ANSWERS[0])])]
    sigmoid = pytest.approx(1.0 / (1.0 + math.exp(-raw)))
    assert client.post("/classify", {"input": TEXTS[0], "use_activation": True}).value["data"][0]["probs"] == [sigmoid]
    assert client.post("/predict", {"inputs": TEXTS[0], "raw_scores": False}).value[0]["score"] == sigmoid
    assert client.post("/get_reward", {"query": TEXTS[:1]}).value["scores"] == [sigmoid]
    assert client.post("/classify", {"model": "other", "input": TEXTS[0]}).status == 404


def test_every_body_has_an_example_that_is_answered(client: Client) -> None:
    document = client.get("/openapi.json").value
    schemas = document["components"]["schemas"]

    def named(schema: dict[str, Any]) -> dict[str, Any]:
        return schemas[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema

    for path, operations in document["paths"].items():
        [operation] = operations.values()
        if "requestBody" not in operation or path in ("/v1/score/evaluation", "/v1/edited-models"):
            continue  # a text that only the model's own template renders; a server that saves no models
        schema = named(operation["requestBody"]["content"]["application/json"]["schema"])
        for form in map(named, schema.get("oneOf", [schema])):
            assert form.get("examples"), (path, form["title"])
            for example in form["examples"]:
                reply = client.post(path, example)
                assert reply.status == 200, (path, reply.text)
