"""What the trainings of all rivals share: settings, the folder that remembers a training, and the trained model.

FOLDER/settings.json     settings of the training
FOLDER/checkpoint-N/     state after step N; a training that was killed resumes from the last one
FOLDER/log.jsonl         one line for each entry of the Trainer's log
FOLDER/done.json         settings and size of a training whose result is saved
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal

import torch
from transformers import PrinterCallback, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from facetrm.backbone.headed import HeadedModel
from facetrm.backbone.lora.adapters import LoraSettings, add_adapter
from facetrm.core.config import Section, Seed
from facetrm.core.errors import ConfigError, FitError
from facetrm.core.files import read_json, write_json, write_text
from facetrm.core.progress import log
from facetrm.fit.finetune.config import TrainerSection
from facetrm.fit.trainer import TrainingCost, claim, question_of, read_log

DONE: Final = "done.json"
_FIX: Final = "fix these arguments of transformers.TrainingArguments"
_FIGURES: Final = (int, float)
_CHECKPOINTING: Final = [  # the second is the older name
    name
    for name in ("activation_checkpointing", "gradient_checkpointing")
    if name in TrainingArguments.__dataclass_fields__
]


class RivalTraining(Section):
    """Settings of the training of a rival.

    Attributes:
        method: ``lora`` trains an adapter (and a new head), which is merged into the saved model; ``full`` trains the
            whole model.
        lora: Settings of the adapter; used only with ``lora``.
        seed: Random seed of a new adapter, a new head and the order of rows.
        trainer: Arguments of Transformers' ``Trainer``. ``bf16`` and activation checkpointing are off if they are
            not given.
    """

    method: Literal["lora", "full"] = "lora"
    lora: LoraSettings = LoraSettings()
    seed: Seed = 0
    trainer: TrainerSection = TrainerSection()


def prepare_training(headed: HeadedModel, training: RivalTraining) -> None:
    """Make the parameters of a model trainable that the method trains: a new adapter and a new head, or all.

    Args:
        headed: Model, changed in place.
        training: Settings of the training.
    """
    trunk = headed.encoder.model
    if training.method == "full":
        headed.model.requires_grad_(True)
        return
    add_adapter(trunk, training.lora, seed=training.seed)
    output = headed.model.get_output_embeddings()
    if output is not None:
        output.requires_grad_(False)  # the head of a language model stays, also if it shares no weights with the trunk
    given = training.trainer.model_dump()
    if any(given.get(name) for name in _CHECKPOINTING):
        trunk.enable_input_require_grads()  # frozen embeddings feed the layers


def trainer_arguments(training: RivalTraining, folder: Path, *, device: torch.device, **ours: Any) -> dict[str, Any]:
    """Return the arguments of the Trainer's settings class, by name.

    Args:
        training: Settings of the training.
        folder: Folder of the checkpoints.
        device: Device of the model.
        ours: Arguments that this package sets.

    Raises:
        ConfigError: The user gave an argument that this package sets.
    """
    given = training.trainer.model_dump()
    taken = sorted(given.keys() & ours.keys())
    if taken:
        raise ConfigError(f"'{taken[0]}' is set by this training itself", place="trainer", fix=f"take {taken[0]} out")
    usual: dict[str, Any] = {
        "bf16": False,
        **({} if any(name in given for name in _CHECKPOINTING) else {_CHECKPOINTING[0]: False}),
        "disable_tqdm": not sys.stderr.isatty(),
        "use_cpu": device.type == "cpu",
        "dataloader_pin_memory": device.type != "cpu",
        "report_to": "none",
        "seed": (TrainingArguments.seed + training.seed) % 2**32,
    }
    fixed = {"output_dir": str(folder), "eval_strategy": "no", "remove_unused_columns": False}
    return {**usual, **given, **fixed, **ours}


def begin_training(
    training: RivalTraining, folder: Path, question: dict[str, Any], *, result: Path
) -> TrainingCost | None:
    """Return the cost of a training if it is finished; otherwise reserve ``folder`` for it.

    Args:
        training: Settings of the training.
        folder: Folder of the training.
        question: Everything else that affects its result.
        result: Folder of the trained model.

    Raises:
        FitError: The folder holds a training with other settings, finished or not.
    """
    folder.mkdir(parents=True, exist_ok=True)
    asked, done = json.loads(json.dumps(question_of(training) | question)), folder / DONE
    if done.exists():
        known = read_json(done, FitError, fix="give another run folder")
        if not isinstance(known, dict) or known.get("question") != asked:
            raise FitError("holds a finished training with other settings", place=folder, fix="give another run folder")
        if (result / "config.json").exists():
            return training_cost(folder, tokens=int(known["tokens"]), truncated=int(known["truncated"]))
        done.unlink()
    claim(folder, asked)
    return None


def end_training(folder: Path, spent: TrainingCost) -> None:
    """Mark a training whose result is saved as finished, and remove its checkpoints.

    Args:
        folder: Folder of the training.
        spent: Cost of the training.
    """
    asked = read_json(folder / "settings.json", FitError, fix="give another run folder")
    write_json(folder / DONE, {"question": asked, "tokens": spent.tokens, "truncated": spent.truncated})
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint, ignore_errors=True)


def run_training(make: Callable[[], Any], folder: Path, *, tokens: int, truncated: int) -> TrainingCost:
    """Train with a Trainer of Transformers or TRL, from the last checkpoint in ``folder`` if there is one.

    Args:
        make: Function that makes the Trainer.
        folder: Folder of the checkpoints.
        tokens: Number of tokens of the training rows.
        truncated: Number of truncated rows.

    Returns:
        The cost of the training.

    Raises:
        ConfigError: The Trainer does not accept its arguments.
        FitError: A batch does not fit in memory, or the loss is not finite.
    """
    try:
        trainer = make()
    except (ImportError, OSError, RuntimeError, TypeError, ValueError, AssertionError) as exc:
        said = " ".join(str(exc).split())[:300]
        raise ConfigError(f"the Trainer refuses to start ({said})", place="trainer", fix=_FIX) from None
    trainer.remove_callback(PrinterCallback)
    try:
        trainer.train(resume_from_checkpoint=get_last_checkpoint(str(folder)))
    except torch.OutOfMemoryError:
        raise FitError(
            "a batch does not fit in memory",
            place="trainer",
            fix="lower per_device_train_batch_size, or set gradient_checkpointing: true",
        ) from None
    history = [{k: v for k, v in entry.items() if type(v) in _FIGURES} for entry in trainer.state.log_history]
    bad = next((e for e in history if not torch.isfinite(torch.tensor(float(e.get("loss", 0.0))))), None)
    if bad is not None:
        raise FitError(
            f"the loss is {bad['loss']} at step {bad.get('step')}", place="trainer", fix="lower trainer.learning_rate"
        )
    write_text(folder / "log.jsonl", "".join(json.dumps(entry) + "\n" for entry in history))
    log("training", steps=trainer.state.global_step)
    return training_cost(folder, tokens=tokens, truncated=truncated)


def training_cost(folder: Path, *, tokens: int, truncated: int) -> TrainingCost:
    """Return the cost of the finished training in ``folder``.

    Args:
        folder: Folder of the training.
        tokens: Number of tokens of the training rows.
        truncated: Number of truncated rows.
    """
    history = read_log(folder)
    last = history[-1] if history else {}
    steps, seconds = int(last.get("step", 0)), float(last.get("train_runtime", 0.0))
    return TrainingCost(steps, seconds, tokens, truncated, history)
