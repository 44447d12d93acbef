"""The settings of a fine-tuning run: one section per step, in the order of the steps."""

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
    """The closed-form heads on the trunk as it is before training: where training starts, and what it must beat.

    Attributes:
        fit: whether they are fitted; it costs one pass over all rows.
        start: let the trained heads start from them (else from small random weights).
        ridge: settings of the objective heads.
        linear: settings of the Bradley-Terry head.
        features: where the features are kept.
    """

    fit: bool = True
    start: bool = True
    ridge: RidgeConfig = RidgeConfig()
    linear: BradleyTerryConfig = BradleyTerryConfig()
    features: FeaturesSection = FeaturesSection()


class RewardSection(Section):
    """What the model that is saved listens to.

    Attributes:
        preference: weight of the preference head; the objectives of known direction share the rest alike. 1 pins the
            reward to that head, and the objectives are there to be read. Ignored where only one kind was trained.
        sample: training pairs whose scores give the preference head its scale and the contributions their reference.
    """

    preference: float = Field(default=1.0, ge=0.0, le=1.0)
    sample: int = Field(default=2000, ge=2)


class FineTuneRecipe(Section):
    """A whole run. Give either ``backbone`` (a path or a name on the Hub) or ``tiny`` (trained here, world only).

    ``merge`` adds a trained adapter into the trunk: the model is then a plain trunk with heads. ``samples`` are those
    of the bootstrap.
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
