"""The settings of one adapter with its head: of a task's (phase 1) or of one capability's (phase 2)."""

from __future__ import annotations

from pydantic import Field

from facetrm.core.config import Section, Seed
from facetrm.fit.finetune.config import TrainerSection


class ExpertTrainer(TrainerSection):
    """Arguments of the Trainer with defaults for adapters of a few hundred to a few thousand groups.

    Adapters want ten times the learning rate of a full fine-tuning (2e-4), fall along a cosine after a short warm-up,
    and see their few rows three times; which state is kept is decided on held-out prompts.
    """

    learning_rate: float = Field(default=2e-4, gt=0)
    lr_scheduler_type: str = "cosine"
    warmup_steps: float = 0.05
    num_train_epochs: float = Field(default=3.0, gt=0)
    per_device_train_batch_size: int = Field(default=8, ge=1)


class ExpertConfig(Section):
    """How one adapter and its head are trained.

    Attributes:
        validation: share of the prompts that are held out: they choose the state that is kept, by accuracy.
        evaluate_every: steps between evaluations; the last step is always one.
        evaluate_on: preferences of the held-out part at most.
        gain: standard errors of the held-out accuracy by which the best state must beat the one before the first step,
            else that one is kept: a dozen held-out pairs find some step lucky. 0 takes any gain.
        patience: evaluations without a new best before it stops; 0 for never.
        dropout: keep the dropout that the trunk's own configuration asks for; the adapter's own is on while training in
            any case.
        seed: random seed of the adapter, the held-out prompts and the order of the rows.
        trainer: see :class:`ExpertTrainer`.
    """

    validation: float = Field(default=0.2, gt=0.0, lt=1.0)
    evaluate_every: int = Field(default=25, ge=1)
    evaluate_on: int = Field(default=500, ge=1)
    gain: float = Field(default=1.0, ge=0.0)
    patience: int = Field(default=0, ge=0)
    dropout: bool = False
    seed: Seed = 0
    trainer: ExpertTrainer = ExpertTrainer()
