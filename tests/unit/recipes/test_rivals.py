"""Rivals of a routed model: each member reads with its own adapter, each task with its own head."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from expert_samples import GROUPS, LORA, adapter_of, opened, random_head
from facetrm.backbone.lora.adapters import adapter_tensors
from facetrm.baselines.ensemble import ensemble_rewards
from facetrm.data.views import as_pairs
from facetrm.fit.experts.adapters import ExpertFit
from facetrm.fit.experts.keep import KeepDecision
from facetrm.fit.trainer import TrainingCost
from facetrm.recipes.dmoerm.inner import encode_pairs
from facetrm.recipes.dmoerm.rivals import Rivals, rival_margins
from fakes import tiny_decoder

PAIRS = [pair for group in GROUPS[:12] for pair in as_pairs(group)][:15]


def member(name: str, head_D: torch.Tensor) -> ExpertFit:
    decision = KeepDecision(look=1, best=1, gain=0.1, error=0.01, looks=1, prompts=4)
    spent = TrainingCost(1, 0.0, 0, 0, ())
    figures = {"accuracy": 1.0, "start": 0.5, "loss": 0.1, "start_loss": 0.7, "best_step": 1, "steps": 1, "rate": 0.1}
    return ExpertFit(name, head_D, **figures, change=0.1, folds=1, decision=decision, counts={}, spent=spent)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """Return an encoder with two adapters that change the vectors, each in its own way."""
    found = opened(tiny_decoder(tmp_path_factory.mktemp("b") / "llama"))
    for seed, name in enumerate(("one", "two")):
        found.add_adapter(name, LORA, seed=seed)
        draw = torch.Generator().manual_seed(seed)
        for tensor in adapter_tensors(found.model, name=name).values():
            tensor.add_(0.3 * torch.randn(tensor.shape, generator=draw))
    assert set(adapter_of(found, "one")) == set(adapter_of(found, "two"))
    return found


def alone(encoder, adapters, head_D) -> np.ndarray:
    """Return the rewards of both sides, read without any other adapter, [2, N]."""
    read = encode_pairs(encoder, PAIRS, adapters=adapters)
    sides = [side.response_NAD[:, 0].double() @ head_D.double() for side in (read.chosen, read.rejected)]
    return torch.stack(sides).numpy()


def test_each_member_reads_with_its_own_adapter(encoder):
    heads = [random_head(32, seed=n) for n in (1, 2)]
    members = tuple(member(name, head_D) for name, head_D in zip(("one", "two"), heads, strict=True))
    found = rival_margins(encoder, Rivals(members, None, {}, GROUPS[:6]), PAIRS, ["chat"] * len(PAIRS))
    one, two = (alone(encoder, [name], head_D) for name, head_D in zip(("one", "two"), heads, strict=True))
    assert found["single_rm"] == pytest.approx(one[0] - one[1], abs=1e-5)
    assert np.abs(found["single_rm"]).max() > 1e-3
    reference = encode_pairs(encoder, GROUPS[:6], adapters=["one", "two"])
    both = [side.response_NAD.double() for side in (reference.chosen, reference.rejected)]
    known_MR = np.stack([torch.cat([side[:, m] @ heads[m].double() for side in both]).numpy() for m in (0, 1)])
    for kind in ("mean", "worst", "uncertainty"):
        sides = [ensemble_rewards(np.stack([one[s], two[s]]), reference_MR=known_MR, kind=kind) for s in (0, 1)]
        assert found[f"ensemble_{kind}"] == pytest.approx(sides[0] - sides[1], abs=1e-4), kind


def test_a_prompt_is_read_by_the_linear_head_of_the_task_that_the_router_chose(encoder):
    everyone_D, chat_D = random_head(32, seed=3), random_head(32, seed=4)
    used = ["chat", "code"] * len(PAIRS)
    found = rival_margins(encoder, Rivals((), everyone_D, {"chat": chat_D}, []), PAIRS, used[: len(PAIRS)])
    assert set(found) == {"linear_bt", "routed_linear"}
    whole, chat = (both[0] - both[1] for both in (alone(encoder, None, everyone_D), alone(encoder, None, chat_D)))
    assert found["linear_bt"] == pytest.approx(whole, abs=1e-6)
    assert found["routed_linear"][::2] == pytest.approx(chat[::2], abs=1e-6)
    assert found["routed_linear"][1::2] == pytest.approx(whole[1::2], abs=1e-6), "a task without a head of its own"


def test_one_member_is_no_ensemble(encoder):
    found = rival_margins(encoder, Rivals((member("one", random_head(32)),), None, {}, GROUPS[:4]), PAIRS, ["x"] * 15)
    assert set(found) == {"linear_bt", "routed_linear", "single_rm"}
    assert not found["linear_bt"].any()
