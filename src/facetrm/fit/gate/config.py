"""The settings of stage 2: shape of the gate, training, and what keeps it from learning its pairs by heart."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from facetrm.core.config import Section, Seed


class GateConfig(Section):
    """Settings of stage 2; the defaults suit thousands of pairs, :meth:`published` gives those of ArmoRM.

    Attributes:
        hidden: width of each hidden layer.
        n_hidden: number of hidden layers; 0 (with ``hidden`` 0) for weights that do not depend on the prompt.
        temperature: divides the logits.
        dropout: after each hidden layer.
        rank: principal components of the training prompts that the gate reads, whitened; 0 for the whole vector.
        shrinkage: shrinkage of the whitening, as a share of the mean kept variance.
        standardise: with rank 0, divide every dimension by its standard deviation.
        unit_spread: let a unit of weight stand for one standard deviation of the debiased score between answers to one
            prompt; without it, heads of little data have a tiny spread and need nearly all the weight to be heard.
        start: ``unconditional`` weights, or ``random`` ones.
        smoothing: share of the uniform weights in the former.
        kl: pull toward the unconditional weights.
        entropy: pull toward spread-out weights.
        ridge: strengths of the unconditional fit, to choose from on held-out prompts.
        steps, batch_size (with replacement; 0 for all pairs), learning_rate, weight_decay: AdamW, down a cosine.
        evaluate_every: steps between evaluations.
        patience: evaluations without a new best before it stops; 0 for never.
        beta: the train-time factor to start from; None takes it from the unconditional fit.
        validation: share of the prompts held out.
        blends: factors on the prompt-dependent part to choose from.
        refit: train once more on all pairs, for as many steps as was best.
        seed: random seed of split, initial values, batches and dropout.

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
        if not self.ridge or min(self.ridge) <= 0:
            raise ValueError("give one or more ridge strengths above 0")
        if not self.blends or min(self.blends) < 0:
            raise ValueError("give one or more blends of 0 or more")
        return self

    @staticmethod
    def published(**changes: Any) -> GateConfig:
        """Return the settings of ArmoRM's released training script (beta 100 as in the paper), with ``changes``."""
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
