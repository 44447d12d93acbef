"""Threads on one trunk: each reads what it reads alone, and a pass that fails leaves nothing behind."""

from __future__ import annotations

import gc
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, Event, Thread
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaModel, PreTrainedModel
from transformers.utils import logging

from adapter_samples import ROWS, learned
from facetrm.backbone import exclusive
from facetrm.backbone.checkpoint import quiet_transformers
from facetrm.backbone.encoder import Features
from facetrm.backbone.exclusive import making, trunk_lock
from facetrm.backbone.lora.adapters import LoraSettings
from facetrm.backbone.lora.switching import switched, tuned_layers
from facetrm.backbone.transformer import BackboneConfig, TransformerEncoder, load_encoder
from facetrm.data.objectives import Objective
from facetrm.explain.edits import edit
from facetrm.model.adapter_experts import AdapterExperts
from facetrm.model.aggregate import GatedSum
from facetrm.model.gate import Gate, GateShape
from facetrm.model.mixture import Mixture
from facetrm.model.reward_model import RewardModel
from fakes import tiny_decoder, tiny_encoder
from preferences import random_tensor

SIX = tuple(f"expert-{n}" for n in range(6))
TALKS = ROWS[:3]
THREADS, CALLS = 8, 208
BOUND = 1e-5  # of fast mode on a processor in float32; the engine's own check allows 1e-3 of a vector's norm

Job = Callable[[], Any]


def six(folder: Path, *, layers: str | None, **settings: Any) -> TransformerEncoder:
    encoder = load_encoder(BackboneConfig(path=str(folder), device="cpu", **settings))
    for seed, name in enumerate(SIX):
        learned(encoder.model, name, seed=seed, layers=layers)
    return encoder


def model_on(encoder: TransformerEncoder) -> RewardModel:
    size = encoder.hidden_size
    objectives = [Objective(name=f"o/{name}", low=0, high=1, kind="continuous") for name in SIX]
    experts = AdapterExperts(
        objectives, 0.2 * random_tensor(6, size, seed=1), 0.1 * random_tensor(6, seed=2), adapters=SIX
    )
    gate = GatedSum(Gate(GateShape(size, 6, hidden=8)), reference_K=0.3 * random_tensor(6, seed=3))
    return RewardModel(encoder, {"all": Mixture(experts, gate, beta=2.0)})


def jobs_of(encoder: TransformerEncoder) -> dict[str, Job]:
    model = model_on(encoder)
    without, louder = edit(model, drop=["o/expert-1"]), edit(model, scale={"o/expert-2": 3.0})
    shorter = encoder.shortened(truncation="drop_oldest", max_tokens=64)
    return {
        "bare": lambda: vectors(encoder.encode(TALKS)),
        "six": lambda: vectors(encoder.encode(TALKS, adapters=SIX)),
        "one": lambda: vectors(encoder.encode(TALKS, adapters=["expert-3"])),
        "mixed": lambda: torch.cat(
            [vectors(encoder.encode(TALKS[:2], adapters=SIX)), encoder.prompts(TALKS).flatten()]
        ),
        "prompts": lambda: encoder.prompts(TALKS),
        "shorter": lambda: vectors(shorter.encode(TALKS, adapters=["expert-0"])),
        "scores": lambda: torch.tensor([score.reward for score in model.score(TALKS)]),
        "dropped": lambda: torch.tensor([score.reward for score in without.score(TALKS)]),
        "scaled": lambda: torch.tensor([score.reward for score in louder.score(TALKS)]),
        "fingerprint": lambda: encoder.fingerprint,
    }


def vectors(features: Features) -> torch.Tensor:
    return torch.cat([features.prompt_ND.flatten(), features.response_NAD.flatten()])


def same(one: Any, other: Any, *, bound: float) -> bool:
    if isinstance(one, str):
        return bool(one == other)
    return torch.equal(one, other) if bound == 0 else float((one - other).abs().max()) <= bound


