"""Settings of an ArmoRM run, one section per step, in the order of the steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from facetrm.backbone.encoder import LAST, Layer, in_order, is_layer
from facetrm.backbone.shards import StorageType
from facetrm.backbone.transformer import BackboneConfig
from facetrm.core.config import Section, Seed, share_seed
from facetrm.core.errors import ConfigError, did_you_mean, short
from facetrm.data.objectives import Direction
from facetrm.fit.bradley_terry import BradleyTerryConfig
from facetrm.fit.debias import DebiasConfig
from facetrm.fit.gate.fit import GateConfig
from facetrm.fit.heads.quantile import QuantileConfig
from facetrm.fit.heads.ridge import RidgeConfig
from facetrm.fit.router.config import RouterConfig
from facetrm.recipes.armorm.rows import DataSection, WorldData
from facetrm.recipes.backbones import TinyBackbone


class FeaturesSection(Section):
    """How features are stored.

    Attributes:
        folder: Folder of the features; None for a folder inside the run folder.
        shard_rows: Number of rows per shard.
        dtype: Number type on disk.
    """

    folder: str | None = None
    shard_rows: int = Field(default=1024, ge=1)
    dtype: StorageType = "float32"


class ExpertsSection(Section):
    """Stage 1: the experts.

    Attributes:
        ridge: Settings of the heads.
        source_balance: 0 weighs every rating equally, 1 every source.
        length: Whether to add an expert for plain length.
        length_direction: Whether longer answers are better or worse; ``unknown`` keeps length out of the gate.
        preference: Whether to add a linear Bradley-Terry head as an expert, for backbones that were not trained on
            preferences. Needs ``cross_fit``.
        cross_fit: Number of prompt folds of the cross-fitting: the gate then learns from scores of heads that did not
            see its prompts. 0 for none, which is right if ratings and preferences share no prompts.
        test: Whether to report the heads on the held-out ratings as well.
        layers: Layers of the backbone that a head may read, such as ``[10, 20, last]``. Each objective takes the layer
            that predicts its held-out training labels best, or a higher one that is as good within a standard error.
        uncertainty: Whether the model keeps the posterior of its heads, so that each score has standard deviations. It
            takes one D x D matrix for each layer, set of rows and alpha; ratings and rewards do not change.
        quantiles: Whether to fit quantile heads beside the ridge heads, from which each score gets lower tails. Their
            fit holds the features of all ratings in memory, and takes much longer than that of the ridge heads.
        quantile: Settings of the quantile heads.
    """

    ridge: RidgeConfig = RidgeConfig()
    source_balance: float = Field(default=0.0, ge=0.0, le=1.0)
    length: bool = False
    length_direction: Direction = "unknown"
    preference: bool = False
    cross_fit: int = Field(default=0, ge=0)
    test: bool = True
    layers: tuple[Any, ...] = (LAST,)
    uncertainty: bool = False
    quantiles: bool = False
    quantile: QuantileConfig = QuantileConfig()

    @field_validator("layers")
    @classmethod
    def _layers(cls, layers: tuple[Any, ...]) -> tuple[Layer, ...]:
        wrong = next((layer for layer in layers if not is_layer(layer)), None)
        if wrong is not None or not layers:
            said = "it is empty" if wrong is None else f"layer {short(wrong)}"
            raise ValueError(f"{said}; give numbers from 1 to the number of layers, or last, such as [10, 20, last]")
        return in_order(layers)

    @model_validator(mode="after")
    def _folds(self) -> ExpertsSection:
        if self.cross_fit == 1:
            raise ValueError("cross_fit must be 0, or at least 2 folds")
        if self.preference and self.cross_fit == 0:
            raise ValueError("preference needs cross_fit, or the gate would learn from scores fitted on its own pairs")
        if self.uncertainty and self.ridge.refit != "all":
            raise ValueError(f"uncertainty needs ridge.refit 'all', not '{self.ridge.refit}'")
        return self


class DebiasSection(Section):
    """The debiasing.

    Attributes:
        target: Verbosity objective whose influence is removed, or ``length``; null for no debiasing.
        reference: Rows on which correlations are measured: the answers of the ``preferences``, or the ``ratings``.
        settings: Settings of the fit.
    """

    target: str | None = None
    reference: Literal["preferences", "ratings"] = "preferences"
    settings: DebiasConfig = DebiasConfig()


class GateSection(Section):
    """Stage 2: the gate.

    Attributes:
        settings: Settings of the fit.
        source_balance: 0 weighs every pair equally, 1 every source.
        strength: Whether to weigh each pair by how clear its preference is: by its ``strength``, or by
            ``margin / (margin + median margin of its file)``. A pair with margin 0 has weight 0; a pair with neither
            gets the mean weight of the others.
        reference: Whether contributions are counted from the training ``mean`` or from ``zero``.
        seeds: Number of gates to fit, with seeds from ``settings.seed`` on. The first is that of the model; the others
            only tell how far the reward varies from gate to gate.
    """

    settings: GateConfig = GateConfig()
    source_balance: float = Field(default=0.0, ge=0.0, le=1.0)
    strength: bool = False
    reference: Literal["mean", "zero"] = "mean"
    seeds: int = Field(default=1, ge=1)


EVERY = "all"
"""Name of the fall-back mixture that is trained on all tasks."""


class RouterSection(Section):
    """The router.

    Attributes:
        settings: Settings of the fit.
        threshold: Confidence below which the fall-back scores a row; 0 for no fall-back.
        fallback: ``all`` for a mixture that is fitted on the preferences of all tasks, or the name of a task.
    """

    settings: RouterConfig = RouterConfig()
    threshold: float = Field(default=0.0, ge=0.0, le=1.0)
    fallback: str = EVERY


class GatesSection(RouterSection):
    """The router over gates that share their experts.

    Attributes:
        least: Smallest number of preferences for a task to get its own gate; other tasks use the gate of all tasks.
    """

    least: int = Field(default=50, ge=2)


def check_fallback(section: RouterSection, tasks: Sequence[str]) -> None:
    """Check that the fall-back is valid for the tasks of a run.

    Args:
        section: Settings of the router.
        tasks: Names of the tasks.

    Raises:
        ConfigError: The fall-back is neither ``all`` nor a task, or a task is named ``all``.
    """
    if section.threshold == 0:
        return
    if section.fallback not in (EVERY, *tasks):
        fix = did_you_mean(section.fallback, (EVERY, *tasks))
        raise ConfigError(f"unknown task '{section.fallback}'", place="router.fallback", fix=fix)
    if EVERY in tasks:
        raise ConfigError(f"task '{EVERY}' has the name of the fall-back", place="router", fix="rename the task")


class CompareSection(Section):
    """The baselines that the gate is compared with, and the statistics.

    Attributes:
        linear: Settings of the linear Bradley-Terry head.
        bag_of_words: Number of words of the bag-of-words pipeline; 0 for none.
        samples: Number of bootstrap resamples.
        least: Smallest number of test pairs for a source to be shown by itself; smaller sources are pooled. A task
            needs a tenth as many.
        folds: Folds of the accuracy that is cross-validated by prompt on the training pairs; 0 for none.
        few: Number of test prompts below which that accuracy stands beside the held-out one.
    """

    linear: BradleyTerryConfig = BradleyTerryConfig()
    bag_of_words: int = Field(default=1024, ge=0)
    samples: int = Field(default=1000, ge=10)
    least: int = Field(default=100, ge=1)
    folds: int = Field(default=5, ge=0, le=20)
    few: int = Field(default=1000, ge=0)

    @field_validator("folds")
    @classmethod
    def _no_single_fold(cls, folds: int) -> int:
        if folds == 1:
            raise ValueError("one fold leaves nothing to fit on: give 0, or 2 and more")
        return folds


class ArmormConfig(Section):
    """Settings of a whole run. Give either ``backbone`` or ``tiny``.

    Attributes:
        recipe: Name of the recipe.
        title: Title of the run.
        description: Description of the run.
        seed: Random seed of the run.
        data: The data.
        backbone: Settings of an existing backbone, given by its path or its name on the Hub.
        tiny: Settings of a small decoder that the run trains itself; only for the embedded world.
        features: How features are stored.
        experts: Settings of the experts.
        debias: Settings of the debiasing.
        gate: Settings of the gate.
        router: Settings of a router that gives each task its own gate over the same experts; null for one gate.
        compare: Settings of the baselines and the statistics.
        save_backbone: Whether to copy the backbone into the model folder, or to refer to it by its path or name.
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
