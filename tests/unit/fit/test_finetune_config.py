"""The section that Transformers' Trainer gets: its own names, its own kinds, and our errors where it refuses."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from transformers import TrainingArguments
from transformers.integrations.deepspeed import HfTrainerDeepSpeedConfig

from facetrm.core.config import dump_yaml, parse_config
from facetrm.core.errors import ConfigError
from facetrm.fit.finetune.config import FineTuneConfig, TrainerSection
from facetrm.fit.trainer import training_arguments

GIVEN = {
    "learning_rate": 1e-4,
    "num_train_epochs": 2,
    "per_device_train_batch_size": 3,
    "gradient_accumulation_steps": 4,
    "activation_checkpointing": True,
    "bf16": True,
    "warmup_steps": 0.1,
    "lr_scheduler_type": "cosine",
    "report_to": [],
    "save_steps": 7,
    "save_total_limit": 3,
    "logging_steps": 2,
    "seed": 11,
    "weight_decay": 0.01,
}
DEEPSPEED = {
    "zero_optimization": {"stage": 2},
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "bf16": {"enabled": "auto"},
}
FSDP = {"version": 2, "auto_wrap_policy": "TRANSFORMER_BASED_WRAP", "state_dict_type": "FULL_STATE_DICT"}


def section(**given) -> TrainerSection:
    return parse_config(FineTuneConfig, {"trainer": given}, place="r.yaml").trainer


def arguments(folder: Path, **given) -> TrainingArguments:
    return training_arguments(section(**given), folder, device=torch.device("cpu"))


def test_every_name_reaches_the_trainer(tmp_path):
    found = arguments(tmp_path, **GIVEN)
    for name, value in GIVEN.items():
        assert getattr(found, name) == value, name
    assert found.output_dir == str(tmp_path)
    assert found.remove_unused_columns is False
    assert arguments(tmp_path).logging_steps == 10
    assert arguments(tmp_path).save_total_limit == 2
    assert arguments(tmp_path).learning_rate == TrainingArguments(output_dir="x", use_cpu=True).learning_rate


def test_resolved_settings_hold_what_was_given_and_read_back_the_same():
    config = FineTuneConfig(trainer=section(**GIVEN))
    value = yaml.safe_load(dump_yaml(config))
    assert value["trainer"] == GIVEN
    assert parse_config(FineTuneConfig, value, place="r.yaml") == config


@pytest.mark.parametrize(
    ("given", "fragments"),
    [
        ({"learning_rat": 1}, ("unknown setting 'trainer.learning_rat'", "did you mean 'learning_rate'?")),
        ({"output_dir": "x"}, ("unknown setting 'trainer.output_dir'",)),
        ({"learning_rate": "fast"}, ("'trainer.learning_rate' is 'fast'",)),
        ({"lr_scheduler_type": "cosin"}, ("'trainer.lr_scheduler_type' is 'cosin'", "'cosine'")),
        ({"save_total_limit": 0}, ("'trainer.save_total_limit' is 0",)),
        ({"bf16": "maybe"}, ("'trainer.bf16' is 'maybe'",)),
    ],
)
def test_a_bad_argument_is_named(given, fragments):
    with pytest.raises(ConfigError) as caught:
        section(**given)
    for fragment in ("r.yaml", *fragments):
        assert fragment in str(caught.value)


def test_what_transformers_refuses_is_said_in_its_words(tmp_path):
    with pytest.raises(ConfigError, match=r"trainer: the Trainer refuses its arguments \(.*fp16.*bf16"):
        arguments(tmp_path, bf16=True, fp16=True)


def test_both_weights_zero_teach_nothing():
    with pytest.raises(ConfigError, match="regression and preference are both 0"):
        parse_config(FineTuneConfig, {"regression": 0, "preference": 0}, place="r.yaml")


@pytest.mark.parametrize("as_file", [False, True])
def test_fsdp_settings_parse(tmp_path, as_file):
    value: object = FSDP
    if as_file:
        value = str(tmp_path / "fsdp.json")
        Path(value).write_text(json.dumps(FSDP))
    found = arguments(tmp_path, fsdp="full_shard", fsdp_config=value)
    assert found.fsdp
    assert found.fsdp_config["auto_wrap_policy"] == "TRANSFORMER_BASED_WRAP"
    plugin = found.fsdp_plugin_args
    assert plugin["state_dict_type"] == "FULL_STATE_DICT"


def test_the_accelerate_config_that_is_shipped_parses():
    path = Path(__file__).parents[3] / "recipes" / "accelerate" / "fsdp.yaml"
    config = load_config_from_file(str(path))
    assert str(config.distributed_type).endswith("FSDP")
    assert config.fsdp_config["fsdp_transformer_layer_cls_to_wrap"] == "LlamaDecoderLayer"
    assert config.fsdp_config["fsdp_state_dict_type"] == "FULL_STATE_DICT"
    assert config.mixed_precision == "no"


def test_a_deepspeed_file_parses_and_without_deepspeed_the_error_says_what_to_install(tmp_path):
    path = tmp_path / "zero2.json"
    path.write_text(json.dumps(DEEPSPEED))
    if find_spec("deepspeed") is None:
        with pytest.raises(ConfigError, match=r"pip install deepspeed, or take trainer\.deepspeed out"):
            arguments(tmp_path, deepspeed=str(path))
        with pytest.raises(ImportError):
            HfTrainerDeepSpeedConfig(str(path))
    else:
        assert arguments(tmp_path, deepspeed=str(path)).hf_deepspeed_config.is_zero2()
    assert section(deepspeed=DEEPSPEED).model_dump()["deepspeed"] == DEEPSPEED