def in_threads(jobs: dict[str, Job], *, bound: float, calls: int = CALLS) -> list[str]:
    """Return the names of the calls, of ``calls`` in THREADS threads, that gave other than what they give alone."""
    alone = {name: job() for name, job in jobs.items()}
    names = [name for n in range(calls) for name in [sorted(jobs)[n % len(jobs)]]]
    random.Random(0).shuffle(names)
    together = Barrier(THREADS)

    def run(mine: list[str]) -> list[str]:
        together.wait(timeout=60)
        return [name for name in mine if not same(jobs[name](), alone[name], bound=bound)]

    with ThreadPoolExecutor(THREADS) as pool:
        return sorted(name for part in pool.map(run, [names[t::THREADS] for t in range(THREADS)]) for name in part)


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_decoder(tmp_path_factory.mktemp("threads") / "llama")


@pytest.mark.parametrize(("path", "layers"), [("exact", None), ("packed", "last 1"), ("padded", "last 1")])
def test_threads_on_one_trunk_read_what_each_reads_alone(decoder: Path, path: str, layers: str | None):
    encoder = six(decoder, layers=layers, mode="exact" if path == "exact" else "fast")
    beside = TransformerEncoder(encoder.model, encoder.tokenizer, config=encoder.config)
    if path == "padded":
        for one in (encoder, beside):
            vars(one._engine)["_packs"] = False
    jobs = jobs_of(encoder) | {f"beside, {name}": job for name, job in jobs_of(beside).items()}
    assert in_threads(jobs, bound=0 if path == "exact" else BOUND) == []


@pytest.mark.parametrize("mode", ["exact", "fast"])
def test_threads_on_a_bidirectional_trunk_read_what_each_reads_alone(tmp_path: Path, mode: str):
    encoder = six(tiny_encoder(tmp_path / "bert"), layers=None, mode=mode)
    assert in_threads(jobs_of(encoder), bound=0 if mode == "exact" else BOUND) == []


def test_adapters_come_and_go_while_others_read(decoder: Path):
    encoder = six(decoder, layers="last 1", mode="exact")
    done, changes = Event(), 0

    def change() -> None:
        nonlocal changes
        while not done.is_set() or not changes:
            encoder.add_adapter("guest", LoraSettings(rank=2), seed=changes)
            encoder.remove_adapter("guest")
            changes += 1

    jobs = {name: job for name, job in jobs_of(encoder).items() if name != "fingerprint"}  # names the guest too
    alone = {name: job() for name, job in jobs.items()}
    coming = Thread(target=change)
    coming.start()
    try:
        with ThreadPoolExecutor(4) as pool:
            results = [(name, pool.submit(job)) for _ in range(4) for name, job in jobs.items()]
            wrong = [name for name, r in results if not same(r.result(), alone[name], bound=0)]
    finally:
        done.set()
        coming.join(timeout=60)
    assert wrong == []
    assert changes
    assert encoder.adapters == SIX


def state_of(trunk: PreTrainedModel) -> dict[str, Any]:
    """Return all that a pass may change for its time."""
    return {
        "forwards": [name for name, module in trunk.named_modules() if "forward" in vars(module)],
        "hooks": sum(len(module._forward_hooks) for module in trunk.modules()),
        "attention": trunk.config._attn_implementation,
        "training": [name for name, module in trunk.named_modules() if module.training],
        "adapters": [(layer._active_adapter, layer._disable_adapters) for _, layer in tuned_layers(trunk)],
    }


class Failing:
    """A hook that raises at the call number ``at``."""

    def __init__(self, at: int, error: type[BaseException]) -> None:
        self.at, self.error, self.calls = at, error, 0

    def __call__(self, *_: object) -> None:
        self.calls += 1
        if self.calls == self.at:
            raise self.error("made up")


