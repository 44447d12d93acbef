"""Settings of a DMoERM run, one section per step, in the order of the steps."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from facetrm.backbone.lora.adapters import LoraSettings
from facetrm.backbone.transformer import BackboneConfig
from facetrm.core.config import Section, Seed, share_seed
from facetrm.fit.bradley_terry import BradleyTerryConfig
from facetrm.fit.experts.concat_start import ConcatConfig
from facetrm.fit.experts.config import ExpertConfig
from facetrm.fit.gate.config import GateConfig
from facetrm.recipes.armorm.config import RouterSection
from facetrm.recipes.backbones import TinyBackbone
from facetrm.recipes.dmoerm.generated import WorldTasks
from facetrm.recipes.dmoerm.rows import SplitSection, TaskSection


class BaseSection(Section):
    """Phase 1: the task's own adapter.

    Attributes:
        head: Where the head starts: ``linear`` is a Bradley-Terry head on the frozen features, ``random`` is drawn like
            the weights of PyTorch's linear layer, as published.
        training: Settings of the training of adapter and head.
    """

    head: Literal["linear", "random"] = "linear"
    training: ExpertConfig = ExpertConfig()


class CapabilitySection(Section):
    """Phase 2: one expert for each capability.

    Attributes:
        adapter: Where the adapter starts: ``task`` is a copy of the task's adapter, as published, ``new`` is a new one,
            which changes nothing at first.
        head: Where the head starts: ``linear`` is a Bradley-Terry head on this capability's preferences, fitted on the
            features before training, ``task`` is the task's head, as published, ``random`` is drawn like PyTorch's.
        overall: Whether to keep the task's own adapter as one more expert, ``task/overall``, for everything that the
            capabilities do not cover. Not published.
        least: Smallest number of preferences for a capability to get an expert; the log names the others.
        training: Settings of the training of adapter and head.
    """

    adapter: Literal["task", "new"] = "task"
    head: Literal["linear", "task", "random"] = "linear"
    overall: bool = True
    least: int = Field(default=20, ge=2)
    training: ExpertConfig = ExpertConfig()

    @model_validator(mode="after")
    def _head_fits_adapter(self) -> Self:
        if self.adapter == "new" and self.head == "task":
            raise ValueError("the task's head reads the task's adapter: give 'linear' or 'random' for a new adapter")
        return self


class AggregatorSection(Section):
    """Phase 3: the aggregator.

    Attributes:
        kind: ``concat_mlp`` is DMoERM's network on the experts' vectors; ``gated_sum`` is a gate that weighs the
            experts' ratings by the prompt.
        concat: Settings of the network on the concatenated vectors.
        gate: Settings of the gate.
    """

    kind: Literal["concat_mlp", "gated_sum"] = "concat_mlp"
    concat: ConcatConfig = ConcatConfig()
    gate: GateConfig = GateConfig()

    @model_validator(mode="after")
    def _gate_inside_one_task(self) -> Self:
        if self.gate.directions == "tasks":
            raise ValueError("gate.directions is 'tasks', but this gate is inside one task: give 'variance'")
        return self


class RivalSection(Section):
    """Simpler reward models that are trained on the same overall labels, for the table of accuracies.

    Attributes:
        members: Number of single reward models, each one adapter and head for all tasks with its own seed. The first
            one is compared by itself; two or more also form the ensembles. 0 trains none.
    """

    members: int = Field(default=3, ge=0, le=20)


class DmoermConfig(Section):
    """Settings of a whole run. Give either ``backbone`` or ``tiny``.

    Attributes:
        recipe: Name of the recipe.
        title: Title of the run.
        description: Description of the run.
        seed: Random seed of the run.
        data: The data.
        backbone: Settings of an existing backbone, given by its path or its name on the Hub.
        tiny: Settings of a small decoder that the run trains itself; only for the embedded world.
        router: Settings of the router.
        split: Shares of the prompts for each phase.
        lora: Size and layers of every adapter.
        linear: Settings of the linear heads on frozen features.
        base: Settings of phase 1, the task's own adapter.
        experts: Settings of phase 2, the experts for capabilities.
        aggregator: Settings of phase 3, the aggregator.
        rivals: Simpler reward models for comparison.
        samples: Number of bootstrap resamples.
        save_backbone: Whether to copy the backbone into the model folder, or to refer to it by its path or name.
    """

    recipe: Literal["dmoerm"] = "dmoerm"
    title: str = "DMoERM"
    description: str = ""
    seed: Seed = 0
    data: TaskSection = WorldTasks()
    backbone: BackboneConfig | None = None
    tiny: TinyBackbone | None = None
    router: RouterSection = RouterSection()
    split: SplitSection = SplitSection()
    lora: LoraSettings = LoraSettings(rank=16, alpha=32.0, dropout=0.05)
    linear: BradleyTerryConfig = BradleyTerryConfig()
    base: BaseSection = BaseSection()
    experts: CapabilitySection = CapabilitySection()
    aggregator: AggregatorSection = AggregatorSection()
    rivals: RivalSection = RivalSection()
    samples: int = Field(default=1000, ge=10)
    save_backbone: Literal["copy", "reference"] = "reference"

    _one_seed = model_validator(mode="after")(share_seed)

    @model_validator(mode="after")
    def _fits_together(self) -> DmoermConfig:
        if (self.backbone is None) == (self.tiny is None):
            raise ValueError("give one of the sections 'backbone' and 'tiny'")
        if self.tiny is not None and not isinstance(self.data, WorldTasks):
            raise ValueError("'tiny' learns the world's words; give 'backbone' for other data")
        if self.backbone is not None and self.backbone.adapters:
            raise ValueError("'dmoerm' makes its own adapters: remove backbone.adapters")
        return self
