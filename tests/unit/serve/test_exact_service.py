"""Exact mode: the bits of serial scoring, whatever else is in flight."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from adapter_models import TALKS, two_tasks
from facetrm.backbone.lora.adapters import LoraSettings
from facetrm.backbone.transformer import TransformerEncoder
from facetrm.data.objectives import Objective
from facetrm.data.records import Conversation, Message
from facetrm.data.world.world import World
from facetrm.explain.ask import explain_pair
from facetrm.explain.edits import edit
from facetrm.model.adapter_experts import AdapterExperts
from facetrm.model.concat import ConcatMLP
from facetrm.model.gate import Gate, GateShape
from facetrm.model.mixture import Mixture
from facetrm.model.reward_model import RewardModel
from facetrm.serve.batching import BatchRead
from facetrm.serve.variants import AskedEdit, score_together
from preferences import random_tensor
from serving import exact_toy, reward_server

SIZE, CLIENTS, EACH = 32, 32, 2
NAMES = {"chat": ("kind", "clear"), "maths": ("logic", "correct")}
EDITS: list[dict[str, Any]] = [
    {},
    {"mask": ["maths/logic"]},
    {"mask": ["chat/kind"]},
    {"mask": ["chat/kind", "maths/correct"]},
]


def adapted() -> RewardModel:
    """Two tasks behind a router; each expert has an adapter of its own on one exact trunk."""
    encoder = exact_toy().encoder
    assert isinstance(encoder, TransformerEncoder)
    mixtures: dict[str, Mixture] = {}
    for seed, (task, names) in enumerate(NAMES.items()):
        for name in names:
            encoder.add_adapter(f"{task}-{name}", LoraSettings(rank=2, alpha=4.0), seed=seed)
        objectives = [Objective(name=f"{task}/{name}", low=0, high=1, kind="continuous") for name in names]
        experts = AdapterExperts(
            objectives,
            0.2 * random_tensor(2, SIZE, seed=seed),
            random_tensor(2, seed=seed),
            adapters=[f"{task}-{name}" for name in names],
        )
        torch.manual_seed(seed)
        mixtures[task] = Mixture(experts, ConcatMLP(0.3 * random_tensor(2, SIZE, seed=seed)))
    torch.manual_seed(0)
    for name, parameter in encoder.model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.3)
    gate = Gate(GateShape(SIZE, 2, hidden=1, n_hidden=0, temperature=0.1))
    gate.load_state_dict({**gate.state_dict(), "head.weight": random_tensor(2, SIZE, seed=3)})
    return RewardModel(encoder, mixtures, gate)


def talks() -> list[Conversation]:
    return [talk for pair in World().preferences(5) for talk in (pair.chosen, pair.rejected)]


@pytest.mark.parametrize("load", [exact_toy, adapted], ids=["edits", "adapters and edits"])
def test_many_clients_at_once_get_the_bits_of_serial_scoring(load: Callable[[], RewardModel]) -> None:
    model, asked = load(), talks()
    edits = EDITS if load is adapted else [{}, {"mask": ["honest"]}, {"objective_weights": {"helpful": 2.5}}]
    variants = [
        edit(model, drop=one.get("mask", ()), scale=one.get("objective_weights")) if one else model for one in edits
    ]
    wanted = [[variant.score([talk])[0].reward for talk in asked] for variant in variants]
    assert len({reward for rewards in wanted for reward in rewards}) > len(asked), "the edits and the texts matter"
    with reward_server(load, batch_tokens=600, max_wait_ms=2.0) as client:
        together, wrong = threading.Barrier(CLIENTS), list[Any]()

        def ask(number: int) -> None:
            chance = random.Random(number)
            together.wait(30.0)
            for _ in range(EACH):
                which = chance.randrange(len(edits))
                rows = [chance.randrange(len(asked)) for _ in range(chance.randint(1, 3))]
                turns = [[{"role": m.role, "content": m.content} for m in asked[n]] for n in rows]
                reply = client.post("/v1/rewards", {"conversations": turns, **edits[which]})
                rewards = [one["reward"] for one in reply.value["scores"]]
                if reply.status != 200 or rewards != [wanted[which][n] for n in rows]:
                    wrong.append((number, which, rows, reply.text[:300]))

        with ThreadPoolExecutor(CLIENTS) as pool:
            list(pool.map(ask, range(CLIENTS)))
        assert wrong == []
        text = client.get("/metrics").text
    batches = float(text.split("facetrm_batch_conversations_count ")[1].split()[0])
    assert batches < 0.8 * CLIENTS * EACH, "requests shared batches"


def test_variants_read_together_score_as_each_alone() -> None:
    for model, changed in ((exact_toy(), ["honest"]), (two_tasks(), ["maths/logic"])):
        other, asked = edit(model, drop=changed), TALKS[:6]
        rows = [(talk, model if n % 2 else other) for n, talk in enumerate(asked)]
        alone = [variant.score([talk])[0] for talk, variant in rows]
        assert score_together(rows) == alone
        assert {score.model for score in alone} == {model.hash, other.hash}


def test_a_prompt_is_read_once_for_all_requests_of_a_batch() -> None:
    model = exact_toy(mode="fast")
    other, encoder = edit(model, drop=["honest"]), model.encoder
    assert isinstance(encoder, TransformerEncoder)
    score_together([(TALKS[0], model)])  # the checks of the first call
    [asked, *_] = World().preferences(1)
    answers = [Message(role="assistant", content=text) for text in ("fine " * n for n in range(1, 6))]
    rows = [((*asked.prompt, answer), (model, other)[n % 2]) for n, answer in enumerate(answers)]
    read = list[int]()
    hook = encoder.model.register_forward_pre_hook(
        lambda module, args, kwargs: read.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    scores = score_together(rows)
    hook.remove()
    prompt = encoder.tokenize(rows[0][0]).prompt_end + 1
    assert sum(read) == sum(score.tokens for score in scores) - 4 * prompt


def test_explanations_and_rewards_are_read_together_each_conversation_once() -> None:
    model, asked = exact_toy(), talks()
    changed = edit(model, drop=["honest"])
    wanted = json.loads(json.dumps(explain_pair(changed, asked[0], asked[1]).to_dict()))
    turns = [[{"role": m.role, "content": m.content} for m in talk] for talk in asked]
    told, free = list[BatchRead](), threading.Event()
    with reward_server(lambda: model, batch_tokens=10**6) as client, ThreadPoolExecutor(5) as pool:
        service = client.server.served.service
        assert service is not None
        service.batcher._told = lambda batch: told.append(batch) if free.wait(30.0) else None
        client.post("/v1/rewards", {"messages": turns[0]})  # the thread that reads is held after this batch
        try:
            explain = [pool.submit(client.post, "/v1/explain", {"conversations": turns[:2], "mask": ["honest"]})]
            explain += [pool.submit(client.post, "/v1/explain", {"messages": turns[n]}) for n in (2, 3)]
            reward = pool.submit(client.post, "/v1/rewards", {"conversations": turns[4:]})
            until = time.monotonic() + 30.0
            while service.batcher.waiting < len(asked):
                assert time.monotonic() < until
                time.sleep(0.005)
        finally:
            free.set()
        pair, *alone = [future.result().value["explanation"] for future in explain]
        assert [one["reward"] for one in reward.result().value["scores"]] == [s.reward for s in model.score(asked[4:])]
    assert pair == wanted
    assert [one["reward"] for one in alone] == [score.reward for score in model.score(asked[2:4])]
    assert [(batch.rows, batch.tokens) for batch in told[1:]] == [
        (len(asked), sum(s.tokens for s in model.score(asked)))
    ]


def test_an_edit_has_one_form() -> None:
    assert not AskedEdit.of({"a": 1.0}, [])
    one, same = AskedEdit.of({"b": 2, "a": 0.5}, ["d", "c", "d"]), AskedEdit.of({"a": 0.5, "b": 2.0}, ["c", "d"])
    assert one == same
    assert one.to_dict() == {"objective_weights": {"a": 0.5, "b": 2.0}, "mask": ["c", "d"]}
