"""Train one adapter and its head on ranked responses: a task's own (phase 1), then one per capability (phase 2).

    r_n = w . z_n        z_n: the response's vector under this adapter, in float32
    minimise  mean over groups of  mean over pairs i above j of softplus(-(r_i - r_j))

The rest of the trunk is frozen, including all other adapters. A capability's adapter starts as a copy of the task's.
Held-out prompts choose the state that is kept, and keep the start unless training clearly beats it
(:mod:`facetrm.fit.experts.keep`). If a single split would hold out too few prompts, several folds judge each other.

Shapes: N responses, D hidden size, P held-out prompts, S evaluations and the start.

Reference: DMoERM (arXiv 2403.01197), phases 1 and 2. We differ: an adapter on one shared trunk instead of full
fine-tuning per task; the head of a capability is trained with its adapter (the released code leaves it out of the
optimizer); dropout stays on after the first evaluation; the better rank has the higher reward in loss, selection and
test alike (there the selection is inverted).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from safetensors.torch import load_file
from torch import Tensor
from transformers.utils import SAFE_WEIGHTS_NAME

from facetrm.backbone.lora.adapters import LoraSettings
from facetrm.backbone.lora.switching import switched
from facetrm.backbone.transformer import TransformerEncoder
from facetrm.core.errors import FitError
from facetrm.core.files import read_json, write_json
from facetrm.core.progress import log
from facetrm.data.records import Preference
from facetrm.fit.experts.config import ExpertConfig
from facetrm.fit.experts.held_out import HeldOutSplit, held_out_splits, ranked_figures
from facetrm.fit.experts.keep import KeepDecision, decide_kept
from facetrm.fit.experts.looks import Looks, StepBudget, TrainingClock
from facetrm.fit.experts.plan import ExpertPlan, HeadStart, expert_arguments, expert_question
from facetrm.fit.experts.ranked import RankedCollator, RankedRows
from facetrm.fit.experts.start import (
    has_start,
    prepare_adapter,
    random_head,
    read_start,
    restore,
    state_of,
    write_start,
)
from facetrm.fit.finetune.model import TrunkWithHeads, without_dropout
from facetrm.fit.trainer import (
    TRAINED,
    HeadsTrainer,
    TrainingCost,
    claim,
    read_spent,
    read_trained,
    run_trainer,
    write_result,
    write_trained,
)
from facetrm.model.validity import Validity

T = TypeVar("T")

_KEPT: Final = "kept.json"
_COMPARED: Final = 64  # held-out preferences whose vectors are compared before and after training


@dataclass(frozen=True)
class ExpertFit:
    """A trained adapter and its head.

    "Start" is the head on the vectors before training, also if the training itself started from a random head.

    Attributes:
        name: Name of the adapter, which is in the encoder's trunk.
        head_D: Weights w of the head; float32, on the CPU.
        accuracy: Held-out accuracy of the state that was kept.
        start: Held-out accuracy before the first step.
        loss: Held-out loss of the state that was kept, in nats per prompt.
        start_loss: Held-out loss before the first step.
        best_step: Optimiser step of the state that was kept; 0 if the start was kept.
        steps: Optimiser steps of the training, or of each fold of a cross-validation.
        rate: Learning rate of its first step.
        change: Relative change of the vectors, mean of |z - z_start| / |z_start| on held-out responses.
        folds: Number of folds; 1 for a single split.
        decision: How clearly training beat the start.
        counts: Groups trained on and held out.
        spent: What the training cost.
    """

    name: str
    head_D: Tensor
    accuracy: float
    start: float
    loss: float
    start_loss: float
    best_step: int
    steps: int
    rate: float
    change: float
    folds: int
    decision: KeepDecision
    counts: dict[str, int]
    spent: TrainingCost

    @property
    def kept(self) -> bool:
        """Whether the trained adapter was kept; otherwise this is a linear head on the vectors that it started from."""
        return self.best_step > 0

    @property
    def validity(self) -> Validity:
        """How well the expert orders held-out preferences about its objective; these also chose the state kept."""
        return Validity.of_accuracy(self.accuracy, self.decision.prompts)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-ready figures, without tensors and history."""
        names = ("accuracy", "start", "loss", "start_loss", "best_step", "steps", "rate", "change", "folds")
        spent = {name: getattr(self.spent, name) for name in ("seconds", "tokens", "truncated")}
        figures = {name: getattr(self, name) for name in names}
        return {"kept": self.kept, **figures, **self.decision.to_dict(), **self.counts, **spent}


@dataclass(frozen=True)
class _Trained:
    """A training that has ended: module, its start, the looks, and the Trainer if it has run just now."""

    model: TrunkWithHeads
    begin: dict[str, Tensor]
    looks: Looks
    rows: RankedRows
    trainer: HeadsTrainer | None


