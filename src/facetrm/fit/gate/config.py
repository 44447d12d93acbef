"""Settings of stage 2: shape of the gate, training and regularisation."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from facetrm.core.config import Section, Seed


class GateConfig(Section):
    """Settings of stage 2. The defaults suit thousands of pairs; :meth:`published` returns those of ArmoRM.

    Attributes:
        hidden: width of each hidden layer.
        n_hidden: number of hidden layers; 0 (with ``hidden`` 0) for weights that do not depend on the prompt.
        temperature: divisor of the gate logits.
        dropout: dropout rate after each hidden layer.
        rank: number of directions of the prompt vectors that the gate reads; 0 for the whole vector.
        directions: which ones: those of the largest ``variance`` (principal components, with unit variance over all
            prompts), or those that tell ``tasks`` apart best (linear discriminants, at most one fewer than there are
            tasks, with unit variance inside the tasks).
        shrinkage: share of the mean variance that is added to each variance before it is made 1: the mean over the kept
            components, or over all dimensions for ``tasks``.
        standardise: whether to divide every dimension by its standard deviation; used only with rank 0.
        unit_spread: whether to measure weights per standard deviation of the debiased score between answers to one
            prompt. Without it, heads trained on little data have a small spread and need nearly all the weight.
        start: initial weights: the ``unconditional`` ones or ``random`` ones.
        smoothing: share of uniform weights mixed into the unconditional weights.
        kl: strength of the regularisation towards the unconditional weights, by KL divergence.
        entropy: strength of the regularisation towards uniform weights, by KL divergence.
        ridge: ridge strengths of the unconditional fit; held-out prompts choose one.
        steps: largest number of AdamW steps; the learning rate falls along a cosine.
        batch_size: number of pairs per step, drawn with replacement; 0 uses all pairs in every step.
        learning_rate: learning rate of AdamW at the first step.
        weight_decay: weight decay of AdamW.
        evaluate_every: number of steps between two evaluations.
        patience: number of evaluations without a new best before training stops; 0 never stops early.
        beta: initial factor from margins to log odds in training; None takes it from the unconditional fit.
        validation: share of the prompts to hold out, 0 to 1.
        blends: factors on the prompt-dependent part of the logits; held-out prompts choose one.
        refit: whether to train again on all pairs, for the number of steps that was best.
        seed: random seed of the split, the initial values, the batches and the dropout.

    Example:
        >>> from facetrm import GateConfig
        >>> GateConfig(steps=50).steps
        50
    """

    hidden: int = Field(default=64, ge=0)
    n_hidden: int = Field(default=1, ge=0)
    temperature: float = Field(default=1.0, gt=0)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    rank: int = Field(default=32, ge=0)
    directions: Literal["variance", "tasks"] = "variance"
    shrinkage: float = Field(default=0.1, ge=0)
    standardise: bool = False
    unit_spread: bool = True
    start: Literal["unconditional", "random"] = "unconditional"
    smoothing: float = Field(default=0.5, ge=0, le=1)
    kl: float = Field(default=0.01, ge=0)
    entropy: float = Field(default=0.0, ge=0)
    ridge: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1)
    steps: int = Field(default=1000, ge=0)
    batch_size: int = Field(default=1024, ge=0)
    learning_rate: float = Field(default=3e-3, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    evaluate_every: int = Field(default=20, ge=1)
    patience: int = Field(default=15, ge=0)
    beta: float | None = Field(default=None, gt=0)
    validation: float = Field(default=0.2, gt=0, lt=1)
    blends: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    refit: bool = True
    seed: Seed = 0

    @model_validator(mode="after")
    def _consistent(self) -> GateConfig:
        if (self.hidden == 0) != (self.n_hidden == 0) and self.hidden == 0:
            raise ValueError(f"hidden 0 with n_hidden {self.n_hidden}: give both, or 0 and 0")
        if self.directions == "tasks" and self.rank == 0:
            raise ValueError("directions 'tasks' with rank 0: give the largest number of directions as rank")
        if not self.ridge or min(self.ridge) <= 0:
            raise ValueError("give one or more ridge strengths above 0")
        if not self.blends or min(self.blends) < 0:
            raise ValueError("give one or more blends of 0 or more")
        return self

    @staticmethod
    def published(**changes: Any) -> GateConfig:
        """Return the settings of ArmoRM's released training script (with beta 100, as in the paper).

        Args:
            changes: settings to change, by name.
        """
        values: dict[str, Any] = {
            "hidden": 1024,
            "n_hidden": 3,
            "temperature": 10.0,
            "dropout": 0.2,
            "rank": 0,
            "unit_spread": False,
            "start": "random",
            "kl": 0.0,
            "steps": 2000,
            "learning_rate": 1e-3,
            "weight_decay": 0.0,
            "evaluate_every": 100,
            "patience": 0,
            "beta": 100.0,
            "blends": (1.0,),
            "refit": False,
        }
        return GateConfig(**{**values, **changes})
