"""One adapter and its head on ranked responses: a task's own (phase 1), then one for each capability (phase 2).

    r_n = w . z_n        z_n: the response's vector under this adapter, in float32
    minimise  mean over groups of  mean over pairs i above j of softplus(-(r_i - r_j))

All else in the trunk is frozen, other adapters too. A capability's adapter starts as a copy of the task's. The state
that is kept is the one with the highest accuracy on held-out prompts, of equal ones the earlier; and the one before the
first step where no other beats it clearly (``gain``).

Shapes: N responses, D hidden size.

Reference: DMoERM (arXiv 2403.01197), phases 1 and 2. We differ: an adapter on one shared trunk instead of a full
fine-tuning per task; the head of a capability is trained with its adapter (the released code leaves it out of the
optimizer); dropout stays on after the first evaluation; the better rank has the higher reward in loss, selection and
test alike (there the selection is inverted).
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from safetensors import safe_open
from safetensors.torch import load_file
from safetensors.torch import save as save_tensors
from torch import Tensor
from transformers import (
    EarlyStoppingCallback,
    PreTrainedModel,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_utils import IntervalStrategy
from transformers.utils import SAFE_WEIGHTS_NAME

from facetrm.backbone.lora.adapters import LoraSettings, adapter_tensors
from facetrm.backbone.lora.switching import adapter_names, switched, train_only
from facetrm.backbone.transformer import TransformerEncoder
from facetrm.core.errors import ConfigError, FitError
from facetrm.core.files import read_json, write_bytes, write_json
from facetrm.core.fingerprint import fingerprint
from facetrm.core.progress import log
from facetrm.core.statistics import win_credit
from facetrm.data.records import Preference
from facetrm.fit.experts.config import ExpertConfig
from facetrm.fit.experts.ranked import RankedCollator, RankedRows, ranked_pairs
from facetrm.fit.finetune.model import TrainableHeads, TrunkWithHeads, without_dropout
from facetrm.fit.trainer import (
    TRAINED,
    HeadsTrainer,
    TrainingCost,
    claim,
    question_of,
    read_log,
    read_spent,
    read_trained,
    run_trainer,
    training_arguments,
    write_trained,
)

T = TypeVar("T")

_START: Final = "start.safetensors"
_KEPT: Final = "kept.json"
# What accelerate launch has set; later the Trainer's own arguments set the same.
_LAUNCHED_WITH: Final = [
    key for key in ("fsdp", "deepspeed") if os.environ.get(f"ACCELERATE_USE_{key.upper()}") == "true"
]


@dataclass(frozen=True)
class ExpertFit:
    """A trained adapter and its head.

    Attributes:
        name: name of the adapter, which stands in the encoder's trunk.
        head_D: w; float32, on the CPU.
        accuracy: on held-out prompts, of the state that was kept.
        start: before the first step.
        best_step: step of the state that was kept; 0 where training gained nothing.
        counts: groups trained on and held out.
        spent: what it has cost.
    """

    name: str
    head_D: Tensor
    accuracy: float
    start: float
    best_step: int
    counts: dict[str, int]
    spent: TrainingCost

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-ready figures, without tensors and history."""
        spent = {name: getattr(self.spent, name) for name in ("steps", "seconds", "tokens", "truncated")}
        return {"accuracy": self.accuracy, "start": self.start, "best_step": self.best_step, **self.counts, **spent}


def fit_adapter(
    encoder: TransformerEncoder,
    preferences: Sequence[Preference],
    *,
    name: str,
    head_D: Tensor,
    lora: LoraSettings,
    config: ExpertConfig,
    folder: Path,
    start: str | None = None,
    origin: str = "",
) -> ExpertFit:
    """Train an adapter and its head on ranked responses.

    A folder that holds the end of the same training is read; one that holds a part of it goes on from the last whole
    checkpoint.

    Args:
        encoder: gets the adapter, beside those that it has.
        preferences: of two or more responses each, best first.
        name: name of the adapter.
        head_D: where the head starts: a linear head on the frozen features, or the task's.
        lora: size and place of the adapter.
        config: settings of its training.
        folder: folder of checkpoints and the result.
        start: an adapter of the trunk to start from as a copy; None for a new one, which changes nothing at first.
        origin: what ``head_D`` was made by; a folder whose training started otherwise is refused.

    Returns:
        The trained head, with figures; the adapter is in the trunk.

    Raises:
        FitError: one prompt only, the folder holds another training, or the loss is not finite.
        ConfigError: arguments that the Trainer refuses.
        BackboneError: a row that cannot be read, or an adapter that does not fit the trunk.

    Reference: DMoERM (arXiv 2403.01197), phases 1 and 2.
    """
    training, held = hold_out_prompts(preferences, config.validation, seed=config.seed)
    held = held[: config.evaluate_on]
    begun = {
        "lora": lora.model_dump(mode="json"),
        "encoder": encoder.trunk_fingerprint,
        "start": None if start is None else encoder.adapter_fingerprint(start),
        "origin": origin,
        "data": fingerprint([p.model_dump(mode="json") for p in (*training, *held)]),
    }
    arguments = _arguments(config, folder, encoder)
    if arguments.should_save:
        claim(folder, question_of(config) | begun)
    model, begin = _prepare(encoder, name=name, head_D=head_D, lora=lora, seed=config.seed, start=start)
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    rows = RankedRows(encoder, training)

    def judge() -> float:
        return agreed(ranked_accuracy(encoder, held, name=name, head_D=model.heads.preference_D))

    before = _first_accuracy(model, begin, judge, folder, write=arguments.should_save)
    if agreed((folder / TRAINED).exists()):
        read_trained(model, folder)
    else:
        with switched(encoder.model, name), nullcontext() if config.dropout else without_dropout(encoder.model):
            trainer = run_trainer(
                model,
                arguments=arguments,
                rows=rows,
                collator=RankedCollator(encoder.pad),
                folder=folder,
                judge=lambda: {"eval_accuracy": judge()},
                callbacks=[_EvaluateTheEnd(), *_stopping(config)],
            )
        _keep_best(trainer, model, begin, before, folder=folder, held=held, errors=config.gain)
        write_trained(trainer, folder)
    torch.autograd.graph.increment_version(learned)  # fused optimizers change tensors without saying so
    encoder.model.eval()
    encoder.model.requires_grad_(False)
    counts = {"train": len(training), "validation": len(held)}
    fit = _finished(name, model.heads.preference_D, before, counts, folder=folder, rows=rows)
    log("expert", name=name, **fit.to_dict())
    return fit


