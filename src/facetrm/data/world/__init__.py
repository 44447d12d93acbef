"""The built-in data: a synthetic world with known ground truth (see :mod:`facetrm.data.world.world`)."""

from facetrm.data.world.words import TASKS, vocabulary
from facetrm.data.world.world import World, WorldConfig

__all__ = ["TASKS", "World", "WorldConfig", "vocabulary"]
