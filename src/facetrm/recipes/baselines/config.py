"""Settings of the recipes of rivals."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, FiniteFloat, model_validator

from facetrm.backbone.config import Mode
from facetrm.backbone.transformer import BackboneConfig
from facetrm.baselines.directional import DirectionScale
from facetrm.baselines.ensemble import DISAGREEMENT, EnsembleKind
from facetrm.baselines.fitted.parts import PartReading
from facetrm.baselines.plain import LengthUnit
from facetrm.baselines.trained.training import RivalTraining
from facetrm.baselines.trained.with_trl import PolicyLoss
from facetrm.core.config import Section, Seed, share_seed
from facetrm.recipes.baselines.rows import PairSection, WorldPairs


class MeasuredRecipe(Section):
    """What the recipes of all rivals share.

    Attributes:
        recipe: Name of the recipe.
        title: Title of the run.
        description: Description of the run.
        seed: Random seed of the run.
        data: The preferences.
        samples: Number of bootstrap resamples.
    """

    recipe: str
    title: str = ""
    description: str = ""
    seed: Seed = 0
    data: PairSection = WorldPairs()
    samples: int = Field(default=1000, ge=10)

    _one_seed = model_validator(mode="after")(share_seed)


class RivalRecipe(MeasuredRecipe):
    """What the recipes of trained rivals share.

    Attributes:
        backbone: Settings of the model that training starts from. ``max_tokens`` and ``truncation`` say how much of a
            conversation is read and what happens to a longer one; the run counts the truncated ones.
        training: Settings of the training.
    """

    backbone: BackboneConfig
    training: RivalTraining = RivalTraining()

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


class FittedRecipe(MeasuredRecipe):
    """What the recipes of rivals share that are fitted to the scores of other systems, without training.

    A system is a run or model folder, also of another rival, ``hf://owner/name``, a shipped model such as ``desk``,
    ``length``, ``shortest`` or ``random``.

    Attributes:
        device: Device of the models: ``auto``, ``cpu`` or ``cuda``.
        mode: ``fast`` or ``exact``; None keeps the mode of each model.
        reading: How the reward models among the systems read conversations.
    """

    device: str = "auto"
    mode: Mode | None = None
    reading: PartReading = PartReading()


class EnsembleRecipe(FittedRecipe):
    """Settings of an ensemble.

    Attributes:
        recipe: Name of the recipe.
        members: At least two systems, by name.
        kind: How their standardised rewards are combined: ``mean``, ``median``, ``worst`` (WCO), ``uncertainty`` (UWO).
        penalty: Weight of the variance, for ``uncertainty``.
    """

    recipe: Literal["ensemble"] = "ensemble"
    members: dict[str, str] = Field(min_length=2)
    kind: EnsembleKind = "mean"
    penalty: FiniteFloat = Field(default=0.5, ge=0.0)

    @model_validator(mode="after")
    def _names_and_places_differ(self) -> Self:
        if DISAGREEMENT in self.members:
            raise ValueError(f"a member is called '{DISAGREEMENT}': give it another name")
        places = list(self.members.values())
        twice = next((place for place in places if places.count(place) > 1), None)
        if twice is not None:
            raise ValueError(f"two members are '{twice}': name each system once")
        return self


class DirectionRecipe(FittedRecipe):
    """Settings of a direction, or of fixed weights.

    Attributes:
        recipe: Name of the recipe.
        model: A reward model with ratings by objective.
        weights: Weight of each objective, by name. They may be negative.
        scale: Scale of the ratings: ``unit`` ([0, 1]), ``source`` (as rated) or ``standard`` (mean 0 and deviation 1
            over the training conversations).
        normalise: Whether to scale the weights to a vector of length 1.
    """

    recipe: Literal["direction"] = "direction"
    model: str
    weights: dict[str, float] = Field(min_length=1)
    scale: DirectionScale = "standard"
    normalise: bool = True


class LengthCalibrationRecipe(FittedRecipe):
    """Settings of a calibration that removes what length explains of a reward.

    Attributes:
        recipe: Name of the recipe.
        model: A system that scores single answers.
        strength: How much of the curve is removed: 1 all of it, 0 nothing.
        fraction: Share of the answers that a local line is fitted to.
        robust: Number of iterations that reduce the weight of outliers; 0 for none.
        unit: Unit of the length: ``characters`` or ``words``.
        points: Largest number of points of the curve.
    """

    recipe: Literal["length-calibration"] = "length-calibration"
    model: str
    strength: FiniteFloat = Field(default=1.0, ge=0.0)
    fraction: float = Field(default=0.5, gt=0.0, le=1.0)
    robust: int = Field(default=3, ge=0)
    unit: LengthUnit = "characters"
    points: int = Field(default=400, ge=4)
