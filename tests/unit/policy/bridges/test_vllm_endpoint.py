"""The plugin for vLLM, on a stub of its engine: the trunk's own states, so the rewards are those of the whole model."""

from __future__ import annotations

import asyncio
import json
import sys
import tomllib
from argparse import Namespace
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from fastapi import FastAPI

from facetrm.backbone.config import BackboneConfig
from facetrm.backbone.encoder import Encoder
from facetrm.backbone.transformer import load_encoder
from facetrm.core.errors import ConfigError, ModelError
from facetrm.data.world import World
from facetrm.hub.load import load_model
from facetrm.model.reward_model import RewardModel
from facetrm.policy.bridges.vllm_endpoint import EngineScorer, RewardsPlugin, load_heads
from facetrm.recipes.toy import toy_model
from fakes import chat, tiny_encoder
from gated_models import mixture
from gated_models import model as gated_model
from layer_models import model as layered_model

ROWS = [c for pair in World().preferences(3) for c in (pair.chosen, pair.rejected)]


class PoolingParams(SimpleNamespace):
    """vLLM's parameters of a pooling request."""


class Engine:
    """vLLM's client of the engine, in the one method that is used: it runs the trunk of a model."""

    def __init__(self, model: RewardModel, *, dtype: torch.dtype = torch.float32, longest: int = 1000) -> None:
        self.trunk, self.dtype, self.longest = model.encoder.model, dtype, longest
        self.asked: list[tuple[str, PoolingParams]] = []

    async def encode(self, prompt, pooling_params, request_id):
        self.asked.append((request_id, pooling_params))
        ids = torch.tensor([prompt["prompt_token_ids"]])
        if ids.shape[1] > self.longest:
            raise ValueError("longer than the maximum model length")
        await asyncio.sleep(0)
        with torch.no_grad():
            states = self.trunk(input_ids=ids).last_hidden_state[0]
        yield SimpleNamespace(outputs=SimpleNamespace(data=states.to(self.dtype)), finished=True)


@pytest.fixture(autouse=True)
def _vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    stub = ModuleType("vllm")
    stub.PoolingParams = PoolingParams
    monkeypatch.setitem(sys.modules, "vllm", stub)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[RewardModel, Path]:
    folder = tmp_path_factory.mktemp("model") / "model"
    toy_model().save(folder, backbone="copy")
    return load_model(folder, device="cpu"), folder


def post(app: FastAPI, body: object) -> tuple[int, dict]:
    """Send one request to the application without a socket."""
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    answered: list[dict] = []

    async def receive():
        return {"type": "http.request", "body": sent}

    async def send(message):
        answered.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/rewards",
        "raw_path": b"/v1/rewards",
        "root_path": "",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
        "http_version": "1.1",
    }
    asyncio.run(app(scope, receive, send))
    return answered[0]["status"], json.loads(b"".join(m.get("body", b"") for m in answered[1:]))


def started(engine, folder: Path | None, monkeypatch: pytest.MonkeyPatch) -> FastAPI:
    """Start the plugin as vLLM does: routes first, then the engine."""
    monkeypatch.delenv("FACETRM_MODEL", raising=False)
    if folder is not None:
        monkeypatch.setenv("FACETRM_MODEL", str(folder))
    app, plugin = FastAPI(), RewardsPlugin()
    plugin.attach_router(app)
    asyncio.run(plugin.init_state(engine, app.state, Namespace(model="served")))
    return app


def turns(messages) -> list[dict[str, str]]:
    return [message.model_dump() for message in messages]


def test_the_rewards_are_those_of_the_whole_model(whole, monkeypatch) -> None:
    model, folder = whole
    engine = Engine(model)
    status, answer = post(started(engine, folder, monkeypatch), {"conversations": [turns(row) for row in ROWS]})
    assert status == 200
    for found, score in zip(answer["scores"], model.score(ROWS), strict=True):
        expected = score.to_dict()
        for key in ("task", "tokens", "length", "truncated", "model", "template", "mode"):
            assert found[key] == expected[key], key
        assert found["reward"] == pytest.approx(score.reward, abs=1e-5)
        assert found["contributions"] == pytest.approx(score.contributions, abs=1e-5)
        assert found["weights"] == pytest.approx(score.weights, abs=1e-5)
    assert len({name for name, _ in engine.asked}) == len(ROWS)
    assert all(vars(params) == {"task": "token_embed", "use_activation": False} for _, params in engine.asked)


