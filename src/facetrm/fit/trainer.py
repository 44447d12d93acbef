"""Train a trunk and its heads with Transformers' ``Trainer``, resumably and without copies of the frozen trunk.

    FOLDER/settings.json         settings of the training; a training with other settings is an error
    FOLDER/checkpoint-N/         trained parameters, optimizer and random states after step N
    FOLDER/log.jsonl             one line for each entry of the Trainer's log
    FOLDER/trained.safetensors   the result: the trained parameters, bit for bit

The Trainer handles devices, processes, precision, FSDP, DeepSpeed and reporting as usual. This module adds the parts of
the loss to the log, a custom evaluation, checkpoints without the frozen trunk, and errors for missing tensors.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.utils import SAFE_WEIGHTS_NAME

from facetrm.core.config import Section
from facetrm.core.errors import ConfigError, FitError
from facetrm.core.files import new_file, read_json, write_json, write_text
from facetrm.core.progress import log
from facetrm.fit.finetune.config import TrainerSection
from facetrm.fit.schedule import without_zero_rate

TRAINED: Final = "trained.safetensors"
_FIX: Final = "fix these arguments of transformers.TrainingArguments, or start with accelerate launch"
# Arguments that may change when a training is resumed, because they do not affect its result.
_FREE: Final = (
    "disable_tqdm",
    "log_level",
    "log_level_replica",
    "project",
    "report_to",
    "run_name",
    "save_total_limit",
)


@dataclass(frozen=True)
class TrainingCost:
    """The cost of a training.

    Attributes:
        steps: number of optimiser steps.
        seconds: duration of the last process, in seconds.
        tokens: number of tokens of the training rows.
        truncated: number of truncated rows.
        history: entries of the Trainer's log: loss, its parts, gradient norm and learning rate by step.
    """

    steps: int
    seconds: float
    tokens: int
    truncated: int
    history: tuple[dict[str, float], ...]


class Counted(Protocol):
    """Training rows that know their number of ``tokens`` and how many rows were ``truncated``."""

    tokens: int
    truncated: int


class Trainable(Protocol):
    """A module whose forward method returns ``loss`` and its detached parts for the log."""

    def trained(self) -> frozenset[str]:
        """Return the state-dict names of the trained parameters."""
        ...


def training_arguments(
    section: TrainerSection, folder: Path, *, device: torch.device, **ours: Any
) -> TrainingArguments:
    """Return the Trainer's arguments.

    Args:
        section: arguments given by the user.
        folder: folder of the checkpoints.
        device: device of the trunk.
        ours: arguments that this package sets; it is an error if the user gave them too.

    Raises:
        ConfigError: Transformers, Accelerate or DeepSpeed rejects the arguments, or one process has several GPUs.
    """
    given = section.model_dump()
    taken = sorted(given.keys() & ours.keys())
    if taken:
        raise ConfigError(f"'{taken[0]}' is set by this training itself", place="trainer", fix=f"take {taken[0]} out")
    given.setdefault("disable_tqdm", not sys.stderr.isatty())
    given.setdefault("use_cpu", device.type == "cpu")
    given.setdefault("dataloader_pin_memory", device.type != "cpu")
    given.setdefault("ddp_find_unused_parameters", False)  # every batch uses all trained parameters
    fixed = {"eval_strategy": "no", **ours}
    try:
        arguments = TrainingArguments(
            output_dir=str(folder), remove_unused_columns=False, label_names=[], **given, **fixed
        )
        several = arguments.n_gpu > 1
    except (ImportError, OSError, RuntimeError, TypeError, ValueError, KeyError, AssertionError) as exc:
        said = " ".join(str(exc).split())[:300]
        fix = _FIX
        if section.model_dump().get("deepspeed") is not None and isinstance(exc, ImportError):
            fix = "pip install deepspeed, or take trainer.deepspeed out"
        raise ConfigError(f"the Trainer refuses its arguments ({said})", place="trainer", fix=fix) from None
    if several:
        raise ConfigError(
            f"one process sees {arguments.n_gpu} GPUs",
            place="trainer",
            fix="start one process for each (accelerate launch -m facetrm run ...), or set CUDA_VISIBLE_DEVICES=0",
        )
    return arguments


class HeadsTrainer(Trainer):
    """A Trainer that logs the parts of the loss and whose checkpoints hold only trained parameters.

    Args:
        model: a :class:`Trainable` module.
        judge: function that returns the figures of an evaluation, such as ``{"eval_accuracy": 0.7}``; None for the
            Trainer's own evaluation.
        arguments: other arguments of ``transformers.Trainer``.
    """

    def __init__(
        self, *, model: torch.nn.Module, judge: Callable[[], dict[str, float]] | None = None, **arguments: Any
    ) -> None:
        self.kept = cast(Trainable, model).trained()
        self._judge = judge
        self._parts: list[dict[str, Tensor]] = []
        super().__init__(model=model, **arguments)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Return the loss of one batch, and keep its parts for the log.

        Args:
            model: as in ``Trainer.compute_loss``.
            inputs: as in ``Trainer.compute_loss``.
            return_outputs: as in ``Trainer.compute_loss``.
            num_items_in_batch: not used: the loss is a mean over rows and pairs, not over tokens.
        """
        outputs = model(**inputs)
        self._parts.append({name: part for name, part in outputs.items() if name != "loss"})
        return (outputs["loss"], outputs) if return_outputs else outputs["loss"]

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """Return the learning-rate schedule. A warm-up of w steps goes from 1/w to 1, so that no step has rate 0.

        Args:
            num_training_steps: as in ``Trainer.create_scheduler``.
            optimizer: as in ``Trainer.create_scheduler``.
        """
        warm = self.args.get_warmup_steps(num_training_steps)
        return without_zero_rate(super().create_scheduler(num_training_steps, optimizer), warm=warm)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Return and log the figures of ``judge``, and pass them to the callbacks.

        Args:
            args: as in ``Trainer.evaluate``.
            kwargs: as in ``Trainer.evaluate``.
        """
        if self._judge is None:
            return super().evaluate(*args, **kwargs)
        found = self._judge()
        self.log(dict(found))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, found)
        return found

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the mean parts of the loss since the last entry to ``logs``, and write the whole log to the folder.

        Args:
            logs: as in ``Trainer.log``.
            start_time: as in ``Trainer.log``.
        """
        if self._parts and "loss" in logs:
            names = list(self._parts[0])
            means = torch.tensor([[float(part[name]) for name in names] for part in self._parts]).mean(dim=0).tolist()
            self._parts.clear()
            total = sum(means)
            if not torch.isfinite(torch.tensor(total)):
                raise FitError(
                    f"the loss is {total} at step {self.state.global_step}", place="trainer", fix="lower learning_rate"
                )
            logs |= {name: round(mean, 6) for name, mean in zip(names, means, strict=True)}
        super().log(logs, start_time)
        if self.args.process_index != 0:
            return
        lines = [json.dumps(entry) + "\n" for entry in self.state.log_history]
        write_text(Path(str(self.args.output_dir)) / "log.jsonl", "".join(lines))
        if self.args.disable_tqdm:
            figures = {name: value for name, value in logs.items() if isinstance(value, int | float)}
            log("fine-tune", step=self.state.global_step, **figures)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        state = cast(torch.nn.Module, self.model).state_dict() if state_dict is None else state_dict
        super()._save(output_dir, {name: t.contiguous() for name, t in state.items() if name in self.kept})

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        _complain(set(load_result.missing_keys) & self.kept, set(load_result.unexpected_keys), self.args.output_dir)