def _finished(
    name: str, head_D: Tensor, before: float, counts: dict[str, int], *, folder: Path, rows: RankedRows
) -> ExpertFit:
    """Return the fit whose end lies in ``folder``."""
    kept = read_json(folder / _KEPT, FitError, fix="delete the folder to train again")
    return ExpertFit(
        name=name,
        head_D=head_D.detach().float().cpu().clone(),
        accuracy=float(kept["accuracy"]),
        start=before,
        best_step=int(kept["step"]),
        counts=counts,
        spent=read_spent(folder, rows),
    )


def agreed(value: T) -> T:
    """Return the first process's ``value`` in all of them: what they decide by must not differ in a last digit."""
    if PartialState().num_processes < 2:
        return value
    return cast(T, broadcast_object_list([value])[0])


def _first_accuracy(
    model: TrunkWithHeads, begin: dict[str, Tensor], judge: Callable[[], float], folder: Path, *, write: bool
) -> float:
    """Return the accuracy before the first step; ``model`` and ``begin`` then are where the folder's training began.

    The head is kept with it: a solver's last digits differ between machines, and a training may go on on another.
    """
    path, key = folder / _START, "heads.preference_D"
    if agreed(path.exists()):
        with safe_open(path, framework="pt") as handle:
            accuracy = float((handle.metadata() or {})["accuracy"])
            begin[key] = handle.get_tensor(key).to(begin[key])
        _restore(model, begin)
        return accuracy
    accuracy = judge()
    if write:
        write_bytes(path, save_tensors({key: begin[key].cpu()}, metadata={"accuracy": repr(accuracy)}))
    return accuracy


def _keep_best(
    trainer: HeadsTrainer,
    model: TrunkWithHeads,
    begin: dict[str, Tensor],
    before: float,
    *,
    folder: Path,
    held: Sequence[Preference],
    errors: float,
) -> None:
    """Leave ``model`` in the best state that was evaluated, or in its first one; write down which."""
    step, best = _best(read_log(folder), before, held=len({p.prompt_key for p in held}), errors=errors)
    if step == 0:
        _restore(model, begin)
    elif trainer.state.best_model_checkpoint is None or not Path(trainer.state.best_model_checkpoint).exists():
        # The folder was moved while training: the Trainer then forgets where its best state is.
        _restore(model, load_file(folder / f"checkpoint-{step}" / SAFE_WEIGHTS_NAME))
    if trainer.args.should_save:
        write_json(folder / _KEPT, {"step": step, "accuracy": best})
    trainer.accelerator.wait_for_everyone()


def hold_out_prompts(
    preferences: Sequence[Preference], share: float, *, seed: int
) -> tuple[list[Preference], list[Preference]]:
    """Return the preferences to train on and those held out: whole prompts, ``share`` of them, one at least.

    A prompt's place in line depends on the seed and on nothing else; those held out stand in that line, so that the
    first of them are as mixed as all.

    Raises:
        FitError: fewer than two prompts.
    """
    keys = {p.prompt_key for p in preferences}
    order = sorted(keys, key=lambda key: hashlib.sha256(f"{seed}\x1f{key}".encode()).digest())
    if len(order) < 2:
        raise FitError(
            f"{len(preferences)} preferences of {len(order)} prompts cannot be split",
            place="held-out prompts",
            fix="give preferences of two or more prompts",
        )
    place = {key: n for n, key in enumerate(order[: min(max(round(share * len(order)), 1), len(order) - 1)])}
    held = sorted((p for p in preferences if p.prompt_key in place), key=lambda p: place[p.prompt_key])
    return [p for p in preferences if p.prompt_key not in place], held


