"""Transformers' ``Trainer`` over a module of trunk and heads: claimed, resumed, and kept without the frozen trunk.

    FOLDER/settings.json         what was asked for: another question is refused
    FOLDER/checkpoint-N/         what is trained, optimizer, random states
    FOLDER/log.jsonl             one line for each entry of the Trainer's log
    FOLDER/trained.safetensors   the end: what was trained, bit for bit

The Trainer does what it does everywhere: devices, processes, precision, FSDP, DeepSpeed, reports. Added here are the
parts of the loss in the log, an evaluation of one's own, checkpoints that leave the frozen trunk out, and errors where
a checkpoint lacks a tensor.
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
# What may change between a run and the one that goes on with it: nothing that decides a number.
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
    """What a training has cost: ``steps``, ``seconds`` (of this process), ``tokens`` of the rows, rows ``truncated``.

    ``history`` is the Trainer's log: loss, its parts, gradient norm and learning rate by step.
    """

    steps: int
    seconds: float
    tokens: int
    truncated: int
    history: tuple[dict[str, float], ...]


class Counted(Protocol):
    """Rows of a training that know how many ``tokens`` they are, and how many were ``truncated``."""

    tokens: int
    truncated: int


class Trainable(Protocol):
    """A module whose forward returns ``loss`` and, detached, the parts of it that the log shows."""

    def trained(self) -> frozenset[str]:
        """Return the names of what is trained, as in the state dict."""
        ...


def training_arguments(
    section: TrainerSection, folder: Path, *, device: torch.device, **ours: Any
) -> TrainingArguments:
    """Return the Trainer's arguments.

    Args:
        section: what the user gave.
        folder: folder of the checkpoints.
        device: device of the trunk.
        ours: arguments that this program sets; an error where the user gave them too.

    Raises:
        ConfigError: what Transformers, Accelerate or DeepSpeed refuses, with what they say.
    """
    given = section.model_dump()
    taken = sorted(given.keys() & ours.keys())
    if taken:
        raise ConfigError(f"'{taken[0]}' is set by this training itself", place="trainer", fix=f"take {taken[0]} out")
    given.setdefault("disable_tqdm", not sys.stderr.isatty())
    given.setdefault("use_cpu", device.type == "cpu")
    given.setdefault("dataloader_pin_memory", device.type != "cpu")
    given.setdefault("ddp_find_unused_parameters", False)  # what is trained is used in every batch
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
    """The Trainer, with the parts of the loss in its log and checkpoints that hold only what is trained.

    Args:
        model: a :class:`Trainable` module.
        judge: gives the figures of an evaluation, such as ``{"eval_accuracy": 0.7}``; the Trainer's own by default.
        arguments: of ``transformers.Trainer``.
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
        """Return the schedule; a warm-up of w steps goes from 1/w to 1, so that no step has rate 0.

        Args:
            num_training_steps: as in ``Trainer.create_scheduler``.
            optimizer: as in ``Trainer.create_scheduler``.
        """
        warm = self.args.get_warmup_steps(num_training_steps)
        return without_zero_rate(super().create_scheduler(num_training_steps, optimizer), warm=warm)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Return, log and announce the figures of ``judge``.

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
        """Add the means of the parts of the loss since the last entry to ``logs``, and write the log so far.

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
            log(
                "fine-tune",
                step=self.state.global_step,
                **{k: v for k, v in logs.items() if isinstance(v, int | float)},
            )

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
    """Train a :class:`Trainable` module in place, from the last whole checkpoint in ``folder`` where there is one.

    Args:
        model: trunk and heads.
        arguments: arguments of the Trainer.
        rows: training examples.
        collator: makes a batch from examples.
        folder: folder of the checkpoints.
        judge: see :class:`HeadsTrainer`.
        callbacks: callbacks of the Trainer.

    Raises:
        ConfigError: arguments that the Trainer refuses.
        FitError: memory does not hold a batch, or the loss is not finite.
    """
    try:
        trainer = HeadsTrainer(
            model=model,
            judge=judge,
            args=arguments,
            train_dataset=rows,
            eval_dataset=None if judge is None else rows,  # asked for by name, and never read
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
            "memory does not hold a batch",
            place="trainer",
            fix="lower per_device_train_batch_size, or set gradient_checkpointing: true",
        ) from None
    return trainer


def write_trained(trainer: HeadsTrainer, folder: Path) -> None:
    """Write what was trained to ``folder``: the mark of a finished training.

    Raises:
        FitError: a tensor that is not finite.
    """
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if trainer.args.should_save:
        write_result({name: state[name] for name in trainer.kept}, folder)
    trainer.accelerator.wait_for_everyone()


def write_result(state: Mapping[str, Tensor], folder: Path) -> None:
    """Write the tensors of a finished training, by name, to ``folder``.

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
    """Read the end of a training into ``model``, bit for bit.

    Raises:
        FitError: no end of a training, or tensors that are missing, unexpected or of another shape.
    """
    place = folder / TRAINED
    try:
        found = load_file(place)
    except (FileNotFoundError, SafetensorError) as exc:
        raise FitError(f"no whole result of a training ({exc})", place=folder, fix="run the training again") from None
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
    """Return the entries of the Trainer's log in ``folder``; none where nothing was logged."""
    path = folder / "log.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return tuple(json.loads(line) for line in lines)


def read_spent(folder: Path, rows: Counted) -> TrainingCost:
    """Return what the training of ``rows`` in ``folder`` has cost, by its log."""
    history = read_log(folder)
    last = history[-1] if history else {}
    return TrainingCost(
        int(last.get("step", 0)), float(last.get("train_runtime", 0.0)), rows.tokens, rows.truncated, history
    )


def claim(folder: Path, question: dict[str, Any]) -> None:
    """Write down what is asked of ``folder``; where nothing is trained yet, another question takes its place.

    Args:
        folder: folder of the training.
        question: the settings that decide its result.

    Raises:
        FitError: it holds a training, or the beginning of one, with other settings.
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
    for old in (*folder.glob("*.safetensors"), folder / "looks.json", folder / "kept.json"):  # of the other training
        old.unlink(missing_ok=True)
    (folder / "log.jsonl").unlink(missing_ok=True)
    write_json(path, question)


def question_of(config: Section) -> dict[str, Any]:
    """Return the settings that decide a training's result; ``config`` has a section ``trainer``."""
    settings = config.model_dump(mode="json")
    settings["trainer"] = {key: value for key, value in settings["trainer"].items() if key not in _FREE}
    return settings


def _last_whole_checkpoint(folder: Path) -> str | None:
    """Return the newest checkpoint that was written to its end: the Trainer writes its state last."""
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