def run_trainer(
    model: torch.nn.Module,
    *,
    arguments: TrainingArguments,
    rows: torch.utils.data.Dataset[Any],
    collator: Callable[..., dict[str, Tensor]],
    folder: Path,
    judge: Callable[[], dict[str, float]] | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> HeadsTrainer:
    """Train a :class:`Trainable` module in place, from the last complete checkpoint in the folder if there is one.

    Args:
        model: trunk and heads.
        arguments: arguments of the Trainer.
        rows: training examples.
        collator: function that makes a batch from examples.
        folder: folder of the checkpoints.
        judge: function that returns the figures of an evaluation; None for the Trainer's own evaluation.
        callbacks: callbacks of the Trainer.

    Raises:
        ConfigError: the Trainer does not accept its arguments.
        FitError: a batch does not fit in memory, or the loss is not finite.
    """
    try:
        trainer = HeadsTrainer(
            model=model,
            judge=judge,
            args=arguments,
            train_dataset=rows,
            eval_dataset=None if judge is None else rows,  # the Trainer requires it, but never reads it
            data_collator=collator,
            callbacks=list(callbacks),
        )
    except (ImportError, ValueError) as exc:
        said = " ".join(str(exc).split())[:300]
        raise ConfigError(f"the Trainer refuses to start ({said})", place="trainer", fix=_FIX) from None
    trainer.remove_callback(PrinterCallback)
    try:
        trainer.train(resume_from_checkpoint=_last_whole_checkpoint(folder))
    except torch.OutOfMemoryError:
        raise FitError(
            "a batch does not fit in memory",
            place="trainer",
            fix="lower per_device_train_batch_size, or set gradient_checkpointing: true",
        ) from None
    return trainer


def write_trained(trainer: HeadsTrainer, folder: Path) -> None:
    """Write the trained parameters to ``folder``, which marks the training as finished.

    Raises:
        FitError: a tensor that is not finite.
    """
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if trainer.args.should_save:
        write_result({name: state[name] for name in trainer.kept}, folder)
    trainer.accelerator.wait_for_everyone()


def write_result(state: Mapping[str, Tensor], folder: Path) -> None:
    """Write the trained parameters ``state`` (tensors by name) to ``folder``.

    Raises:
        FitError: a tensor that is not finite.
    """
    kept = {name: state[name].detach().cpu().contiguous() for name in sorted(state)}
    bad = [name for name, tensor in kept.items() if not bool(torch.isfinite(tensor).all())]
    if bad:
        raise FitError(f"'{bad[0]}' is not finite after training", place=folder, fix="lower trainer.learning_rate")
    with new_file(folder / TRAINED) as handle:
        save_file(kept, handle.name, metadata={"format": "pt"})


def read_trained(model: torch.nn.Module, folder: Path) -> None:
    """Load the result of the training in ``folder`` into ``model``, bit for bit.

    Raises:
        FitError: the folder has no result, or a tensor is missing, unexpected or has another shape.
    """
    place = folder / TRAINED
    try:
        found = load_file(place)
    except (FileNotFoundError, SafetensorError) as exc:
        raise FitError(f"no complete training result ({exc})", place=folder, fix="run the training again") from None
    wanted = cast(Trainable, model).trained()
    _complain(wanted - found.keys(), found.keys() - wanted, place)
    own = model.state_dict()
    for name, tensor in found.items():
        if tensor.shape != own[name].shape:
            raise FitError(
                f"tensor '{name}' has shape {list(tensor.shape)}, not {list(own[name].shape)}",
                place=place,
                fix="run the training again in a new folder",
            )
        with torch.no_grad():
            own[name].copy_(tensor)


def read_log(folder: Path) -> tuple[dict[str, float], ...]:
    """Return the entries of the Trainer's log in ``folder``; empty if nothing was logged."""
    path = folder / "log.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return tuple(json.loads(line) for line in lines)


def read_spent(folder: Path, rows: Counted) -> TrainingCost:
    """Return the cost of the training on ``rows``, from the log in ``folder``."""
    history = read_log(folder)
    last = history[-1] if history else {}
    return TrainingCost(
        int(last.get("step", 0)), float(last.get("train_runtime", 0.0)), rows.tokens, rows.truncated, history
    )


def claim(folder: Path, question: dict[str, Any]) -> None:
    """Reserve a folder for a training by writing its settings. Other settings are replaced if nothing is trained yet.

    Args:
        folder: folder of the training.
        question: the settings that affect its result.

    Raises:
        FitError: the folder holds a training with other settings, finished or not.
    """
    path = folder / "settings.json"
    if not path.exists():
        write_json(path, question)
        return
    known = read_json(path, FitError, fix="delete the folder to train again")
    if known == json.loads(json.dumps(question)):
        return
    if (folder / TRAINED).exists() or any(folder.glob("checkpoint-*")):
        changed = [key for key in question if not isinstance(known, dict) or known.get(key) != question[key]]
        raise FitError(
            f"holds a training with other settings ({', '.join(changed)})", place=folder, fix="give another run folder"
        )
    for old in (*folder.glob("*.safetensors"), folder / "looks.json", folder / "kept.json"):
        old.unlink(missing_ok=True)
    (folder / "log.jsonl").unlink(missing_ok=True)
    write_json(path, question)


def question_of(config: Section) -> dict[str, Any]:
    """Return the settings that affect the result of a training; ``config`` must have a section ``trainer``."""
    settings = config.model_dump(mode="json")
    settings["trainer"] = {key: value for key, value in settings["trainer"].items() if key not in _FREE}
    return settings


def _last_whole_checkpoint(folder: Path) -> str | None:
    """Return the newest complete checkpoint; the Trainer writes its state last. None if there is none."""
    steps = sorted((int(path.name.split("-")[1]) for path in folder.glob("checkpoint-[0-9]*")), reverse=True)
    for step in steps:
        path = folder / f"checkpoint-{step}"
        try:
            json.loads((path / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
            if (path / SAFE_WEIGHTS_NAME).exists():
                with safe_open(path / SAFE_WEIGHTS_NAME, framework="pt") as handle:
                    handle.keys()
        except (OSError, ValueError, SafetensorError):
            continue
        log("fine-tune", goes_on_from=str(path))
        return str(path)
    return None


def _complain(missing: set[str] | frozenset[str], unexpected: set[str] | frozenset[str], place: object) -> None:
    for what, names in (("missing from", missing), ("not expected in", unexpected)):
        if names:
            raise FitError(
                f"tensor '{min(names)}' is {what} the checkpoint ({len(names)} in all)",
                place=place,
                fix="delete the folder to train again",
            )
