"""The budget of an adapter's training: steps, early stopping, rates, and folds where held-out prompts are few."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch

import facetrm.fit.experts.adapters
from expert_samples import GROUPS, TEST, adapter_of, equal, group, opened, random_head, settings, trained, turned
from facetrm.fit.experts.held_out import HeldOutFigures, ranked_accuracy
from fakes import tiny_decoder


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_decoder(tmp_path_factory.mktemp("b") / "llama")


def held_out(encoder, fit):
    return ranked_accuracy(encoder, TEST, name=fit.name, head_D=fit.head_D)


def told_figures(*values):
    """Return a stand-in for :func:`ranked_figures` that tells ``values`` one after the other, for 16 prompts each."""
    told = iter(values)
    return lambda *a, **k: HeldOutFigures(*2 * [np.full(16, next(told))])


def test_patience_begins_to_count_at_the_smallest_number_of_steps(base, tmp_path, monkeypatch):
    """XOR is flat for long before it falls: a training that stops early must not stop on the plateau."""
    monkeypatch.setattr(facetrm.fit.experts.adapters, "ranked_figures", told_figures(*[0.5] * 40))
    early = trained(opened(base), tmp_path / "t", settings(evaluate_every=2, patience=2, min_steps=1))
    assert early.steps == 4
    later = trained(opened(base), tmp_path / "u", settings(evaluate_every=2, patience=2, min_steps=12))
    assert later.steps == 12
    assert (early.best_step, later.best_step) == (0, 0)


def test_the_budget_is_counted_in_steps(base, tmp_path):
    """80 groups, 64 of them trained on, 8 in a batch: a pass has 8 steps."""

    def steps(name, *, min_steps, **trainer):
        config = settings(min_steps=min_steps, evaluate_every=50, trainer={"max_steps": None, **trainer})
        return trained(opened(base), tmp_path / name, config).steps

    assert steps("few rows", min_steps=20, num_train_epochs=1) == 20
    assert steps("many passes", min_steps=20, num_train_epochs=4) == 32
    assert steps("asked for", min_steps=20, num_train_epochs=1, max_steps=3) == 3


def test_no_step_has_rate_zero_and_the_cosine_starts_at_the_stated_rate(base, tmp_path):
    def rates(name, **trainer):
        fit = trained(opened(base), tmp_path / name, settings(trainer={"max_steps": 10, "logging_steps": 1, **trainer}))
        return [entry["learning_rate"] for entry in fit.spent.history if "learning_rate" in entry]

    plain = rates("plain")
    assert plain[0] == 3e-3
    assert plain == pytest.approx([3e-3 * 0.5 * (1 + math.cos(math.pi * n / 10)) for n in range(10)])
    warm = rates("warm", warmup_steps=4)
    assert warm[:4] == pytest.approx([3e-3 * n / 4 for n in (1, 2, 3, 4)])
    assert warm[4] == pytest.approx(3e-3)
    assert min(plain + warm) > 0


def test_few_held_out_prompts_are_judged_by_folds(base, tmp_path):
    """12 prompts: one split would judge on two of them; three folds judge on all twelve."""
    encoder, rows = opened(base), [p.model_copy(update={"id": f"{n}"}) for n, p in enumerate(GROUPS[:12])]
    given = {"evaluate_every": 10, "folds": 3, "few": 10, "select": "loss", "gain": 1.0, "trainer": {"max_steps": 30}}
    seen = []

    def head(training):
        seen.append({p.prompt_key for p in training})
        return random_head(32)

    fit = trained(encoder, tmp_path / "t", settings(**given), preferences=rows, head=head)
    assert [len(keys) for keys in seen] == [8, 8, 8, 12], "no head sees the prompts that judge it"
    assert set.union(*(seen[3] - keys for keys in seen[:3])) == seen[3]
    assert (fit.folds, fit.steps, fit.decision.prompts) == (3, 30, 12)
    assert fit.kept
    assert fit.loss < fit.start_loss - 0.2
    assert held_out(encoder, fit) > 0.9
    assert fit.counts == {"train": 12, "validation": 12}
    again = opened(base)
    same = trained(again, tmp_path / "t", settings(**given), preferences=rows, head=random_head(32))
    assert torch.equal(same.head_D, fit.head_D)
    assert equal(adapter_of(again), adapter_of(encoder))
    assert same.decision == fit.decision


def test_folds_that_gain_nothing_keep_the_start(base, tmp_path):
    """Ranks drawn by lot teach nothing."""
    draw = random.Random(3)
    rows = [draw.choice([p, turned(p)]) for p in [group(n, 2) for n in range(24)]]
    encoder = opened(base)
    given = {"evaluate_every": 10, "folds": 4, "few": 10, "select": "loss", "gain": 1.0, "trainer": {"max_steps": 40}}
    fit = trained(encoder, tmp_path / "t", settings(**given), preferences=rows, head=torch.zeros(32))
    assert (fit.kept, fit.best_step, fit.change) == (False, 0, 0.0)
    assert fit.loss == fit.start_loss == pytest.approx(math.log(2))
    assert all(not tensor.any() for key, tensor in adapter_of(encoder).items() if "lora_B" in key)
    assert not fit.head_D.any()