@pytest.mark.parametrize(
    ("path", "error"), [("exact", ValueError), ("packed", RuntimeError), ("padded", KeyboardInterrupt)]
)
def test_a_pass_that_fails_leaves_nothing_behind(decoder: Path, path: str, error: type[BaseException]):
    encoder = six(decoder, layers="last 1", mode="exact" if path == "exact" else "fast")
    if path == "padded":
        vars(encoder._engine)["_packs"] = False
    jobs = jobs_of(encoder)
    alone, before = {name: job() for name, job in jobs.items()}, state_of(encoder.model)
    assert before["forwards"] == []
    reading = encoder.model.get_submodule("layers.1.self_attn")
    failed = 0
    for at in (1, 2, 5):
        for name in ("bare", "six", "mixed", "scores"):
            hook = reading.register_forward_pre_hook(Failing(at, error))
            try:
                jobs[name]()
            except error:
                failed += 1
            hook.remove()
            assert state_of(encoder.model) == before
    assert failed > 6
    assert [name for name in jobs if not same(jobs[name](), alone[name], bound=0)] == []
    assert in_threads(jobs, bound=0 if path == "exact" else BOUND, calls=32) == []


def test_flags_of_training_are_back_module_by_module(decoder: Path):
    encoder = six(decoder, layers=None)
    encoder.model.train()
    encoder.model.get_submodule("layers.0").eval()
    before = state_of(encoder.model)["training"]
    assert before
    expected = encoder.encode(TALKS, adapters=SIX)
    assert state_of(encoder.model)["training"] == before
    encoder.model.eval()
    assert torch.equal(vectors(encoder.encode(TALKS, adapters=SIX)), vectors(expected))


def test_a_default_type_that_a_loader_sets_changes_no_bit(decoder: Path):
    # Transformers sets the process's default type while it loads; another thread may read or edit meanwhile.
    encoder = six(decoder, layers="last 1", mode="exact")
    alone = {name: job() for name, job in jobs_of(encoder).items() if name != "fingerprint"}
    jobs = jobs_of(encoder)
    torch.set_default_dtype(torch.bfloat16)
    try:
        found = {name: jobs[name]() for name in alone}
        edited = edit(model_on(encoder), scale={"o/expert-2": 1.37}, pin={"o/expert-1": 0.123})
    finally:
        torch.set_default_dtype(torch.float32)
    for name in ("bare", "six", "one", "mixed", "prompts", "shorter"):
        assert torch.equal(found[name], alone[name]), name
    aggregator = edited.mixture().aggregator
    assert isinstance(aggregator, GatedSum)
    assert aggregator.factor_K.dtype == aggregator.pinned_K.dtype == torch.float32


def test_one_lock_for_each_trunk(decoder: Path):
    config = LlamaConfig(vocab_size=32, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    one, twin = LlamaModel(config), LlamaModel(config)
    other = LlamaModel(LlamaConfig.from_dict(config.to_dict()))
    assert trunk_lock(one) is trunk_lock(one) is trunk_lock(twin)  # one configuration says how both attend
    assert trunk_lock(one) is not trunk_lock(other)
    encoder = six(decoder, layers=None)
    assert trunk_lock(encoder.shortened(max_tokens=8).model) is trunk_lock(encoder.model)
    key = id(other.config)
    assert key in exclusive._locks
    del other
    gc.collect()
    assert key not in exclusive._locks


def test_a_switch_keeps_other_threads_from_the_trunk(decoder: Path):
    encoder = six(decoder, layers=None)
    alone, inside, leave = vectors(encoder.encode(TALKS)), Event(), Event()

    def hold() -> None:
        with switched(encoder.model, "expert-0"):
            inside.set()
            leave.wait(timeout=60)

    holding = Thread(target=hold)
    holding.start()
    assert inside.wait(timeout=60)
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(encoder.encode, TALKS)
        assert not read.done()
        leave.set()
        assert torch.equal(vectors(read.result(timeout=60)), alone)
    holding.join(timeout=60)


def test_two_loaders_restore_what_was_said_before():
    level, inside, outside = logging.get_verbosity(), Event(), Event()

    def first() -> None:
        with quiet_transformers():
            inside.set()
            outside.wait(timeout=0.2)  # the second one must wait: nobody sets this while we are in

    one = Thread(target=first)
    one.start()
    assert inside.wait(timeout=60)
    with quiet_transformers():
        outside.set()
        one.join(timeout=60)
    assert logging.get_verbosity() == level
    with making, making:  # re-entrant: a model's adapters are made under it
        pass
