"""Settings of the router: shape, training and calibration."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import Field

from facetrm.core.config import Section, Seed

THRESHOLDS: Final = (0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)


class RouterConfig(Section):
    """Settings of the router. The defaults suit thousands of prompts.

    Attributes:
        hidden: width of each hidden layer.
        n_hidden: number of hidden layers; 0 makes the router linear.
        dropout: dropout rate after each hidden layer.
        rank: number of whitened principal components of the prompt vectors that the router reads; 0 for the whole
            vector.
        shrinkage: share of the mean variance that the whitening adds to each component's variance.
        standardise: whether to divide every dimension by its standard deviation; used only with rank 0.
        class_weight: ``none`` gives every row the same weight; ``balanced`` gives every task the same total weight,
            which favours rare tasks.
        steps: largest number of AdamW steps; the learning rate falls along a cosine.
        batch_size: number of rows per step, drawn with replacement; 0 uses all rows in every step.
        learning_rate: learning rate of AdamW at the first step.
        weight_decay: weight decay of AdamW.
        evaluate_every: number of steps between two evaluations.
        patience: number of evaluations without a new best before training stops; 0 never stops early.
        validation: share of each task's prompts to hold out, 0 to 1. They choose the step and the temperature, and the
            report is on them.
        calibrate: whether to fit the temperature on held-out prompts.
        bins: number of confidence bins of the calibration figures.
        samples: number of bootstrap samples over prompts.
        thresholds: confidence levels at which coverage and accuracy are reported.
        seed: random seed of the split, the initial values, the batches, the dropout and the bootstrap.

    Example:
        >>> from facetrm import RouterConfig
        >>> RouterConfig(steps=50).calibrate
        True
    """

    hidden: int = Field(default=64, ge=1)
    n_hidden: int = Field(default=1, ge=0)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    rank: int = Field(default=0, ge=0)
    shrinkage: float = Field(default=0.1, ge=0)
    standardise: bool = True
    class_weight: Literal["none", "balanced"] = "none"
    steps: int = Field(default=600, ge=0)
    batch_size: int = Field(default=512, ge=0)
    learning_rate: float = Field(default=3e-3, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    evaluate_every: int = Field(default=20, ge=1)
    patience: int = Field(default=10, ge=0)
    validation: float = Field(default=0.2, gt=0, lt=1)
    calibrate: bool = True
    bins: int = Field(default=10, ge=1)
    samples: int = Field(default=1000, ge=1)
    thresholds: tuple[float, ...] = THRESHOLDS
    seed: Seed = 0