def fit_adapter(
    encoder: TransformerEncoder,
    preferences: Sequence[Preference],
    *,
    name: str,
    head: HeadStart,
    lora: LoraSettings,
    config: ExpertConfig,
    folder: Path,
    start: str | None = None,
    random_start: bool = False,
    origin: str = "",
) -> ExpertFit:
    """Train an adapter and its head on ranked responses.

    If ``folder`` holds the end of the same training, that is read; if it holds a part of it, the training goes on from
    the last whole checkpoint.

    Args:
        encoder: Gets the adapter, beside those that it has.
        preferences: Two or more responses each, best first.
        name: Name of the adapter.
        head: A head on the vectors before training, [D], or a function that fits one to the preferences trained on
            (it never sees the held-out prompts). Training must beat this head, or it is kept.
        lora: Size and place of the adapter.
        config: Settings of the training.
        folder: Folder of checkpoints and the result.
        start: Name of the adapter to start from as a copy; None for a new one, which changes nothing at first.
        random_start: Start training from a random head instead of ``head``. A head that reads next to nothing is close
            to 0 and passes next to no gradient on to the adapter.
        origin: What made ``head``; a folder whose training started otherwise is refused.

    Returns:
        The trained head, with figures; the adapter is in the trunk.

    Raises:
        FitError: Only one prompt, the folder holds another training, or the loss is not finite.
        ConfigError: Arguments that the Trainer refuses.
        BackboneError: A row that cannot be read, or an adapter that does not fit the trunk.

    Example:
        >>> from pathlib import Path
        >>> import torch
        >>> from facetrm import ExpertConfig, LoraSettings, World, fit_adapter, toy_model
        >>> encoder, pairs = toy_model().encoder, list(World().preferences(12, part="gate"))
        >>> config = ExpertConfig.model_validate({"trainer": {"max_steps": 2}})
        >>> given = {"head": torch.zeros(encoder.hidden_size), "lora": LoraSettings(rank=2), "folder": Path("chat")}
        >>> fit_adapter(encoder, pairs, name="chat", config=config, **given).steps
        2

    Reference: DMoERM (arXiv 2403.01197), phases 1 and 2.
    """
    splits = held_out_splits(preferences, config)
    plan = ExpertPlan(encoder, name, head, lora, config, start, origin, len(splits), random_start)
    if len(splits) == 1:
        split = splits[0]
        ended = _train(plan, split, folder)
        looks, decision = ended.looks, _decision(config, ended.looks)
    else:
        split = HeldOutSplit(list(preferences), [p for part in splits for p in part.held])
        looks, decision = _judged_by_folds(plan, splits, folder)
        ended = _train(plan, split, folder, until=looks.steps[decision.look])
    if (folder / _KEPT).exists() and (folder / TRAINED).exists():
        kept = read_json(folder / _KEPT, FitError, fix="delete the folder to train again")
    else:
        kept = _keep(plan, ended, split.held, folder, looks=looks, decision=decision)
    fit = ExpertFit(
        name=name,
        head_D=ended.model.heads.preference_D.detach().float().cpu().clone(),
        steps=looks.steps[-1],
        folds=len(splits),
        counts={"train": len(split.training), "validation": len(split.held)},
        spent=read_spent(folder, ended.rows),
        decision=KeepDecision.from_json(kept.pop("decision")),
        **kept,
    )
    log("expert", name=name, **fit.to_dict())
    return fit


def agreed(value: T) -> T:
    """Return the first process's ``value`` in all of them: what they decide by must not differ in a last digit."""
    if PartialState().num_processes < 2:
        return value
    return cast(T, broadcast_object_list([value])[0])


def _judged_by_folds(plan: ExpertPlan, splits: Sequence[HeldOutSplit], folder: Path) -> tuple[Looks, KeepDecision]:
    """Train every fold; return the looks of all folds side by side, and what they decide."""
    parts = []
    for n, split in enumerate(splits):
        place = folder / f"fold-{n}"
        ended = _train(plan, split, place)
        if ended.trainer is not None:
            write_trained(ended.trainer, place)
        parts.append(ended.looks)
    looks = Looks.joined(parts)
    folds_P = [n for n, part in enumerate(parts) for _ in range(part.prompts)]
    return looks, _decision(plan.config, looks, folds_P)


