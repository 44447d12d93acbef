"""Small models whose experts read an adapter each, on the hash encoder: one task, and two behind a router."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch

from facetrm.backbone.encoder import Features
from facetrm.data.objectives import Objective
from facetrm.model.adapter_experts import AdapterExperts
from facetrm.model.aggregate import GatedSum
from facetrm.model.concat import ConcatMLP
from facetrm.model.gate import Gate, GateShape
from facetrm.model.mixture import Mixture
from facetrm.model.reward_model import RewardModel
from fakes import HashEncoder, NamedHashEncoder, chat
from preferences import random_tensor

HIDDEN = 16
CHAT = ("empathy", "proactivity", "content")
MATHS = ("logic", "correctness")
TALKS = [
    chat(f"question {i} about {'sums' if i % 2 else 'poems'}", " ".join(["well"] * (i % 5 + 1) + [f"answer {i}"]))
    for i in range(12)
]
PAIRS = [(talk, (*talk[:-1], other[-1])) for talk, other in pairwise(TALKS)]


NAMED = [f"{task}-{name}" for task, names in (("chat", CHAT), ("maths", MATHS)) for name in names]


def encoder() -> NamedHashEncoder:
    return NamedHashEncoder(HIDDEN, named=NAMED)


def experts(task: str = "chat", names: Sequence[str] = CHAT, seed: int = 0) -> AdapterExperts:
    objectives = [Objective(name=f"{task}/{name}", low=0, high=1, kind="continuous") for name in names]
    size = len(names)
    return AdapterExperts(
        objectives,
        0.2 * random_tensor(size, HIDDEN, seed=seed),
        0.1 * random_tensor(size, seed=seed + 1),
        adapters=[f"{task}-{name}" for name in names],
    )


def network(size: int = len(CHAT), seed: int = 0, *, width: int = HIDDEN, hidden: int | None = None) -> ConcatMLP:
    """A random network with a reference that is not zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ConcatMLP(0.3 * random_tensor(size, width, seed=seed + 2), hidden=hidden)


def gated(size: int = len(CHAT), seed: int = 0) -> GatedSum:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        gate = Gate(GateShape(HIDDEN, size, hidden=8))
    return GatedSum(gate, reference_K=0.3 * random_tensor(size, seed=seed + 3))


def one_task() -> RewardModel:
    """DMoERM's inner model alone."""
    return RewardModel(encoder(), {"all": Mixture(experts(), network(), beta=2.0)})


def weighed() -> RewardModel:
    """LoRA experts that the prompt weighs."""
    return RewardModel(encoder(), {"all": Mixture(experts(), gated(), beta=2.0)})


def router(tasks: int = 2) -> Gate:
    """A linear router, centred on the prompts of TALKS: each task gets some of them, with a confidence of its own."""
    gate = Gate(GateShape(HIDDEN, tasks, hidden=1, n_hidden=0, temperature=3.0))
    prompt_ND = HashEncoder(HIDDEN).prompts(TALKS)
    weight_KD = random_tensor(tasks, HIDDEN, seed=3)
    gate.load_state_dict({**gate.state_dict(), "center_D": prompt_ND.mean(dim=0), "head.weight": weight_KD})
    return gate


def two_tasks(*, fallback: str | None = None, threshold: float = 0.0) -> RewardModel:
    """DMoERM whole: a router over two tasks that have other experts, other adapters, and other numbers of them."""
    mixtures = {
        "chat": Mixture(experts(), network(), beta=2.0),
        "maths": Mixture(experts("maths", MATHS, 5), network(2, 5), beta=3.0),
    }
    return RewardModel(encoder(), mixtures, router(), fallback=fallback, threshold=threshold)


def vectors(rows: int, size: int = len(CHAT), *, seed: int = 40) -> Features:
    """Features of ``size`` adapters; rows 2n and 2n + 1 answer one prompt."""
    prompt_ND = random_tensor((rows + 1) // 2, HIDDEN, seed=seed).repeat_interleave(2, dim=0)[:rows]
    length_N = torch.arange(rows) % 7 + 1
    return Features(
        prompt_ND,
        random_tensor(rows, size, HIDDEN, seed=seed + 1),
        length_N,
        length_N + 3,
        torch.zeros(rows, dtype=torch.bool),
    )