def gained(best: float, start: float, *, held: int, errors: float) -> bool:
    """Return whether an accuracy ``best`` beats ``start`` by ``errors`` of its standard errors on ``held`` prompts."""
    return best > start + errors * math.sqrt(start * (1.0 - start) / held)


def ranked_accuracy(
    encoder: TransformerEncoder, preferences: Sequence[Preference], *, name: str, head_D: Tensor
) -> float:
    """Return the mean over groups of the share of pairs that adapter and head order rightly; a tie counts one half.

    Args:
        encoder: holds the adapter ``name``.
        preferences: the groups, best first.
        name: name of the adapter.
        head_D: weights of the head, [D].
    """
    vectors_ND = encoder.encode(
        [(*p.prompt, answer) for p in preferences for answer in p.responses], adapters=[name]
    ).response_NAD[:, 0]
    score_N = (vectors_ND.double() @ head_D.detach().double().cpu()).numpy()
    better, worse, weight = ranked_pairs([len(p.responses) for p in preferences])
    right = float((win_credit(score_N[better] - score_N[worse]) * weight).sum() / len(preferences))
    return round(right, 12)  # what is equal shall be equal, however the sum was rounded


class _EvaluateTheEnd(TrainerCallback):
    """Judge and keep the last step too."""

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Ask for an evaluation and a checkpoint at the last step."""
        if state.global_step >= state.max_steps:
            control.should_evaluate = control.should_save = True
        return control


def _stopping(config: ExpertConfig) -> list[TrainerCallback]:
    return [EarlyStoppingCallback(config.patience)] if config.patience else []


def _arguments(config: ExpertConfig, folder: Path, encoder: TransformerEncoder) -> TrainingArguments:
    given = config.trainer.model_dump()
    for key in ("fsdp", "deepspeed"):
        if given.get(key) or key in _LAUNCHED_WITH:
            raise ConfigError(
                f"{key} is on, and experts are evaluated on a trunk that is whole on every device",
                place="trainer",
                fix=f"take {key} out: accelerate launch trains experts on several GPUs without it",
            )
    return training_arguments(
        config.trainer,
        folder,
        device=encoder.model.device,
        eval_strategy=IntervalStrategy.STEPS,
        eval_steps=config.evaluate_every,
        save_strategy=IntervalStrategy.STEPS,
        save_steps=config.evaluate_every,
        load_best_model_at_end=True,
        metric_for_best_model="eval_accuracy",
        greater_is_better=True,
        restore_callback_states_from_checkpoint=True,  # or patience would begin again
        data_seed=config.seed,
    )


def _prepare(
    encoder: TransformerEncoder, *, name: str, head_D: Tensor, lora: LoraSettings, seed: int, start: str | None
) -> tuple[TrunkWithHeads, dict[str, Tensor]]:
    """Return trunk and head as one module of which only the adapter ``name`` and the head are trained.

    The second part is what both are before the first step.
    """
    trunk = encoder.model
    if name in adapter_names(trunk):
        encoder.remove_adapter(name)
    encoder.add_adapter(name, lora, seed=seed)
    if start is not None:
        _copy_adapter(trunk, start, name)
    train_only(trunk, name)
    heads = TrainableHeads(encoder.hidden_size, 0, preference=True, seed=seed).to(trunk.device)
    with torch.no_grad():
        heads.preference_D.copy_(head_D)
    model = TrunkWithHeads(trunk, heads, regression=0.0, preference=1.0, pooled=encoder.kind == "encoder")
    kept = model.trained()
    return model, {key: tensor.detach().clone() for key, tensor in model.state_dict().items() if key in kept}


@torch.no_grad()
def _copy_adapter(trunk: PreTrainedModel, source: str, name: str) -> None:
    found, own = adapter_tensors(trunk, name=source), adapter_tensors(trunk, name=name)
    if {key: t.shape for key, t in found.items()} != {key: t.shape for key, t in own.items()}:
        raise FitError(
            f"adapter '{name}' has not the layers and the rank of '{source}', from which it starts",
            place="expert",
            fix="give both phases the same lora section",
        )
    for key, tensor in found.items():
        own[key].copy_(tensor)


@torch.no_grad()
def _restore(model: TrunkWithHeads, begin: dict[str, Tensor]) -> None:
    own = model.state_dict()
    for key, tensor in begin.items():
        own[key].copy_(tensor)


def _best(history: Sequence[dict[str, float]], before: float, *, held: int, errors: float) -> tuple[int, float]:
    """Return step and accuracy of the state that was kept: the first of the best, or the one before the first step."""
    judged = [(entry["eval_accuracy"], -entry["step"]) for entry in history if "eval_accuracy" in entry]
    best, step = max(judged, default=(0.0, 0.0))
    return (int(-step), float(best)) if gained(best, before, held=held, errors=errors) else (0, before)
