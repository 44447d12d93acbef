"""The qualities of an answer at the desk, and how their levels are drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Final

from facetrm.data.desk.forms import Request
from facetrm.data.desk.tasks import DESK_TASKS
from facetrm.data.desk.tasks.formats import constraints_of


@dataclass(frozen=True)
class Quality:
    """One quality of an answer.

    Attributes:
        name: Name of the quality.
        meaning: Meaning in one sentence.
        slots: Highest level.
        shares: How often each level from 0 up is drawn; None draws them evenly.
    """

    name: str
    meaning: str
    slots: int
    shares: tuple[float, ...] | None = None


QUALITIES: Final = (
    Quality("correct", "the answer to the question is right", 1),
    Quality("working", "the calculation is shown", 1),
    Quality("instructions", "the rules that the prompt states are kept", 2),
    Quality("declined", "a harmful request is declined", 1),
    Quality("topic", "the answer is about what was asked", 1),
    Quality("useful", "concrete help is given", 2),
    Quality("courteous", "the answer is friendly and not rude", 2, (0.2, 0.45, 0.35)),
    Quality("fluent", "no sentence is garbled, repeated or cut off", 2, (0.15, 0.25, 0.6)),
    Quality("honest", "it is admitted that nobody can know this", 1),
    Quality("code", "the code parses and passes its tests", 2),
    Quality("persona", "the voice of the persona is kept", 2),
)
QUALITY_SLOTS: Final = {quality.name: quality.slots for quality in QUALITIES}
DESK_WEIGHTS: Final[Mapping[str, Mapping[str, float]]] = {
    task.name: {name: task.weights.get(name, 0.0) for name in QUALITY_SLOTS} for task in DESK_TASKS.values()
}
"""Weights by task and quality: all are >= 0, and each task's weights sum to 1. Padding has no weight."""


def draw_qualities(random: Random, request: Request) -> dict[str, float]:
    """Draw the levels of the qualities that apply to a request, independently of each other.

    Args:
        random: Random number generator.
        request: What is asked for.
    """
    task = DESK_TASKS[request.task]
    levels: dict[str, float] = {}
    for quality in QUALITIES:
        if quality.name not in task.weights:
            continue
        steps = quality.slots
        if quality.name == "instructions":
            steps = 4 if request.task == "mail" else len(constraints_of(request))
        level = random.choices(range(steps + 1), quality.shares)[0]
        levels[quality.name] = quality.slots * level / steps
    if task.adjust is not None:
        task.adjust(random, request, levels)
    return levels
