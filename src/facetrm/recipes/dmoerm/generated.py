"""The ``data`` sections of a DMoERM recipe whose rows are generated: the world and the desk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

from pydantic import Field, model_validator

from facetrm.core.config import Section
from facetrm.data.desk import Desk, DeskConfig
from facetrm.data.world import TASKS, World, WorldConfig
from facetrm.label.simulated import NoisyJudge


class WorldTasks(Section):
    """The embedded world: its annotators' pairs, and a simulated judge's verdicts about latents on other prompts.

    Attributes:
        world: Settings of the world.
        tasks: Names of the tasks to use.
        preferences: Number of pairs with overall labels, over all tasks.
        labelled: Number of pairs that the judge compares in every capability.
        test: Number of test pairs.
        judge: Settings of the simulated judge and its errors.
        least: Smallest true weight that makes a latent a capability.
        most: Largest number of capabilities per task.
    """

    kind: Literal["world"] = "world"
    world: WorldConfig = WorldConfig()
    tasks: tuple[str, ...] = TASKS
    preferences: int = Field(default=3000, ge=10)
    labelled: int = Field(default=2000, ge=10)
    test: int = Field(default=1000, ge=10)
    judge: NoisyJudge = NoisyJudge()
    least: float = Field(default=0.1, ge=0.0, lt=1.0)
    most: int = Field(default=4, ge=1)

    @model_validator(mode="after")
    def _known_tasks(self) -> Self:
        _check_tasks(self.tasks, TASKS)
        return self

    def generator(self) -> World:
        """Return the world."""
        return World(self.world)


class DeskTasks(Section):
    """The embedded desk: its annotators' pairs, and a simulated judge's verdicts about qualities on other prompts.

    Attributes:
        desk: Settings of the desk.
        tasks: Names of the tasks to use.
        preferences: Number of pairs with overall labels, over all tasks.
        labelled: Number of pairs that the judge compares in every capability.
        test: Number of test pairs.
        judge: Settings of the simulated judge and its errors.
        least: Smallest true weight that makes a quality a capability.
        most: Largest number of capabilities per task.
    """

    kind: Literal["desk"] = "desk"
    desk: DeskConfig = DeskConfig()
    tasks: tuple[str, ...] = Desk.tasks
    preferences: int = Field(default=3000, ge=10)
    labelled: int = Field(default=2000, ge=10)
    test: int = Field(default=1000, ge=10)
    judge: NoisyJudge = NoisyJudge()
    least: float = Field(default=0.1, ge=0.0, lt=1.0)
    most: int = Field(default=4, ge=1)

    @model_validator(mode="after")
    def _known_tasks(self) -> Self:
        _check_tasks(self.tasks, Desk.tasks)
        return self

    def generator(self) -> Desk:
        """Return the desk."""
        return Desk(self.desk)


def _check_tasks(tasks: Sequence[str], known: Sequence[str]) -> None:
    if not tasks or len(set(tasks)) < len(tasks) or any(task not in known for task in tasks):
        raise ValueError(f"tasks: give one or more of {', '.join(known)}, each once")
