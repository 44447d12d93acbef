"""The ``data`` sections of a DMoERM recipe whose rows are generated: the world and the desk."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from facetrm.data.desk import Desk, DeskConfig
from facetrm.data.synthetic.known import KnownTruth
from facetrm.data.world import World, WorldConfig
from facetrm.label.simulated import NoisyJudge
from facetrm.recipes.generated import Generated


class GeneratedTasks(Generated):
    """Pairs of a generator's annotators, and a simulated judge's verdicts about its qualities on other prompts.

    Attributes:
        tasks: Names of the tasks to use.
        preferences: Number of pairs with overall labels, over all tasks.
        labelled: Number of pairs that the judge compares in every capability.
        test: Number of test pairs.
        judge: Settings of the simulated judge and its errors.
        least: Smallest true weight that makes a quality a capability.
        most: Largest number of capabilities per task.
    """

    tasks: tuple[str, ...]
    preferences: int = Field(default=3000, ge=10)
    labelled: int = Field(default=2000, ge=10)
    test: int = Field(default=1000, ge=10)
    judge: NoisyJudge = NoisyJudge()
    least: float = Field(default=0.1, ge=0.0, lt=1.0)
    most: int = Field(default=4, ge=1)

    @model_validator(mode="after")
    def _known_tasks(self) -> Self:
        known, tasks = self.source.tasks, self.tasks
        if not tasks or len(set(tasks)) < len(tasks) or any(task not in known for task in tasks):
            raise ValueError(f"tasks: give one or more of {', '.join(known)}, each once")
        return self


class WorldTasks(GeneratedTasks):
    """The embedded world.

    Attributes:
        world: Settings of the world.
    """

    source: ClassVar[type[KnownTruth[Any]]] = World
    kind: Literal["world"] = "world"
    world: WorldConfig = WorldConfig()
    tasks: tuple[str, ...] = World.tasks


class DeskTasks(GeneratedTasks):
    """The embedded desk: plain English whose truth is known.

    Attributes:
        desk: Settings of the desk.
    """

    source: ClassVar[type[KnownTruth[Any]]] = Desk
    kind: Literal["desk"] = "desk"
    desk: DeskConfig = DeskConfig()
    tasks: tuple[str, ...] = Desk.tasks
