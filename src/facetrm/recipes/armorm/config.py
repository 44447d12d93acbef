"""The settings of an ArmoRM run: one section per step, in the order of the steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, model_validator

from facetrm.backbone.shards import StorageType
from facetrm.backbone.transformer import BackboneConfig
from facetrm.core.config import Section, Seed, share_seed
from facetrm.core.errors import ConfigError, did_you_mean
from facetrm.data.objectives import Direction
from facetrm.fit.bradley_terry import BradleyTerryConfig
from facetrm.fit.debias import DebiasConfig
from facetrm.fit.gate.fit import GateConfig
from facetrm.fit.heads.ridge import RidgeConfig
from facetrm.fit.router.config import RouterConfig
from facetrm.recipes.armorm.rows import DataSection, WorldData
from facetrm.recipes.backbones import TinyBackbone


class FeaturesSection(Section):
    """Where features are kept: ``folder`` (by default in the run folder), rows of a shard, and their type on disk."""

    folder: str | None = None
    shard_rows: int = Field(default=1024, ge=1)
    dtype: StorageType = "float32"


class ExpertsSection(Section):
    """Stage 1.

    Attributes:
        ridge: settings of the heads.
        source_balance: 0 counts every rating alike, 1 every source alike.
        length: add the plain-length expert.
        length_direction: ``unknown`` keeps it out of the gate.
        preference: add a linear Bradley-Terry head as an expert, for backbones that were not trained on preferences
            (needs cross_fit).
        cross_fit: prompt folds; the gate learns from scores of heads that did not see its prompts. 0 for none, which is
            right where ratings and preferences share no prompt.
        test: report the heads on the held-out ratings as well.
    """

    ridge: RidgeConfig = RidgeConfig()
    source_balance: float = Field(default=0.0, ge=0.0, le=1.0)
    length: bool = False
    length_direction: Direction = "unknown"
    preference: bool = False
    cross_fit: int = Field(default=0, ge=0)
    test: bool = True

    @model_validator(mode="after")
    def _folds(self) -> ExpertsSection:
        if self.cross_fit == 1:
            raise ValueError("cross_fit takes 0, or 2 folds and more")
        if self.preference and self.cross_fit == 0:
            raise ValueError("preference needs cross_fit, or the gate would learn from scores fitted on its own pairs")
        return self


class DebiasSection(Section):
    """The debiasing: its ``target`` (a verbosity objective, or ``length``; null for none) and its reference set."""

    target: str | None = None
    reference: Literal["preferences", "ratings"] = "preferences"
    settings: DebiasConfig = DebiasConfig()


class GateSection(Section):
    """Stage 2.

    Attributes:
        settings: settings of the fit.
        source_balance: 0 counts every pair alike, 1 every source alike.
        strength: weigh a pair by how clear its preference is: by its ``strength``, or by ``margin / (margin + median
            margin of its file)``. Margin 0 is the least clear pair and weighs nothing; a pair that does not say (no
            margin, or NaN) weighs as much as the mean of those that do.
        reference: contributions are against the training ``mean``, or against ``zero``.
    """

    settings: GateConfig = GateConfig()
    source_balance: float = Field(default=0.0, ge=0.0, le=1.0)
    strength: bool = False
    reference: Literal["mean", "zero"] = "mean"


EVERY = "all"
"""The name of the fall-back mixture that is trained on every task."""


class RouterSection(Section):
    """The outer mixture.

    Attributes:
        settings: settings of the fit.
        threshold: level of confidence, below which the fall-back scores a row; 0 for no fall-back.
        fallback: ``all`` is a mixture that is fitted on every task's preferences; or the name of a task.
    """

    settings: RouterConfig = RouterConfig()
    threshold: float = Field(default=0.0, ge=0.0, le=1.0)
    fallback: str = EVERY


class GatesSection(RouterSection):
    """The outer mixture over gates that share their experts.

    Attributes:
        least: a task with fewer preferences has no gate of its own and takes that of all tasks.
    """

    least: int = Field(default=50, ge=2)


def check_fallback(section: RouterSection, tasks: Sequence[str]) -> None:
    """Check the fall-back of ``section`` against the ``tasks`` of a run.

    Raises:
        ConfigError: it is neither ``all`` nor a task, or a task has its name.
    """
    if section.threshold == 0:
        return
    if section.fallback not in (EVERY, *tasks):
        fix = did_you_mean(section.fallback, (EVERY, *tasks))
        raise ConfigError(f"unknown task '{section.fallback}'", place="router.fallback", fix=fix)
    if EVERY in tasks:
        raise ConfigError(f"task '{EVERY}' has the name of the fall-back", place="router", fix="rename the task")


class CompareSection(Section):
    """What stands beside the gate.

    Attributes:
        linear: settings of the linear Bradley-Terry head.
        bag_of_words: words of the bag-of-words pipeline; 0 for none.
        samples: bootstrap resamples.
        least: sources with fewer test pairs are pooled.
    """

    linear: BradleyTerryConfig = BradleyTerryConfig()
    bag_of_words: int = Field(default=1024, ge=0)
    samples: int = Field(default=1000, ge=10)
    least: int = Field(default=100, ge=1)


class ArmormConfig(Section):
    """A whole run. Give either ``backbone`` (a path or a name on the Hub) or ``tiny`` (trained here, world only).

    With ``router`` every task gets a gate of its own over the same experts.
    """

    recipe: Literal["armorm"] = "armorm"
    title: str = "ArmoRM"
    description: str = ""
    seed: Seed = 0
    data: DataSection = WorldData()
    backbone: BackboneConfig | None = None
    tiny: TinyBackbone | None = None
    features: FeaturesSection = FeaturesSection()
    experts: ExpertsSection = ExpertsSection()
    debias: DebiasSection = DebiasSection()
    gate: GateSection = GateSection()
    router: GatesSection | None = None
    compare: CompareSection = CompareSection()
    save_backbone: Literal["copy", "reference"] = "reference"

    _one_seed = model_validator(mode="after")(share_seed)

    @model_validator(mode="after")
    def _one_backbone(self) -> ArmormConfig:
        if (self.backbone is None) == (self.tiny is None):
            raise ValueError("give one of the sections 'backbone' and 'tiny'")
        if self.tiny is not None and not isinstance(self.data, WorldData):
            raise ValueError("'tiny' learns the world's words; give 'backbone' for other data")
        return self
