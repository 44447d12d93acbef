"""Fine-tuning an easy task: it learns, it is saved whole, and it goes on where it was killed, bit for bit."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from facetrm.backbone.lora.adapters import merge_adapter, save_adapter
from facetrm.core.errors import ConfigError, FitError
from facetrm.fit.finetune.fit import load_trained
from facetrm.fit.trainer import HeadsTrainer
from fakes import tiny_decoder
from finetune_samples import OBJECTIVES, TEST_RATINGS, accuracy, new_heads, opened, scores, settings, trained

WEIGHTS = "trained.safetensors"


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return tiny_decoder(tmp_path_factory.mktemp("b") / "llama")


@pytest.fixture(scope="module", params=["lora", "full"])
def done(request, base, tmp_path_factory):
    """Return settings, folder, trunk, heads and cost of one finished training."""
    config = settings(method=request.param)
    folder = tmp_path_factory.mktemp(request.param)
    return config, folder, *trained(base, folder, config)


def reloaded(base: Path, folder: Path, config, *, seed: int = 99):
    """Return a fresh trunk and fresh heads (of another start) with what ``folder`` holds."""
    encoder = opened(base)
    heads = new_heads(encoder, config, seed=seed)
    load_trained(encoder, heads, config=config, folder=folder)
    return encoder, heads


def test_both_losses_fall_and_held_out_rows_are_ordered(done, base):
    config, _, encoder, heads, spent = done
    logged = [entry for entry in spent.history if "loss" in entry]
    assert logged[-1]["regression"] < 0.6 * logged[0]["regression"]
    assert logged[-1]["preference"] < 0.5 * logged[0]["preference"]
    assert logged[-1]["loss"] == pytest.approx(logged[-1]["regression"] + logged[-1]["preference"], abs=1e-4)
    assert spent.steps == 60
    assert accuracy(encoder, heads) > 0.85
    bare = opened(base)
    assert abs(accuracy(bare, new_heads(bare, config)) - 0.5) < 0.25


def test_trunk_and_heads_come_back_bit_equal(done, base):
    config, folder, encoder, heads, _ = done
    again, same = reloaded(base, folder, config)
    assert torch.equal(scores(again, same), scores(encoder, heads))
    assert again.fingerprint == encoder.fingerprint
    for name, tensor in heads.state_dict().items():
        assert torch.equal(tensor, same.state_dict()[name]), name
    frozen = opened(base)
    assert not torch.equal(scores(frozen, heads), scores(encoder, heads))


def test_the_heads_are_in_the_files_with_the_adapter(done):
    """OpenRLHF#1342: a LoRA reward model was saved without its head."""
    config, folder, _, heads, _ = done
    names = load_file(folder / WEIGHTS).keys()
    assert {"heads.weight_KD", "heads.bias_K", "heads.preference_D"} <= names
    trunk = {name for name in names if name.startswith("trunk.")}
    assert trunk
    assert all("lora_" in name for name in trunk) == (config.method == "lora")
    assert heads.weight_KD.shape == (len(OBJECTIVES), 32)
    checkpoint = load_file(folder / "checkpoint-60" / "model.safetensors")
    assert checkpoint.keys() == names


def test_a_head_has_one_output_for_each_objective_and_one_for_the_preference(done):
    """OpenRLHF#872: a merged reward model came back with a head of two labels."""
    _, _, encoder, heads, _ = done
    assert scores(encoder, heads).shape == (80, len(OBJECTIVES) + 1)


@pytest.mark.parametrize("merge", [False, True])
def test_an_adapter_keeps_its_heads_through_saving_and_merging(base, tmp_path, merge):
    config = settings(trainer={"max_steps": 20})
    encoder, heads, _ = trained(base, tmp_path / "t", config)
    before = scores(encoder, heads)
    again, same = reloaded(base, tmp_path / "t", config)
    if merge:
        merge_adapter(again.model)
        folder = again.save_backbone(tmp_path / "merged").path
        assert not [k for k in load_file(Path(folder) / "model.safetensors") if "lora_" in k or "score" in k]
        plain = opened(Path(folder))
        assert (scores(plain, same) - before).abs().max() < 1e-4
        assert torch.equal(scores(plain, same), scores(again, same))
    else:
        save_adapter(again.model, tmp_path / "adapter")
        beside = opened(base, adapter=str(tmp_path / "adapter"))
        assert torch.equal(scores(beside, same), before)


