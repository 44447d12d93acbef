"""The trainings of rivals: what they read, what they change, and that a killed one resumes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from facetrm.backbone.config import BackboneConfig
from facetrm.backbone.headed import HeadedModel, free_padding, load_headed, save_headed
from facetrm.backbone.text.chat import Tokenized
from facetrm.baselines.trained import pairwise_fit
from facetrm.baselines.trained.pairwise import PairReader
from facetrm.baselines.trained.pairwise_fit import PairCollator, PairExamples, train_pairwise
from facetrm.baselines.trained.training import RivalTraining, trainer_arguments
from facetrm.baselines.trained.with_trl import policy_row, tokenized_pairs, train_policy, train_reward
from facetrm.core.errors import BackboneError, ConfigError
from fakes import chat, tiny_decoder, tiny_tokenizer
from rival_samples import pair

PAIRS = [pair(n) for n in range(32)]
TRAINER = {
    "max_steps": 6,
    "per_device_train_batch_size": 4,
    "learning_rate": 1e-2,
    "logging_steps": 1,
    "save_steps": 2,
    "use_cpu": True,
}


@pytest.fixture(scope="module")
def backbone(tmp_path_factory) -> Path:
    return tiny_decoder(tmp_path_factory.mktemp("backbone") / "model")


def opened(backbone: Path, head="language", **settings) -> HeadedModel:
    return load_headed(BackboneConfig(path=str(backbone), device="cpu", **settings), head)


def settings(**given) -> RivalTraining:
    trainer = {**TRAINER, **given.pop("trainer", {})}
    return RivalTraining.model_validate({"lora": {"rank": 4}, **given, "trainer": trainer})


def train(kind: str, headed: HeadedModel, folder: Path, training: RivalTraining) -> None:
    folder.mkdir(exist_ok=True)
    if kind == "pairwise":
        train_pairwise(headed, PAIRS, training=training, folder=folder)
    elif kind == "reward":
        train_reward(headed, tokenized_pairs(headed, PAIRS), training=training, folder=folder)
    else:
        pairs = tokenized_pairs(headed, PAIRS)
        train_policy(headed, pairs, loss="sigmoid", beta=0.1, training=training, folder=folder)


class _KilledError(Exception):
    """What stands for a killed process."""


class _Kill(TrainerCallback):
    def on_save(self, args, state, control, **kwargs) -> None:
        if state.global_step == 4:
            raise _KilledError


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("kind", ["pairwise", "reward", "policy"])
def test_a_killed_training_resumes_to_the_same_weights(
    kind: str, method: str, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = "reward" if kind == "reward" else "language"
    training = settings(method=method)
    whole = opened(backbone, head)
    train(kind, whole, tmp_path / "whole", training)
    with monkeypatch.context() as patch:
        base = pairwise_fit.Trainer
        add = base.train

        def killed(self, *args, **kwargs):
            self.add_callback(_Kill())
            return add(self, *args, **kwargs)

        patch.setattr(base, "train", killed)
        with pytest.raises(_KilledError):
            train(kind, opened(backbone, head), tmp_path / "parts", training)
    assert (tmp_path / "parts" / "checkpoint-4").is_dir()
    early = tmp_path / "parts" / "checkpoint-2" / "trainer_state.json"
    written = early.stat().st_mtime_ns
    again = opened(backbone, head)
    train(kind, again, tmp_path / "parts", training)
    assert not early.exists() or early.stat().st_mtime_ns == written, "it went on, and did not start again"
    for (name, one), (_, other) in zip(whole.model.named_parameters(), again.model.named_parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-6), name


@pytest.mark.parametrize(("kind", "head"), [("pairwise", "language"), ("policy", "language"), ("reward", "reward")])
def test_lora_is_merged_and_leaves_the_rest_alone(kind: str, head: str, backbone: Path, tmp_path: Path) -> None:
    headed = opened(backbone, head)
    train(kind, headed, tmp_path / "training", settings(trainer={"save_strategy": "no"}))
    save_headed(headed, tmp_path / "model")
    before, after = load_file(backbone / "model.safetensors"), load_file(tmp_path / "model" / "model.safetensors")
    different = {name for name in before.keys() & after.keys() if not torch.equal(before[name], after[name])}
    assert len(different) == 2 * 7
    assert all("proj" in name for name in different)
    new = after.keys() - before.keys()
    assert new == ({"score.weight"} if kind == "reward" else set())


def test_the_examples_ask_for_the_letter_of_the_better_answer(backbone: Path) -> None:
    headed = opened(backbone)
    read = PairReader(headed.encoder)
    examples = PairExamples(read, PAIRS, seed=3)
    assert len(examples) == len(PAIRS)
    letters = []
    for row, p in zip((examples[n] for n in range(len(PAIRS))), PAIRS, strict=True):
        first = row.target == read.tokens[0]
        a, b = p.responses if first else reversed(p.responses)
        assert row.ids == read(p.prompt, a, b).ids
        letters.append(first)
    assert 8 <= sum(letters) <= 24
    assert [examples[n].target for n in range(8)] == [PairExamples(read, PAIRS, seed=3)[n].target for n in range(8)]
    batch = PairCollator(headed.encoder.pad)([examples[0], examples[1]])
    assert batch["input_ids"][0, -1] == examples[0].ids[-1]
    assert batch["position_ids"].max() == max(len(examples[0].ids), len(examples[1].ids)) - 1


def test_a_policy_row_splits_at_the_response(backbone: Path) -> None:
    headed = opened(backbone)
    (chosen, rejected), *_ = tokenized_pairs(headed, PAIRS)
    row = policy_row(chosen, rejected)
    assert tuple(row["prompt_ids"] + row["chosen_ids"]) == chosen.ids
    assert tuple(row["prompt_ids"] + row["rejected_ids"]) == rejected.ids
    assert len(row["prompt_ids"]) == chosen.response_start == rejected.response_start
    cut = policy_row(Tokenized((1, 2, 3, 4, 5), 2, 3, 2), Tokenized((1, 9, 3, 4), 2, 3, 1))
    assert cut == {"prompt_ids": [1], "chosen_ids": [2, 3, 4, 5], "rejected_ids": [9, 3, 4]}


def test_the_padding_token_ends_no_row() -> None:
    tokenizer = tiny_tokenizer(pad="<|eot_id|>")
    end = tokenizer.convert_tokens_to_ids("<|eot_id|>")
    assert free_padding(tokenizer, [5]) == end
    assert free_padding(tokenizer, [5, end]) not in (5, end)
    controls = [i for i, token in tokenizer.added_tokens_decoder.items() if token.special]
    with pytest.raises(BackboneError, match="no token is free for padding"):
        free_padding(tokenizer, controls)


def test_a_language_model_without_its_head_is_refused(tmp_path: Path, backbone: Path) -> None:
    trunk = opened(backbone).encoder
    trunk.save_backbone(tmp_path / "trunk")
    with pytest.raises(BackboneError, match=r"lm_head.weight.* is missing"):
        opened(tmp_path / "trunk")
    assert opened(tmp_path / "trunk", "reward").encoder.hidden_size == 32


def test_arguments_that_are_set_here_are_refused(tmp_path: Path) -> None:
    cpu = torch.device("cpu")
    with pytest.raises(ConfigError, match="'max_steps' is set"):
        trainer_arguments(settings(), tmp_path, device=cpu, max_steps=3)
    given = trainer_arguments(settings(seed=5), tmp_path, device=cpu, max_length=None)
    assert (given["seed"], given["bf16"], given["max_length"], given["use_cpu"]) == (47, False, None, True)


def test_too_long_a_pair_is_named(backbone: Path) -> None:
    headed = opened(backbone, max_tokens=30)
    long = pair(1).model_copy(update={"prompt": chat("so " * 40, "x")[:1]})
    with pytest.raises(BackboneError, match=r"pair 1: .* above the limit of 30"):
        tokenized_pairs(headed, [long])
