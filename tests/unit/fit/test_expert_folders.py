"""The folder of one expert's training: it goes on where it broke off, is read when done, and has one question."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from safetensors.torch import load_file

from expert_samples import GROUPS, adapter_of, equal, opened, random_head, settings, trained, turned
from facetrm.backbone.lora.adapters import LoraSettings
from facetrm.core.errors import FitError
from facetrm.fit.experts.held_out import hold_out_prompts
from facetrm.fit.trainer import HeadsTrainer
from fakes import tiny_decoder

FINISHED = "trained.safetensors"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_decoder(tmp_path_factory.mktemp("b") / "llama")


@pytest.fixture(scope="module")
def learned(base, tmp_path_factory):
    """Return an encoder with the trained adapter ``mine``, its fit, and the folder of the training."""
    encoder, folder = opened(base), tmp_path_factory.mktemp("learned") / "t"
    return encoder, trained(encoder, folder), folder


def test_a_training_that_was_interrupted_ends_with_the_same_bits(base, tmp_path, monkeypatch):
    config = settings(evaluate_every=3, trainer={"max_steps": 12})
    lora = LoraSettings(rank=4, alpha=8.0, dropout=0.1)
    whole = opened(base)
    first = trained(whole, tmp_path / "whole", config, lora=lora)
    usual = HeadsTrainer.log

    def broken_at(step):
        def log(self, logs, start_time=None):
            usual(self, logs, start_time)
            if self.state.global_step >= step and "loss" in logs:
                raise KeyboardInterrupt

        return log

    for step in (1, 5, 8):
        with monkeypatch.context() as patch:
            patch.setattr(HeadsTrainer, "log", broken_at(step))
            with pytest.raises(KeyboardInterrupt):
                trained(opened(base), tmp_path / "broken", config, lora=lora)
        assert not (tmp_path / "broken" / FINISHED).exists()
    kept = load_file(tmp_path / "broken" / "checkpoint-6" / "model.safetensors")
    assert kept.keys() == load_file(tmp_path / "whole" / FINISHED).keys(), "the frozen trunk is not written each time"
    assert len(kept) == 2 * 14 + 1
    again = opened(base)
    second = trained(again, tmp_path / "broken", config, lora=lora)
    assert torch.equal(first.head_D, second.head_D)
    assert equal(adapter_of(whole), adapter_of(again))
    assert (tmp_path / "broken" / FINISHED).read_bytes() == (tmp_path / "whole" / FINISHED).read_bytes()
    figures = [(f.accuracy, f.start, f.best_step, f.counts, f.spent.steps) for f in (first, second)]
    assert figures[0] == figures[1]
    losses = [[(e["step"], e["loss"]) for e in f.spent.history if "loss" in e] for f in (first, second)]
    assert losses[0] == losses[1]
    assert [b[0] - a[0] for a, b in pairwise(losses[0])] == [1] * 11


def test_a_finished_folder_is_read_and_not_trained_again(learned, base, monkeypatch):
    encoder, fit, folder = learned
    monkeypatch.setattr(HeadsTrainer, "train", lambda *a, **k: pytest.fail("it was trained again"))
    again = opened(base)
    same = trained(again, folder)
    assert same.to_dict() == fit.to_dict()
    assert torch.equal(same.head_D, fit.head_D)
    assert equal(adapter_of(again), adapter_of(encoder))
    assert again.adapter_fingerprint("mine") == encoder.adapter_fingerprint("mine")
    # An adapter of this name that stands there already is put away first.
    assert equal((trained(again, folder), adapter_of(again))[1], adapter_of(encoder))
    quieter = settings(trainer={"disable_tqdm": True, "report_to": "none"})
    assert trained(opened(base), folder, quieter).to_dict() == fit.to_dict()


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"config": settings(trainer={"max_steps": 41})}, "trainer"),
        ({"config": settings(evaluate_every=9)}, "evaluate_every"),
        ({"lora": LoraSettings(rank=2)}, "lora"),
        ({"origin": "another probe"}, "origin"),
        ({"preferences": GROUPS[:-1]}, "data"),
        ({"preferences": [*GROUPS[:-1], turned(GROUPS[-1])]}, "data"),
    ],
    ids=["trainer", "evaluations", "lora", "origin", "a row less", "a row turned"],
)
def test_a_folder_of_another_question_is_refused(learned, base, given, named):
    _, _, folder = learned
    with pytest.raises(FitError, match=rf"holds a training with other settings \({named}\)"):
        trained(opened(base), folder, **given)


def test_a_head_that_a_solver_gave_with_other_last_digits_goes_on_as_it_began(learned, base):
    _, fit, folder = learned
    again = trained(opened(base), folder, head=random_head(32, seed=9))
    assert torch.equal(again.head_D, fit.head_D)
    assert (again.start, again.accuracy, again.best_step) == (fit.start, fit.accuracy, fit.best_step)


def test_a_folder_of_another_start_is_refused(base, tmp_path):
    encoder = opened(base)
    quick = settings(trainer={"max_steps": 1})
    trained(encoder, tmp_path / "a", quick)
    trained(encoder, tmp_path / "b", quick, name="copy")
    with pytest.raises(FitError, match=r"other settings \(start\)"):
        trained(encoder, tmp_path / "b", quick, name="copy", start="mine")


def test_patience_goes_on_where_it_was(base, tmp_path, monkeypatch):
    config = settings(evaluate_every=1, patience=3, min_steps=1, trainer={"max_steps": 30, "learning_rate": 1e-9})
    whole = trained(opened(base), tmp_path / "whole", config)
    assert 0 < whole.spent.steps < 30, "patience ends it"
    usual = HeadsTrainer.log

    def log(self, logs, start_time=None):
        usual(self, logs, start_time)
        if self.state.global_step == whole.spent.steps - 1 and "eval_accuracy" in logs:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(HeadsTrainer, "log", log)
        with pytest.raises(KeyboardInterrupt):
            trained(opened(base), tmp_path / "broken", config)
    assert trained(opened(base), tmp_path / "broken", config).spent.steps == whole.spent.steps


def test_the_first_held_out_rows_are_as_mixed_as_all():
    rows = [g.model_copy(update={"task": "ab"[n > 40]}) for n, g in enumerate(GROUPS)]
    held = hold_out_prompts(rows, 0.4, seed=0)[1]
    first = [p.task for p in held[: len(held) // 3]]
    assert set(first) == {"a", "b"}