@pytest.mark.parametrize("name", ["heads.preference_D", "trunk.layers.0.mlp.up_proj.lora_B.default.weight"])
def test_a_tensor_that_is_gone_is_an_error_that_names_it(base, tmp_path, name):
    config = settings(trainer={"max_steps": 2})
    trained(base, tmp_path / "t", config)
    tensors = load_file(tmp_path / "t" / WEIGHTS)
    gone = tensors.pop(name)
    save_file(tensors, tmp_path / "t" / WEIGHTS)
    with pytest.raises(FitError, match=f"'{name}' is missing from"):
        reloaded(base, tmp_path / "t", config)
    save_file({**tensors, name: gone[..., :1].contiguous()}, tmp_path / "t" / WEIGHTS)
    with pytest.raises(FitError, match=f"'{name}' has shape"):
        reloaded(base, tmp_path / "t", config)
    save_file({**tensors, name: gone, "score.weight": gone.clone()}, tmp_path / "t" / WEIGHTS)
    with pytest.raises(FitError, match=r"'score\.weight' is not expected"):
        reloaded(base, tmp_path / "t", config)
    # A checkpoint is held to the same.
    checkpoint = tmp_path / "t" / "checkpoint-2" / "model.safetensors"
    save_file(tensors, checkpoint)
    (tmp_path / "t" / WEIGHTS).unlink()
    with pytest.raises(FitError, match=f"'{name}' is missing from"):
        trained(base, tmp_path / "t", config)


@pytest.mark.parametrize(
    ("given", "learned"),
    [({"preference": 0.0}, {"heads.weight_KD", "heads.bias_K"}), ({"regression": 0.0}, {"heads.preference_D"})],
    ids=["ratings alone", "pairs alone"],
)
def test_one_loss_alone_trains_its_head_alone(base, tmp_path, given, learned):
    config = settings(**given, trainer={"max_steps": 40})
    encoder, heads, spent = trained(base, tmp_path, config)
    assert {name for name in load_file(tmp_path / WEIGHTS) if name.startswith("heads.")} == learned
    logged = [entry for entry in spent.history if "loss" in entry]
    part = "preference" if "regression" in given else "regression"
    assert logged[-1][part] < 0.8 * logged[0][part]
    assert heads.has_preference == ("regression" in given)
    assert len(heads.bias_K) == (0 if "regression" in given else 2)
    again, same = reloaded(base, tmp_path, config)
    asked = [r.messages for r in TEST_RATINGS[:10]]
    assert torch.equal(again.encode(asked).response_NAD, encoder.encode(asked).response_NAD)
    assert all(torch.equal(a, b) for a, b in zip(heads.parameters(), same.parameters(), strict=True))


@pytest.mark.parametrize("method", ["lora", "full"])
def test_checkpointing_ends_where_plain_training_ends(base, tmp_path, method):
    plain = settings(method=method, trainer={"max_steps": 8})
    saving = settings(method=method, trainer={"max_steps": 8, "gradient_checkpointing": True})
    first, second = (trained(base, tmp_path / n, c) for n, c in (("a", plain), ("b", saving)))
    difference = (scores(first[0], first[1]) - scores(second[0], second[1])).abs().max()
    assert difference < 1e-4
    assert (scores(first[0], first[1]) - scores(opened(base), new_heads(opened(base), plain))).abs().max() > 0.01


def test_accumulated_batches_are_one_large_batch(base, tmp_path):
    large = settings(preference=0.0, trainer={"max_steps": 3, "per_device_train_batch_size": 8, "logging_steps": 1})
    small = settings(
        preference=0.0,
        trainer={
            "max_steps": 3,
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 4,
            "logging_steps": 1,
        },
    )
    one, many = trained(base, tmp_path / "a", large), trained(base, tmp_path / "b", small)
    for a, b in zip(one[1].parameters(), many[1].parameters(), strict=True):
        assert (a - b).abs().max() < 1e-4 if a.numel() else True
    assert one[2].history[0]["regression"] == pytest.approx(many[2].history[0]["regression"], rel=1e-3)