def _train(plan: ExpertPlan, split: HeldOutSplit, folder: Path, *, until: int | None = None) -> _Trained:
    """Train on ``split``, or read the training that ``folder`` holds.

    Args:
        plan: What is trained.
        split: Rows to train on and those held out.
        folder: Folder of this training.
        until: Step of the schedule at which to end, without a look at the held-out prompts; None for all steps.
    """
    encoder, config = plan.encoder, plan.config
    arguments = expert_arguments(plan, folder, groups=len(split.training), looks=until is None)
    main = arguments.should_save
    if main:
        claim(folder, expert_question(plan, split))
    if found := agreed(has_start(folder)):
        head_D = read_start(folder)
    else:
        head_D = plan.head if isinstance(plan.head, Tensor) else plan.head(split.training)
    model, begin = prepare_adapter(
        encoder, name=plan.name, head_D=head_D, lora=plan.lora, seed=config.seed, start=plan.start
    )
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if main and not found:
        write_start(folder, model.heads.preference_D)
    rows, looks = RankedRows(encoder, split.training), Looks.read(folder, write=main)
    patience = config.patience * config.evaluate_every if plan.folds == 1 else 0  # folds are compared step by step
    clock = TrainingClock(StepBudget(config.min_steps, patience, until), looks, select=config.select)

    def judge() -> dict[str, float]:
        found = agreed(ranked_figures(encoder, split.held, name=plan.name, head_D=model.heads.preference_D))
        looks.add(clock.step, found)
        return {"eval_loss": found.loss, "eval_accuracy": found.accuracy}

    trainer, caches = None, getattr(encoder.model.config, "use_cache", None)
    if agreed((folder / TRAINED).exists()):
        read_trained(model, folder)
    elif until != 0:
        if until is None and 0 not in looks.steps:
            judge()
        if plan.random_start:
            with torch.no_grad():
                model.heads.preference_D.copy_(random_head(encoder.hidden_size, seed=config.seed))
        with switched(encoder.model, plan.name), nullcontext() if config.dropout else without_dropout(encoder.model):
            trainer = run_trainer(
                model,
                arguments=arguments,
                rows=rows,
                collator=RankedCollator(encoder.pad),
                folder=folder,
                judge=judge if until is None else None,
                callbacks=[clock],
            )
        if caches is not None:  # the Trainer switches it off, and a resumed run must save the same configuration
            encoder.model.config.use_cache = caches
    torch.autograd.graph.increment_version(learned)  # fused optimizers change tensors without saying so
    encoder.model.eval()
    encoder.model.requires_grad_(False)
    return _Trained(model, begin, looks, rows, trainer)


def _keep(
    plan: ExpertPlan,
    ended: _Trained,
    held: Sequence[Preference],
    folder: Path,
    *,
    looks: Looks,
    decision: KeepDecision,
) -> dict[str, Any]:
    """Leave the state that is kept in the trunk, write it to ``folder``, and return the figures of the decision."""
    model, step = ended.model, looks.steps[decision.look]
    if step == 0:
        restore(model, ended.begin)
    elif plan.folds == 1 and ended.trainer is not None:
        best = ended.trainer.state.best_model_checkpoint
        if best is None or not Path(best).exists() or Path(best).name != f"checkpoint-{step}":
            # The folder was moved during training: the Trainer then forgets where its best state is.
            restore(model, load_file(folder / f"checkpoint-{step}" / SAFE_WEIGHTS_NAME))
    before, after = looks.at(0), looks.at(step)
    kept = {
        "accuracy": after.accuracy,
        "start": before.accuracy,
        "loss": after.loss,
        "start_loss": before.loss,
        "best_step": step,
        "rate": float(plan.config.trainer.learning_rate),
        "change": 0.0 if step == 0 else _change(plan, ended, held[:_COMPARED]),
        "decision": decision.to_json(),
    }
    if PartialState().is_main_process:
        write_json(folder / _KEPT, kept)
        write_result(state_of(model, ended.begin), folder)
    PartialState().wait_for_everyone()
    return kept


def _decision(config: ExpertConfig, looks: Looks, folds_P: Sequence[int] | None = None) -> KeepDecision:
    return decide_kept(looks.values(config.select), errors=config.gain, least=config.least_gain, folds_P=folds_P)


def _change(plan: ExpertPlan, ended: _Trained, held: Sequence[Preference]) -> float:
    """Return the mean of |z - z_start| / |z_start| over the responses of ``held``."""
    rows = [(*p.prompt, answer) for p in held for answer in p.responses]
    now = state_of(ended.model, ended.begin)

    def vectors() -> Tensor:
        return plan.encoder.encode(rows, adapters=[plan.name]).response_NAD[:, 0].double()

    restore(ended.model, ended.begin)
    before_ND = vectors()
    restore(ended.model, now)
    moved_N = (vectors() - before_ND).norm(dim=1) / before_ND.norm(dim=1).clamp_min(1e-12)
    return float(agreed(float(moved_N.mean())))