def test_a_gate_reads_the_end_of_the_prompt(tmp_path, monkeypatch) -> None:
    made = gated_model(tmp_path / "backbone")
    made.save(tmp_path / "model", backbone="copy")
    rows = [chat("two plus two ?", "four"), chat("hello", "hi", "and you ?", "fine"), chat("a poem", "roses")]
    app = started(Engine(made), tmp_path / "model", monkeypatch)
    found = post(app, {"conversations": [turns(row) for row in rows]})[1]["scores"]
    scores = made.score(rows)
    for row, score in zip(found, scores, strict=True):
        assert row["weights"] == pytest.approx(score.weights, abs=1e-4)
        assert row["reward"] == pytest.approx(score.reward, abs=1e-4)
    assert abs(scores[0].weights["objective-0"] - scores[1].weights["objective-0"]) > 1e-3


def test_other_bodies_and_half_precision(whole, monkeypatch) -> None:
    model, folder = whole
    app = started(Engine(model, dtype=torch.bfloat16), folder, monkeypatch)
    row = ROWS[0]
    one = post(app, {"messages": turns(row)})[1]["scores"]
    many = post(app, {"prompt": turns(row[:-1]), "responses": [row[-1].content, ROWS[1][-1].content]})[1]["scores"]
    assert one[0]["reward"] == many[0]["reward"] == pytest.approx(model.score([row])[0].reward, abs=0.1)
    assert len(many) == 2


def test_a_failed_conversation_has_a_reason_and_no_reward(whole, monkeypatch) -> None:
    model, folder = whole
    app = started(Engine(model, longest=200), folder, monkeypatch)
    long = [{"role": "user", "content": "two plus two " * 80}, {"role": "assistant", "content": "four"}]
    longer = [{"role": "user", "content": "two plus two " * 900}, {"role": "assistant", "content": "four"}]
    blank = [{"role": "user", "content": "two ?"}, {"role": "assistant", "content": " "}]
    status, answer = post(app, {"conversations": [long, turns(ROWS[0]), blank, longer]})
    assert status == 200
    assert [row["reward"] is None for row in answer["scores"]] == [True, False, True, True]
    assert "longer than the maximum model length" in answer["scores"][0]["reason"]
    assert "the answer is blank" in answer["scores"][2]["reason"]
    assert "tokens, more than" in answer["scores"][3]["reason"]
    assert post(app, {"messages": blank})[0] == 422


@pytest.mark.parametrize(
    "body",
    [b"{", b"\xff", [], {}, {"conversations": []}, {"conversations": {}}, {"conversations": [1] * 257}],
)
def test_a_malformed_request_is_refused(body, whole, monkeypatch) -> None:
    status, answer = post(started(Engine(whole[0]), whole[1], monkeypatch), body)
    assert status == 400
    assert answer["error"]["message"]


def test_states_of_another_backbone_are_refused(whole) -> None:
    model, folder = whole
    engine = Engine(model)
    engine.trunk = lambda input_ids: SimpleNamespace(last_hidden_state=torch.zeros(1, input_ids.shape[1], 7))
    (found,) = asyncio.run(EngineScorer(load_heads(folder), engine).score(ROWS[:1]))
    assert isinstance(found, ModelError)
    assert "serve the backbone of the model (width 32)" in str(found)


def test_without_engine_or_model(whole, monkeypatch) -> None:
    assert post(started(None, None, monkeypatch), {"messages": turns(ROWS[0])})[0] == 503
    with pytest.raises(ConfigError, match="FACETRM_MODEL is not set; set it to the model folder"):
        started(Engine(whole[0]), None, monkeypatch)


def test_models_that_need_more_are_refused(tmp_path, whole) -> None:
    heads = load_heads(whole[1])
    assert heads.hash == whole[0].hash
    assert isinstance(heads.encoder, Encoder)
    with pytest.raises(ModelError, match="the trunk runs in vLLM"):
        heads.score(ROWS)
    assert len(heads.encoder.encode([])) == 0
    layered_model(tmp_path / "backbone").save(tmp_path / "layered", backbone="copy")
    with pytest.raises(ModelError, match="experts read adapters or inner layers"):
        load_heads(tmp_path / "layered")
    tiny_encoder(tmp_path / "bert")
    encoder = load_encoder(BackboneConfig(path=str(tmp_path / "bert"), device="cpu"))
    RewardModel(encoder, {"all": mixture()}).save(tmp_path / "both-ways", backbone="copy")
    with pytest.raises(ModelError, match="the backbone is no decoder"):
        load_heads(tmp_path / "both-ways")


def test_the_entry_point_names_the_plugin() -> None:
    project = tomllib.loads((Path(__file__).parents[4] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (entry,) = project["entry-points"]["vllm.endpoint_plugins"].items()
    module, _, name = entry[1].partition(":")
    made = getattr(import_module(module), name)()
    assert made.name == entry[0] == "facetrm"
    assert made.required_tasks == ("token_embed",)
