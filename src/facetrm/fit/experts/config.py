"""The settings of one adapter with its head: of a task's (phase 1) or of one capability's (phase 2)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from facetrm.core.config import Section, Seed
from facetrm.fit.finetune.config import TrainerSection


class ExpertTrainer(TrainerSection):
    """Arguments of the Trainer, with defaults for adapters trained on a few hundred to a few thousand groups.

    An adapter needs a higher learning rate than full fine-tuning. The rate starts at ``learning_rate`` and falls along
    a cosine. There is no warm-up by default: a new adapter changes nothing at first, so its first steps are small. A
    warm-up that is asked for never takes a step at rate 0.
    """

    learning_rate: float = Field(default=1e-3, gt=0)
    lr_scheduler_type: str = "cosine"
    warmup_steps: float = 0
    num_train_epochs: float = Field(default=3.0, gt=0)
    per_device_train_batch_size: int = Field(default=16, ge=1)


class ExpertConfig(Section):
    """How one adapter and its head are trained.

    Attributes:
        min_steps: Smallest number of optimiser steps. Small data is repeated until it is reached; large data takes
            ``trainer.num_train_epochs`` passes. ``trainer.max_steps`` overrides both. Training never stops early
            before this step.
        validation: Share of the prompts to hold out; they choose the state that is kept.
        few: With fewer held-out prompts than this, ``folds`` trainings judge each other's prompts (cross-validation),
            and a last one on all prompts stops at the step that they chose.
        folds: Number of folds of that cross-validation; 0 always uses one split.
        evaluate_every: Steps between two evaluations; the last step is always evaluated.
        evaluate_on: Largest number of held-out preferences to evaluate on.
        select: Keep the state with the lowest held-out ``loss``, or with the highest held-out ``accuracy``.
        gain: Standard errors of the paired per-prompt difference by which that state must beat the one before the
            first step; otherwise the start is kept. 0 keeps the best state however small its gain.
        least_gain: Smallest difference that is worth an adapter, in nats per prompt (or in accuracy, if that selects).
            Not used if ``gain`` is 0.
        patience: Evaluations without a new best before training stops; 0 never stops early.
        dropout: Keep the dropout of the trunk's own configuration. The adapter's own dropout is always on in training.
        seed: Random seed of the adapter, the held-out prompts and the order of the rows.
        trainer: Arguments of the Trainer, see :class:`ExpertTrainer`.

    Example:
        >>> from facetrm import ExpertConfig
        >>> ExpertConfig(min_steps=400).trainer.lr_scheduler_type
        'cosine'
    """

    min_steps: int = Field(default=200, ge=1)
    validation: float = Field(default=0.2, gt=0.0, lt=1.0)
    few: int = Field(default=20, ge=0)
    folds: int = Field(default=3, ge=0, le=20)
    evaluate_every: int = Field(default=25, ge=1)
    evaluate_on: int = Field(default=500, ge=1)
    select: Literal["loss", "accuracy"] = "loss"
    gain: float = Field(default=1.0, ge=0.0)
    least_gain: float = Field(default=0.002, ge=0.0)
    patience: int = Field(default=4, ge=0)
    dropout: bool = False
    seed: Seed = 0
    trainer: ExpertTrainer = ExpertTrainer()

    @field_validator("folds")
    @classmethod
    def _no_single_fold(cls, folds: int) -> int:
        if folds == 1:
            raise ValueError("one fold holds out nothing: give 0, or 2 and more")
        return folds
