"""What one expert's trainings have in common, and the Trainer's arguments: budgets are counted in optimiser steps."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from accelerate import PartialState
from torch import Tensor
from transformers import TrainingArguments
from transformers.trainer_utils import IntervalStrategy

from facetrm.backbone.lora.adapters import LoraSettings
from facetrm.backbone.transformer import TransformerEncoder
from facetrm.core.errors import ConfigError
from facetrm.core.fingerprint import fingerprint
from facetrm.data.records import Preference
from facetrm.fit.experts.config import ExpertConfig
from facetrm.fit.experts.held_out import HeldOutSplit
from facetrm.fit.trainer import question_of, training_arguments

HeadStart = Tensor | Callable[[Sequence[Preference]], Tensor]
"""A head to start from, [D], or a function that fits one to the preferences of a training."""

# What accelerate launch has set; later the Trainer's own arguments set the same.
_LAUNCHED_WITH: Final = [
    key for key in ("fsdp", "deepspeed") if os.environ.get(f"ACCELERATE_USE_{key.upper()}") == "true"
]


@dataclass(frozen=True)
class ExpertPlan:
    """What all trainings of one expert share: those of the folds, and the last one.

    Attributes:
        encoder: Gets the adapter.
        name: Name of the adapter.
        head: Head on the vectors before training, or a function that fits it.
        lora: Size and place of the adapter.
        config: Settings of the training.
        start: Name of the adapter to copy, or None.
        origin: What made ``head``.
        folds: Number of folds; 1 for a single split.
        random_start: Whether training starts from a random head.
    """

    encoder: TransformerEncoder
    name: str
    head: HeadStart
    lora: LoraSettings
    config: ExpertConfig
    start: str | None
    origin: str
    folds: int
    random_start: bool


def expert_question(plan: ExpertPlan, split: HeldOutSplit) -> dict[str, Any]:
    """Return what decides the result of a training.

    Args:
        plan: What is trained.
        split: Rows to train on and those held out.
    """
    return question_of(plan.config) | {
        "lora": plan.lora.model_dump(mode="json"),
        "encoder": plan.encoder.trunk_fingerprint,
        "start": None if plan.start is None else plan.encoder.adapter_fingerprint(plan.start),
        "origin": plan.origin,
        "splits": plan.folds,
        "random_start": plan.random_start,
        "data": fingerprint([p.model_dump(mode="json") for p in (*split.training, *split.held)]),
    }


def expert_arguments(plan: ExpertPlan, folder: Path, *, groups: int, looks: bool) -> TrainingArguments:
    """Return the Trainer's arguments: as many steps as the passes take, but not fewer than ``min_steps``.

    Args:
        plan: What is trained.
        folder: Folder of checkpoints.
        groups: Number of groups to train on.
        looks: Whether held-out prompts are evaluated.

    Raises:
        ConfigError: Arguments that the Trainer refuses, or a trunk in pieces.
    """
    config = plan.config
    given = config.trainer.model_dump()
    for key in ("fsdp", "deepspeed"):
        if given.get(key) or key in _LAUNCHED_WITH:
            raise ConfigError(
                f"{key} is on, but experts are evaluated on a trunk that is whole on every device",
                place="trainer",
                fix=f"remove {key}: accelerate launch trains experts on several GPUs without it",
            )
    batch = config.trainer.per_device_train_batch_size * PartialState().num_processes
    batch *= given.get("gradient_accumulation_steps", 1)
    passes = math.ceil(config.trainer.num_train_epochs * groups / batch)
    asked = given.get("max_steps", -1)
    steps = {"max_steps": asked if asked > 0 else max(config.min_steps, passes)}
    section = config.trainer.model_copy(update={"seed": config.seed, **given, **steps})
    judged: dict[str, Any] = {
        "eval_strategy": IntervalStrategy.STEPS,
        "eval_steps": config.evaluate_every,
        "load_best_model_at_end": True,
        "metric_for_best_model": f"eval_{config.select}",
        "greater_is_better": config.select == "accuracy",
    }
    return training_arguments(
        section,
        folder,
        device=plan.encoder.model.device,
        save_strategy=IntervalStrategy.STEPS,
        save_steps=config.evaluate_every,
        data_seed=config.seed,
        **(judged if looks else {}),
    )
