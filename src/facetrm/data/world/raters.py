"""The world's six rating sources. Each one rates some latents on its own scale."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from facetrm.data.synthetic.raters import VERBOSITY, Rater
from facetrm.data.world.latents import LATENTS
from facetrm.data.world.words import TASKS

RATERS: Final = (
    Rater(
        "almond",
        ("correctness", "coherence", "instruction_following", VERBOSITY),
        0,
        4,
        "integer",
        "higher",
        1.0,
        TASKS,
    ),
    Rater("birch", ("knowledge", "honesty", "empathy", "richness"), 1, 10, "integer", "higher", 0.8, TASKS),
    Rater("cedar", ("harmlessness", "honesty"), 0, 1, "boolean", "higher", 1.2, ("safety", "chat", "subjective_qa")),
    Rater("dahlia", ("fluency", "persona", "style", "coherence"), 0, 100, "continuous", "higher", 1.0, TASKS),
    Rater("elder", ("correctness", "style", "knowledge"), 0, 6, "integer", "lower", 0.8, ("code", "objective_qa")),
    Rater(
        "fern",
        ("instruction_following", "persona", "harmlessness", "empathy", "richness"),
        1,
        5,
        "integer",
        "higher",
        1.0,
        TASKS,
    ),
)
WORLD_MEANINGS: Final[Mapping[str, str]] = {latent.name: latent.meaning for latent in LATENTS}
WORLD_OBJECTIVES: Final = tuple(objective for rater in RATERS for objective in rater.objectives(WORLD_MEANINGS))
LATENT_OF: Final[Mapping[str, str]] = {o.name: o.name.split("-", 1)[1] for o in WORLD_OBJECTIVES}
