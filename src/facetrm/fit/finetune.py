"""Stage 1, fine-tuned: Transformers' ``Trainer`` over trunk and heads, resumed where it was killed.

    FOLDER/settings.json         what was asked for: another question is refused
    FOLDER/checkpoint-N/         heads and what is trained of the trunk, optimizer, random states
    FOLDER/log.jsonl             one line for each entry of the Trainer's log
    FOLDER/trained.safetensors   the end: the same tensors, bit for bit

The Trainer does what it does everywhere: devices, processes, precision, FSDP, DeepSpeed, reports. Added here are the
two parts of the loss in the log, checkpoints that leave the frozen trunk out, and errors where a checkpoint lacks a
tensor.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PrinterCallback, Trainer, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.utils import SAFE_WEIGHTS_NAME

from facetrm.backbone.adapters import add_adapter
from facetrm.backbone.transformer import TransformerEncoder
from facetrm.core.errors import ConfigError, FitError
from facetrm.core.files import read_json, write_json, write_text
from facetrm.core.fingerprint import fingerprint
from facetrm.core.progress import log
from facetrm.fit.finetune_config import FineTuneConfig, TrainerSection
from facetrm.fit.finetune_data import Collator, MixedRows
from facetrm.fit.finetune_model import Heads, TrunkWithHeads, without_dropout

_TRAINED: Final = "trained.safetensors"
_MEND: Final = "mend these arguments of transformers.TrainingArguments, or start with accelerate launch"
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
class Spent:
    """What a training has cost: ``steps``, ``seconds`` (of this process), ``tokens`` of the rows, rows ``truncated``.

    ``history`` is the Trainer's log: loss, its parts, gradient norm and learning rate by step.
    """

    steps: int
    seconds: float
    tokens: int
    truncated: int
    history: tuple[dict[str, float], ...]


def fine_tune(
    encoder: TransformerEncoder, heads: Heads, rows: MixedRows, *, config: FineTuneConfig, folder: Path, data: str
) -> Spent:
    """Train the encoder's trunk (or a new adapter on it) and ``heads`` in place, and write them to ``folder``.

    A folder that holds the end of the same training is read; one that holds a part of it goes on from the last whole
    checkpoint. The encoder must be as it was loaded, without an adapter.

    Args:
        encoder: its trunk is trained. heads: where they start. rows: what is learned from.
        config: settings. folder: of checkpoints and the result. data: fingerprint of the rows.

    Returns:
        What was spent. Where training was spread over processes, the tensors to use are those of :func:`load_trained`.

    Raises:
        FitError: the folder holds another training, or the loss is not finite.
        ConfigError: arguments that the Trainer refuses.
    """
    start = {"encoder": encoder.fingerprint, "heads": _digest(heads), "data": data}
    arguments = training_arguments(config.trainer, folder, device=encoder.model.device)
    model = _prepare(encoder, heads, config)
    if arguments.should_save:
        _claim(folder, _question(config) | start)
    if (folder / _TRAINED).exists():
        load_trained(encoder, heads, config=config, folder=folder)
        return _spent(folder, rows)
    collator = Collator(_pad(encoder), len(heads.bias_K))
    try:
        trainer = HeadsTrainer(model=model, args=arguments, train_dataset=rows, data_collator=collator)
    except (ImportError, ValueError) as exc:
        said = " ".join(str(exc).split())[:300]
        raise ConfigError(f"the Trainer refuses to start ({said})", place="trainer", fix=_MEND) from None
    trainer.remove_callback(PrinterCallback)
    with nullcontext() if config.dropout else without_dropout(encoder.model):
        try:
            trainer.train(resume_from_checkpoint=_last_whole_checkpoint(folder))
        except torch.OutOfMemoryError:
            raise FitError(
                "memory does not hold a batch",
                place="trainer",
                fix="lower per_device_train_batch_size, or set gradient_checkpointing: true",
            ) from None
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if arguments.should_save:
        kept = {name: state[name].detach().cpu().contiguous() for name in sorted(trainer.kept)}
        bad = [name for name, tensor in kept.items() if not bool(torch.isfinite(tensor).all())]
        if bad:
            raise FitError(f"'{bad[0]}' is not finite after training", place=folder, fix="lower trainer.learning_rate")
        save_file(kept, folder / f".{_TRAINED}", metadata={"format": "pt"})
        os.replace(folder / f".{_TRAINED}", folder / _TRAINED)
    trainer.accelerator.wait_for_everyone()
    # Fused optimizers change tensors without saying so, and the encoder's name is remembered until one says so.
    torch.autograd.graph.increment_version(list(encoder.model.parameters()))
    encoder.model.eval()
    return _spent(folder, rows)


def load_trained(encoder: TransformerEncoder, heads: Heads, *, config: FineTuneConfig, folder: Path) -> None:
    """Read the end of a training into the trunk of ``encoder`` and into ``heads``, bit for bit.

    Args:
        encoder: the one that training started from, loaded anew (the adapter is made here), or the trained one.
        heads: of the same sizes. config: of the training. folder: as :func:`fine_tune` wrote it.

    Raises:
        FitError: no end of a training, or tensors that are missing, unexpected or of another shape.
    """
    model = _prepare(encoder, heads, config)
    try:
        found = load_file(folder / _TRAINED)
    except (FileNotFoundError, SafetensorError) as exc:
        raise FitError(f"no whole result of a training ({exc})", place=folder, fix="run the training again") from None
    _load(model, found, place=folder / _TRAINED)
    encoder.model.eval()


def training_arguments(section: TrainerSection, folder: Path, *, device: torch.device) -> TrainingArguments:
    """Return the Trainer's arguments.

    Args:
        section: what the user gave. folder: of the checkpoints. device: of the trunk.

    Raises:
        ConfigError: what Transformers, Accelerate or DeepSpeed refuses, with what they say.
    """
    given = section.model_dump()
    given.setdefault("disable_tqdm", not sys.stderr.isatty())
    given.setdefault("use_cpu", device.type == "cpu")
    given.setdefault("dataloader_pin_memory", device.type != "cpu")
    given.setdefault("ddp_find_unused_parameters", False)  # what is trained is used in every batch
    try:
        arguments = TrainingArguments(
            output_dir=str(folder), remove_unused_columns=False, label_names=[], eval_strategy="no", **given
        )
        several = arguments.n_gpu > 1
    except (ImportError, OSError, RuntimeError, TypeError, ValueError, KeyError, AssertionError) as exc:
        said = " ".join(str(exc).split())[:300]
        fix = _MEND
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
    """The Trainer, with both losses in its log and checkpoints of what is trained alone."""

    def __init__(self, *, model: TrunkWithHeads, **arguments: Any) -> None:
        self.kept = model.trained()
        self._parts: list[tuple[Tensor, Tensor]] = []
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
            model, inputs, return_outputs: as in ``Trainer.compute_loss``.
            num_items_in_batch: not used: the loss is a mean over rows and pairs, not over tokens.
        """
        outputs = model(**inputs)
        self._parts.append((outputs["regression"], outputs["preference"]))
        return (outputs["loss"], outputs) if return_outputs else outputs["loss"]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the means of both losses since the last entry to ``logs``, and write the log so far.

        Args:
            logs, start_time: as in ``Trainer.log``.
        """
        if self._parts and "loss" in logs:
            regression, preference = torch.tensor([[float(x) for x in part] for part in self._parts]).mean(dim=0)
            self._parts.clear()
            if not bool(torch.isfinite(regression + preference)):
                raise FitError(
                    f"the loss is {float(regression + preference)} at step {self.state.global_step}",
                    place="trainer",
                    fix="lower learning_rate",
                )
            logs |= {"regression": round(float(regression), 6), "preference": round(float(preference), 6)}
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


def _prepare(encoder: TransformerEncoder, heads: Heads, config: FineTuneConfig) -> TrunkWithHeads:
    """Return trunk and heads as one module, with the adapter in place and what is not trained frozen."""
    trunk = encoder.model
    if config.method == "full":
        trunk.requires_grad_(True)
        if trunk.dtype != torch.float32:
            log("fine-tune", warning=f"weights of {trunk.dtype} lose small updates: set backbone.dtype: float32")
        for name, parameter in trunk.named_parameters():
            if name.startswith("pooler."):  # no feature passes through it
                parameter.requires_grad_(False)
    elif not getattr(trunk, "peft_config", None):
        add_adapter(trunk, config.lora, seed=config.seed)
    heads.to(trunk.device)
    return TrunkWithHeads(
        trunk,
        heads,
        regression=config.regression,
        preference=config.preference,
        pooled=encoder.kind == "encoder",
    )


def _claim(folder: Path, question: dict[str, Any]) -> None:
    """Write down what is asked of ``folder``, or refuse where it was asked something else."""
    path = folder / "settings.json"
    if not path.exists():
        write_json(path, question)
        return
    known = read_json(path, FitError, fix="delete the folder to train again")
    if known != json.loads(json.dumps(question)):
        changed = [key for key in question if not isinstance(known, dict) or known.get(key) != question[key]]
        raise FitError(
            f"holds a training with other settings ({', '.join(changed)})", place=folder, fix="give another run folder"
        )


def _question(config: FineTuneConfig) -> dict[str, Any]:
    """Return the settings that decide a training's result."""
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


def _load(model: TrunkWithHeads, found: dict[str, Tensor], *, place: Path) -> None:
    wanted = model.trained()
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


def _complain(missing: set[str] | frozenset[str], unexpected: set[str] | frozenset[str], place: object) -> None:
    for what, names in (("missing from", missing), ("not expected in", unexpected)):
        if names:
            raise FitError(
                f"tensor '{min(names)}' is {what} the checkpoint ({len(names)} in all)",
                place=place,
                fix="delete the folder to train again",
            )


def _spent(folder: Path, rows: MixedRows) -> Spent:
    lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    history = tuple(json.loads(line) for line in lines)
    last = history[-1] if history else {}
    return Spent(int(last.get("step", 0)), float(last.get("train_runtime", 0.0)), rows.tokens, rows.truncated, history)


def _pad(encoder: TransformerEncoder) -> int:
    return encoder.tokenizer.pad_token_id if encoder.tokenizer.pad_token_id is not None else 0


def _digest(heads: Heads) -> str:
    return fingerprint({name: tensor.tolist() for name, tensor in heads.state_dict().items()})
