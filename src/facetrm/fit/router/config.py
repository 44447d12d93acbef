"""The settings of the router: shape, training, and what makes its confidence mean what it says."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import Field

from facetrm.core.config import Section, Seed

THRESHOLDS: Final = (0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)


class RouterConfig(Section):
    """Settings of the task classifier; the defaults suit thousands of prompts.

    Attributes:
        hidden: width of each hidden layer.
        n_hidden: number of hidden layers; 0 makes the router linear.
        dropout: after each hidden layer.
        rank: principal components of the training prompts that the router reads, whitened; 0 for the whole vector.
        shrinkage: shrinkage of the whitening, as a share of the mean kept variance.
        standardise: with rank 0, divide every dimension by its standard deviation.
        class_weight: ``none`` counts every row alike; ``balanced`` every task alike, which helps rare tasks and
            leans toward them.
        steps, batch_size (with replacement; 0 for all rows), learning_rate, weight_decay: AdamW, down a cosine.
        evaluate_every: steps between evaluations.
        patience: evaluations without a new best before it stops; 0 for never.
        validation: share of each task's prompts held out: they choose the step and the temperature, and are reported.
        calibrate: fit the temperature on held-out prompts.
        bins: number of bins of the reliability figures.
        samples: number of resamples of the bootstrap over prompts.
        thresholds: confidence levels at which coverage and accuracy are reported.
        seed: random seed of split, initial values, batches, dropout and bootstrap.

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
