"""One adapter with its head: it learns, nothing else moves, the best state is kept, and its arguments hold."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import facetrm.fit.experts.adapters
from expert_samples import (
    GROUPS,
    LORA,
    TEST,
    adapter_of,
    equal,
    group,
    opened,
    random_head,
    settings,
    tensors_of,
    trained,
    turned,
)
from facetrm.backbone.lora.adapters import LoraSettings, adapter_tensors
from facetrm.core.errors import BackboneError, ConfigError, FitError
from facetrm.fit.experts.held_out import HeldOutFigures, hold_out_prompts, ranked_accuracy
from facetrm.fit.trainer import HeadsTrainer
from fakes import tiny_decoder, tiny_encoder

FINISHED = "trained.safetensors"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_decoder(tmp_path_factory.mktemp("b") / "llama")


@pytest.fixture(scope="module")
def learned(base, tmp_path_factory):
    """Return an encoder with the trained adapter ``mine``, its fit, and the folder of the training."""
    encoder, folder = opened(base), tmp_path_factory.mktemp("learned") / "t"
    return encoder, trained(encoder, folder), folder


def held_out(encoder, fit):
    return ranked_accuracy(encoder, TEST, name=fit.name, head_D=fit.head_D)


def test_groups_of_ranked_responses_are_learned_from_a_random_head(learned, base):
    encoder, fit, _ = learned
    bare = opened(base)
    bare.add_adapter("mine", LORA, seed=0)
    at_first = ranked_accuracy(bare, TEST, name="mine", head_D=random_head(32))
    assert abs(at_first - 0.5) < 0.3
    assert held_out(encoder, fit) > 0.95
    assert fit.accuracy > 0.95
    assert fit.start < 0.8
    logged = [entry["loss"] for entry in fit.spent.history if "loss" in entry]
    assert logged[0] == pytest.approx(math.log(2), abs=0.05)
    assert logged[-1] < 0.3
    assert fit.counts == {"train": 64, "validation": 16}
    assert fit.spent.steps == 40
    figures = fit.to_dict()
    assert {"accuracy", "start", "best_step", "train", "validation", "steps", "seconds", "tokens"} <= figures.keys()
    json.dumps(figures, allow_nan=False)


def test_the_better_rank_has_the_higher_reward_in_training_selection_and_test_alike(learned, base, tmp_path):
    """The released code trains lower ranks to win, and keeps the state that gets most of them wrong."""
    encoder, fit, _ = learned
    right = held_out(encoder, fit)
    assert ranked_accuracy(encoder, TEST, name="mine", head_D=-fit.head_D) == pytest.approx(1 - right, abs=1e-9)
    assert ranked_accuracy(encoder, [turned(p) for p in TEST], name="mine", head_D=fit.head_D) == pytest.approx(
        1 - right, abs=1e-9
    )
    mirrored = opened(base)
    other = trained(mirrored, tmp_path / "t", preferences=[turned(p) for p in GROUPS])
    assert other.accuracy > 0.95
    assert held_out(mirrored, other) < 0.05
    kept = [entry["eval_accuracy"] for entry in fit.spent.history if "eval_accuracy" in entry]
    assert fit.accuracy == max(kept)


def test_ties_count_one_half_and_groups_count_alike(learned):
    encoder, fit, _ = learned
    assert ranked_accuracy(encoder, TEST, name="mine", head_D=torch.zeros(32)) == 0.5
    two, four = group(1, 2), turned(group(2, 4))
    assert ranked_accuracy(encoder, [two, four], name="mine", head_D=fit.head_D) == pytest.approx(0.5, abs=0.09)


def test_adapter_and_head_are_trained_and_nothing_else(learned, tmp_path, base):
    """The released code leaves the heads out of the optimizer."""
    encoder = opened(base)
    first = trained(encoder, tmp_path / "one", settings(trainer={"max_steps": 4}))
    before = tensors_of(encoder)
    start_D = random_head(32, seed=5)
    second = trained(encoder, tmp_path / "two", settings(trainer={"max_steps": 4}), name="other", head=start_D)
    assert second.best_step > 0
    after = tensors_of(encoder)
    assert {name for name in after if name not in before} == {name for name in after if ".other." in name}
    for name, tensor in before.items():
        assert torch.equal(after[name], tensor), name
    assert not torch.equal(second.head_D, start_D)
    changed = [key for key, tensor in adapter_tensors(encoder.model, name="other").items() if tensor.any()]
    assert sum("lora_B" in key for key in changed) == sum("lora_A" in key for key in changed) == 14
    fresh = opened(base)
    fresh.add_adapter("other", LORA, seed=0)
    for key, tensor in adapter_tensors(fresh.model, name="other").items():
        assert not torch.equal(tensor, adapter_tensors(encoder.model, name="other")[key]), key
    assert load_file(tmp_path / "two" / FINISHED).keys() == {
        "heads.preference_D",
        *(name for name in (f"trunk.{key}" for key in after) if ".other." in name),
    }
    assert not any(p.requires_grad for p in encoder.model.parameters())
    assert encoder.model.config.use_cache == opened(base).model.config.use_cache, "what a run saves after going on"
    assert not encoder.model.training
    assert encoder.adapters == ("mine", "other")
    assert first.name == "mine"


def test_an_expert_starts_as_a_copy_of_the_tasks_adapter(learned, tmp_path):
    encoder, base_fit, _ = learned
    before = adapter_of(encoder)
    still = settings(trainer={"max_steps": 1, "learning_rate": 1e-12})
    fit = trained(encoder, tmp_path / "t", still, name="copy", start="mine", head=base_fit.head_D)
    assert (fit.accuracy, fit.start, fit.best_step) == (base_fit.accuracy, base_fit.accuracy, 0)
    assert equal(adapter_of(encoder, "copy"), before)
    assert torch.equal(fit.head_D, base_fit.head_D)
    moving = settings(trainer={"max_steps": 10})
    rows = [turned(p) for p in GROUPS]
    other = trained(encoder, tmp_path / "u", moving, name="moved", start="mine", preferences=rows)
    assert other.best_step > 0
    assert not equal(adapter_of(encoder, "moved"), before)
    assert equal(adapter_of(encoder), before), "what it was copied from stays"
    encoder.remove_adapter("copy")
    encoder.remove_adapter("moved")


def test_a_copy_of_another_size_or_of_none_is_refused(learned, tmp_path):
    encoder, _, _ = learned
    with pytest.raises(FitError, match=r"adapter 'big' has other layers or another rank than 'mine'.*same lora"):
        trained(encoder, tmp_path / "a", name="big", start="mine", lora=LoraSettings(rank=2))
    encoder.remove_adapter("big")
    with pytest.raises(BackboneError, match="nobody"):
        trained(encoder, tmp_path / "b", name="big", start="nobody")


def test_the_state_that_is_kept_is_the_best_one(base, tmp_path, monkeypatch):
    """Every state is asked for by what held-out prompts are said to say of it."""
    constant = {"lr_scheduler_type": "constant", "warmup_steps": 0}

    def fit(name, said, steps):
        told = iter(said)
        with monkeypatch.context() as patch:
            patch.setattr(
                facetrm.fit.experts.adapters,
                "ranked_figures",
                lambda *a, **k: HeldOutFigures(*2 * [np.full(16, next(told))]),
            )
            encoder = opened(base)
            config = settings(evaluate_every=5, trainer={"max_steps": steps, **constant})
            found = trained(encoder, tmp_path / name, config)
        assert next(told, None) is None, "one evaluation before the first step, and one every five"
        return found, adapter_of(encoder)

    long, kept = fit("long", [0.5, 0.6, 0.9, 0.8], 15)
    assert (long.start, long.accuracy, long.best_step) == (0.5, 0.9, 10)
    short, last = fit("short", [0.5, 0.6, 0.9], 10)
    assert short.best_step == 10
    assert equal(kept, last)
    assert torch.equal(long.head_D, short.head_D)
    # Of equal ones the earlier.
    level, _ = fit("level", [0.5, 0.9, 0.9, 0.9], 15)
    assert level.best_step == 5
    assert not torch.equal(level.head_D, long.head_D)
    # The state before the first step may be the best one, and no worse than the first of equals.
    for name, said in (("none", [0.7, 0.6, 0.5, 0.4]), ("equal", [0.7, 0.6, 0.7, 0.4])):
        none, adapter = fit(name, said, 15)
        assert (none.start, none.accuracy, none.best_step) == (0.7, 0.7, 0)
        assert torch.equal(none.head_D, random_head(32))
        assert all(not tensor.any() for key, tensor in adapter.items() if "lora_B" in key)
        assert load_file(tmp_path / name / FINISHED)["heads.preference_D"].equal(random_head(32))


def test_a_gain_that_may_be_luck_is_not_taken(base, tmp_path, monkeypatch):
    """All 16 held-out prompts may gain a little, or one of them may gain much: only the first is more than chance."""

    def fit(name, said, **given):
        told = iter(said)
        with monkeypatch.context() as patch:
            patch.setattr(
                facetrm.fit.experts.adapters, "ranked_figures", lambda *a, **k: HeldOutFigures(*2 * [next(told)])
            )
            config = settings(evaluate_every=2, trainer={"max_steps": 4}, select="loss", gain=1.0, **given)
            return trained(opened(base), tmp_path / name, config)

    start, one = np.full(16, 0.7), np.full(16, 0.7)
    one[3] = 0.0
    lucky = fit("lucky", [start, one, start])
    assert (lucky.loss, lucky.start_loss, lucky.best_step, lucky.kept) == (0.7, 0.7, 0, False)
    assert torch.equal(lucky.head_D, random_head(32))
    assert lucky.change == 0.0
    everyone = start - np.linspace(0.01, 0.03, 16)
    clear = fit("clear", [start, everyone, start])
    assert (clear.loss, clear.best_step, clear.kept) == (pytest.approx(0.68), 2, True)
    assert clear.decision.gain == pytest.approx(0.02)
    assert clear.change > 1e-3
    assert not torch.equal(clear.head_D, random_head(32))
    # What is read of a finished folder says the same.
    again = fit("clear", [])
    assert (again.loss, again.best_step, again.change, again.decision) == (
        clear.loss,
        clear.best_step,
        clear.change,
        clear.decision,
    )


def test_margins_of_two_hundred_stay_finite(base, tmp_path):
    """The released code takes the logarithm of a sigmoid: an infinite loss and no gradient from 120 on."""
    encoder = opened(base)
    rows = [turned(p) for p in GROUPS]
    easy = trained(encoder, tmp_path / "easy", settings(trainer={"max_steps": 20}))
    huge_D = 2000 * easy.head_D / easy.head_D.norm()
    config = settings(trainer={"max_steps": 6, "max_grad_norm": 0})
    fit = trained(encoder, tmp_path / "t", config, name="far", start="mine", head=huge_D, preferences=rows)
    logged = [entry for entry in fit.spent.history if "loss" in entry]
    assert logged[0]["loss"] > 200
    assert all(math.isfinite(entry["loss"]) and 0 < entry["grad_norm"] < math.inf for entry in logged)
    assert logged[-1]["loss"] < logged[0]["loss"]
    assert torch.isfinite(fit.head_D).all()


def test_dropout_is_on_in_the_steps_after_an_evaluation_too(base, tmp_path, monkeypatch):
    """The released code calls eval() for its first evaluation and never train() again."""
    usual, seen = HeadsTrainer.compute_loss, []

    def watched(self, model, inputs, *args, **more):
        layers = [m for path, m in model.named_modules() if path.endswith("lora_dropout.mine")]
        seen.append([bool((layer(torch.ones(400)) == 0).any()) for layer in layers])
        return usual(self, model, inputs, *args, **more)

    monkeypatch.setattr(HeadsTrainer, "compute_loss", watched)
    config = settings(evaluate_every=2, trainer={"max_steps": 6})
    fit = trained(opened(base), tmp_path / "t", config, lora=LoraSettings(rank=4, alpha=8.0, dropout=0.2))
    assert [e["step"] for e in fit.spent.history if "eval_accuracy" in e] == [2, 4, 6]
    assert len(seen) == 6
    assert all(len(layers) == 14 and all(layers) for layers in seen)


def test_held_out_prompts_are_whole_and_depend_on_seed_and_prompt_alone():
    rows = [*GROUPS, *(p.model_copy(update={"id": f"again {p.id}", "aspect": "kind"}) for p in GROUPS[:40])]
    training, held = hold_out_prompts(rows, 0.25, seed=0)
    keys = [{p.prompt_key for p in part} for part in (training, held)]
    assert not keys[0] & keys[1]
    assert (len(keys[0]), len(keys[1])) == (60, 20)
    assert [p.id for p in training] == [p.id for p in rows if p.prompt_key in keys[0]]
    assert len({p.prompt_key for p in held[:20]}) == 20  # the first of each prompt before the second of any
    assert sorted(str(p.id) for p in held) == sorted(str(p.id) for p in rows if p.prompt_key in keys[1])
    assert {p.prompt_key for p in hold_out_prompts(rows[::-1], 0.25, seed=0)[1]} == keys[1]
    assert {p.prompt_key for p in hold_out_prompts(rows, 0.25, seed=1)[1]} != keys[1]
    for share in (0.001, 0.999):
        parts = hold_out_prompts(GROUPS[:2], share, seed=0)
        assert [len(part) for part in parts] == [1, 1]


def test_one_prompt_alone_is_refused(base, tmp_path):
    rows = [GROUPS[0].model_copy(update={"id": str(n)}) for n in range(30)]
    with pytest.raises(FitError, match=r"30 preferences of 1 prompts cannot be split; give preferences of two"):
        trained(opened(base), tmp_path / "t", preferences=rows)
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize(("key", "value"), [("fsdp", "full_shard"), ("deepspeed", {"zero_optimization": {}})])
def test_a_trunk_in_pieces_is_refused_before_anything_is_written(base, tmp_path, key, value):
    with pytest.raises(ConfigError, match=rf"trainer: {key} is on, but .*remove {key}"):
        trained(opened(base), tmp_path / "t", settings(trainer={key: value}))
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize("key", ["save_steps", "data_seed"])
def test_what_is_set_here_cannot_be_given(base, tmp_path, key):
    with pytest.raises(ConfigError, match=f"'{key}' is set by this training itself; take {key} out"):
        trained(opened(base), tmp_path / "t", settings(trainer={key: 1}))
    assert not (tmp_path / "t").exists()


def test_accumulated_and_checkpointed_batches_are_one_plain_batch(base, tmp_path):
    pairs = [group(n, 2) for n in range(40)]

    def at_end(name, **trainer):
        encoder = opened(base)
        config = settings(evaluate_every=3, trainer={"max_steps": 3, **trainer})
        fit = trained(encoder, tmp_path / name, config, preferences=pairs)
        return fit, ranked_vectors(encoder)

    def ranked_vectors(encoder):
        talks = [(*p.prompt, answer) for p in TEST[:10] for answer in p.responses]
        return encoder.encode(talks, adapters=["mine"]).response_NAD[:, 0]

    plain, plain_ND = at_end("plain")
    moved = (plain_ND - ranked_vectors_of_none(base)).abs().max()
    assert moved > 1e-3
    for name, trainer in {
        "accumulated": {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4},
        "checkpointed": {"gradient_checkpointing": True},
    }.items():
        fit, vectors_ND = at_end(name, **trainer)
        assert fit.spent.steps == 3
        assert (vectors_ND - plain_ND).abs().max() < 0.02 * moved, name
        assert (fit.head_D - plain.head_D).abs().max() < 1e-4
        losses = [[e["loss"] for e in f.spent.history if "loss" in e] for f in (plain, fit)]
        assert losses[1] == pytest.approx(losses[0], abs=2e-3), name


def ranked_vectors_of_none(base):
    talks = [(*p.prompt, answer) for p in TEST[:10] for answer in p.responses]
    return opened(base).encode(talks).response_NAD[:, 0]


def test_bfloat16_autocast_trains_float32_tensors(base, tmp_path):
    encoder = opened(base)
    fit = trained(encoder, tmp_path / "t", settings(trainer={"bf16": True}))
    assert held_out(encoder, fit) > 0.9
    assert fit.head_D.dtype == torch.float32
    assert {tensor.dtype for tensor in load_file(tmp_path / "t" / FINISHED).values()} == {torch.float32}
    assert fit.accuracy == ranked_accuracy(
        encoder, hold_out_prompts(GROUPS, 0.2, seed=0)[1], name="mine", head_D=fit.head_D
    )


def test_a_bidirectional_trunk_learns_too(tmp_path):
    encoder = opened(tiny_encoder(tmp_path / "bert"))
    fit = trained(encoder, tmp_path / "t")
    assert held_out(encoder, fit) > 0.9


def test_an_adapter_that_starts_above_others_does_not_hear_them(learned, base, tmp_path):
    """Other adapters of the trunk are off while one is trained: alone it ends with the same bits."""
    encoder, _, _ = learned
    quick = settings(trainer={"max_steps": 3})
    beside = trained(encoder, tmp_path / "a", quick, name="new")
    alone = opened(base)
    only = trained(alone, tmp_path / "b", quick, name="new")
    assert torch.equal(beside.head_D, only.head_D)
    assert equal(adapter_of(encoder, "new"), adapter_of(alone, "new"))
    encoder.remove_adapter("new")


def test_an_accuracy_is_a_share_however_it_is_summed(learned):
    """A sum of weights such as 1/3 may miss 1 by its rounding, and states that are equally good would not be equal."""
    encoder, fit, _ = learned
    for size in (3, 4):
        groups = [group(n, size) for n in range(300, 340)]
        good = [g for g in groups if ranked_accuracy(encoder, [g], name="mine", head_D=fit.head_D) > 0.999]
        assert len(good) > 10
        for count in (1, 3, 7, len(good)):
            assert ranked_accuracy(encoder, good[:count], name="mine", head_D=fit.head_D) == 1.0
