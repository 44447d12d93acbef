"""Settings of the recipes of rivals."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from facetrm.backbone.transformer import BackboneConfig
from facetrm.baselines.trained.training import RivalTraining
from facetrm.baselines.trained.with_trl import PolicyLoss
from facetrm.core.config import Section, Seed, share_seed
from facetrm.recipes.baselines.rows import PairSection, WorldPairs


class RivalRecipe(Section):
    """What the recipes of all rivals share.

    Attributes:
        recipe: Name of the recipe.
        title: Title of the run.
        description: Description of the run.
        seed: Random seed of the run.
        data: The preferences.
        backbone: Settings of the model that training starts from. ``max_tokens`` and ``truncation`` say how much of a
            conversation is read and what happens to a longer one; the run counts the truncated ones.
        training: Settings of the training.
        samples: Number of bootstrap resamples.
    """

    recipe: str
    title: str = ""
    description: str = ""
    seed: Seed = 0
    data: PairSection = WorldPairs()
    backbone: BackboneConfig
    training: RivalTraining = RivalTraining()
    samples: int = Field(default=1000, ge=10)

    _one_seed = model_validator(mode="after")(share_seed)

    @model_validator(mode="after")
    def _one_model(self) -> Self:
        if self.backbone.adapter is not None or self.backbone.adapters:
            raise ValueError("the training makes its own adapter: merge those of the backbone into it first")
        return self

    @property
    def start(self) -> BackboneConfig:
        """The settings of the model that training starts from."""
        if self.training.method == "full" and self.backbone.dtype == "auto":
            return self.backbone.model_copy(update={"dtype": "float32"})  # in bfloat16, small updates would be lost
        return self.backbone


class BradleyTerryRecipe(RivalRecipe):
    """Settings of a Bradley-Terry reward model.

    Attributes:
        recipe: Name of the recipe.
    """

    recipe: Literal["bradley-terry"] = "bradley-terry"


class PairwiseRecipe(RivalRecipe):
    """Settings of a pairwise preference model.

    Attributes:
        recipe: Name of the recipe.
    """

    recipe: Literal["pairwise"] = "pairwise"


class DpoRecipe(RivalRecipe):
    """Settings of a policy whose implicit reward is measured.

    Attributes:
        recipe: Name of the recipe.
        loss: Loss of the training: ``sigmoid`` (DPO), ``ipo``, or ``hinge`` (SLiC's hinge on the log-ratio).
        beta: Strength of the tie to the reference.
        save_reference: Whether to copy the reference into the folder of the policy, or to refer to it by its path.
    """

    recipe: Literal["dpo"] = "dpo"
    loss: PolicyLoss = "sigmoid"
    beta: float = Field(default=0.1, gt=0.0)
    save_reference: Literal["copy", "reference"] = "reference"
