"""Settings of a fine-tuning run, one section per step, in the order of the steps."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from facetrm.backbone.transformer import BackboneConfig
from facetrm.core.config import Section, Seed, share_seed
from facetrm.fit.bradley_terry import BradleyTerryConfig
from facetrm.fit.finetune.config import FineTuneConfig
from facetrm.fit.heads.ridge import RidgeConfig
from facetrm.recipes.armorm.config import FeaturesSection
from facetrm.recipes.armorm.rows import DataSection, WorldData
from facetrm.recipes.backbones import TinyBackbone


class FrozenSection(Section):
    """Closed-form heads on the frozen trunk: the starting point of the training, and the baseline that it must beat.

    Attributes:
        fit: Whether to fit them, at the cost of one pass over all rows.
        start: Whether the trained heads start from them; otherwise they start from small random weights.
        ridge: Settings of the objective heads.
        linear: Settings of the Bradley-Terry head.
        features: Where the features are stored.
    """

    fit: bool = True
    start: bool = True
    ridge: RidgeConfig = RidgeConfig()
    linear: BradleyTerryConfig = BradleyTerryConfig()
    features: FeaturesSection = FeaturesSection()


class RewardSection(Section):
    """How the saved model computes its reward from the heads.

    Attributes:
        preference: Weight of the preference head; the objectives of known direction share the rest equally. With 1, the
            reward is that of the preference head, and the objectives only inform. Ignored if only one kind of head was
            trained.
        sample: Number of training pairs that set the scale of the preference head and the reference of the
            contributions.
    """

    preference: float = Field(default=1.0, ge=0.0, le=1.0)
    sample: int = Field(default=2000, ge=2)


class FineTuneRecipe(Section):
    """Settings of a whole run. Give either ``backbone`` or ``tiny``.

    Attributes:
        recipe: Name of the recipe.
        title: Title of the run.
        description: Description of the run.
        seed: Random seed of the run.
        data: The data.
        backbone: Settings of an existing backbone, given by its path or its name on the Hub.
        tiny: Settings of a small decoder that the run trains itself; only for the embedded world.
        frozen: Settings of the closed-form heads on the frozen trunk.
        finetune: Settings of the training.
        reward: How the saved model computes its reward.
        merge: Whether to merge the trained adapter into the trunk; the model is then a plain trunk with heads.
        samples: Number of bootstrap resamples.
        save_backbone: Whether to copy the backbone into the model folder, or to refer to it by its path or name.
    """

    recipe: Literal["finetune"] = "finetune"
    title: str = "Fine-tuned heads"
    description: str = ""
    seed: Seed = 0
    data: DataSection = WorldData()
    backbone: BackboneConfig | None = None
    tiny: TinyBackbone | None = None
    frozen: FrozenSection = FrozenSection()
    finetune: FineTuneConfig = FineTuneConfig()
    reward: RewardSection = RewardSection()
    merge: bool = False
    samples: int = Field(default=1000, ge=10)
    save_backbone: Literal["copy", "reference"] = "reference"

    _one_seed = model_validator(mode="after")(share_seed)

    @model_validator(mode="after")
    def _fits_together(self) -> FineTuneRecipe:
        if (self.backbone is None) == (self.tiny is None):
            raise ValueError("give one of the sections 'backbone' and 'tiny'")
        if self.tiny is not None and not isinstance(self.data, WorldData):
            raise ValueError("'tiny' learns the world's words; give 'backbone' for other data")
        if self.merge and self.finetune.method == "full":
            raise ValueError("'merge' needs an adapter: set finetune.method: lora, or merge: false")
        if self.backbone is not None and self.backbone.adapter is not None:
            raise ValueError("'finetune' makes its own adapter: merge backbone.adapter into the backbone first")
        return self