def in_child(base: str, folder: str, die_at: int | None, method: str) -> None:
    """Train in a process of its own; where it is told to, it kills itself as soon as that step is logged."""
    if die_at is not None:
        usual = HeadsTrainer.log

        def log(self, logs, start_time=None):
            usual(self, logs, start_time)
            if self.state.global_step >= die_at:
                os.kill(os.getpid(), signal.SIGKILL)

        HeadsTrainer.log = log
    config = settings(
        method=method,
        lora={"rank": 4, "dropout": 0.1},
        trainer={"max_steps": 24, "save_steps": 5, "logging_steps": 1, "lr_scheduler_type": "cosine"},
    )
    trained(Path(base), Path(folder), config)


def torn(folder: Path, kind: str) -> None:
    """Leave the newest checkpoint as a kill in the middle of writing it would."""
    newest = max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    target = folder / {"state": "checkpoint-23", "weights": "checkpoint-24"}[kind]
    shutil.copytree(newest, target)
    if kind == "state":
        text = (target / "trainer_state.json").read_text()
        (target / "trainer_state.json").write_text(text[: len(text) // 2])
    else:
        (target / "trainer_state.json").unlink()
        data = (target / "model.safetensors").read_bytes()
        (target / "model.safetensors").write_bytes(data[: len(data) // 2])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_training_that_was_killed_ends_with_the_same_bytes(base, tmp_path, method):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["finetune_samples"])

    def run(folder: Path, die_at: int | None) -> int | None:
        process = context.Process(target=in_child, args=(str(base), str(folder), die_at, method))
        process.start()
        process.join()
        return process.exitcode

    assert run(tmp_path / "whole", None) == 0
    for step, damage in ((3, None), (11, "state"), (18, "weights")):
        assert run(tmp_path / "killed", step) == -signal.SIGKILL
        if damage:
            torn(tmp_path / "killed", damage)
    assert not (tmp_path / "killed" / WEIGHTS).exists()
    assert run(tmp_path / "killed", None) == 0
    assert (tmp_path / "killed" / WEIGHTS).read_bytes() == (tmp_path / "whole" / WEIGHTS).read_bytes()

    def losses(folder: Path) -> list[tuple[int, float]]:
        entries = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        return [(entry["step"], entry["loss"]) for entry in entries if "loss" in entry]

    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    assert [step for step, _ in losses(tmp_path / "whole")] == list(range(1, 25))


def test_a_finished_training_is_read_and_another_question_is_refused(base, tmp_path, monkeypatch):
    config = settings(trainer={"max_steps": 3})
    encoder, heads, _ = trained(base, tmp_path, config)
    monkeypatch.setattr(HeadsTrainer, "train", lambda *a, **k: pytest.fail("it was trained again"))
    again, same, spent = trained(base, tmp_path, config)
    assert torch.equal(scores(again, same), scores(encoder, heads))
    assert spent.steps == 3
    quieter = settings(trainer={"max_steps": 3, "disable_tqdm": True, "report_to": "none"})
    trained(base, tmp_path, quieter)
    with pytest.raises(FitError, match=r"holds a training with other settings \(trainer\)"):
        trained(base, tmp_path, settings(trainer={"max_steps": 4}))
    with pytest.raises(FitError, match=r"other settings \(lora\)"):
        trained(base, tmp_path, settings(lora={"rank": 2}, trainer={"max_steps": 3}))


def test_a_loss_that_runs_away_is_an_error(base, tmp_path):
    config = settings(method="full", trainer={"max_steps": 20, "learning_rate": 1e30, "max_grad_norm": 0})
    with pytest.raises(FitError, match=r"the loss is (nan|inf) at step 5|is not finite after training"):
        trained(base, tmp_path, config)
    assert not (tmp_path / WEIGHTS).exists()


def test_fsdp_in_one_process_is_an_error_that_says_how_to_start(base, tmp_path):
    config = settings(trainer={"fsdp": "full_shard"})
    with pytest.raises(ConfigError, match="accelerate launch"):
        trained(base, tmp_path, config)


def test_reports_go_where_they_are_asked_to(base, tmp_path):
    with pytest.raises(ConfigError, match="no_such_board"):
        trained(base, tmp_path, settings(trainer={"report_to": ["no_such_board"]}))
