"""Six simulated rating sources. Each rates some latents on its own scale, with noise, bias and missing ratings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Final

from facetrm.data.objectives import Direction, Objective, RatingKind
from facetrm.data.world.latents import LATENTS, MOST_FILLERS, VERBOSITY
from facetrm.data.world.truth import SLOTS
from facetrm.data.world.words import TASKS


@dataclass(frozen=True)
class Rater:
    """A simulated source of ratings.

    Attributes:
        name: Name of the source; its objectives are named ``name-latent``.
        latents: Names of the latents that it rates.
        low: Lower end of its scale.
        high: Upper end of its scale.
        kind: Kind of scale: integer, boolean or continuous.
        direction: Whether higher or lower ratings are better.
        noise: Standard deviation of its error, relative to the world's ``rater_noise``.
        tasks: Tasks of the prompts that it rates.
    """

    name: str
    latents: tuple[str, ...]
    low: float
    high: float
    kind: RatingKind
    direction: Direction
    noise: float
    tasks: tuple[str, ...] = TASKS

    def objectives(self) -> tuple[Objective, ...]:
        """Return one objective for each latent that it rates."""
        meaning = {latent.name: latent.meaning for latent in LATENTS} | {VERBOSITY: "how much padding it holds"}
        return tuple(
            Objective(
                name=f"{self.name}-{latent}",
                low=self.low,
                high=self.high,
                kind=self.kind,
                direction=self.direction,
                meaning=meaning[latent],
                rater="simulated",
                source=self.name,
            )
            for latent in self.latents
        )

    def rate(
        self, random: Random, levels: Mapping[str, float], *, bias: float, noise: float, gaps: float
    ) -> dict[str, float]:
        """Rate one answer: ``share + bias * padding + error``, on this source's scale. Some ratings are left out.

        Args:
            random: random number generator.
            levels: true level of each latent, with the number of fillers as ``verbosity``; absent ones are not rated.
            bias: how much a fully padded answer gains on every other latent, as a share of the scale.
            noise: standard deviation of the world's rating error, as a share of the scale.
            gaps: probability that a single rating is missing (at least one is kept).
        """
        padding = levels[VERBOSITY] / MOST_FILLERS
        rated: dict[str, float] = {}
        rateable = [(x, o) for x, o in zip(self.latents, self.objectives(), strict=True) if x in levels]
        for latent, objective in rateable:
            share = padding if latent == VERBOSITY else levels[latent] / SLOTS[latent] + bias * (padding - 0.5)
            share = min(max(share + random.gauss(0.0, noise * self.noise), 0.0), 1.0)
            kept = random.random() >= gaps or (not rated and latent == rateable[-1][0])
            if kept:
                rated[objective.name] = self._write(1.0 - share if self.direction == "lower" else share)
        return rated

    def _write(self, share: float) -> float:
        if self.kind == "boolean":
            return float(share > 0.5)
        if self.kind == "integer":
            return self.low + min(int(share * (self.high - self.low + 1.0)), self.high - self.low)
        return round(self.low + share * (self.high - self.low), 1)


RATERS: Final = (
    Rater("almond", ("correctness", "coherence", "instruction_following", VERBOSITY), 0, 4, "integer", "higher", 1.0),
    Rater("birch", ("knowledge", "honesty", "empathy", "richness"), 1, 10, "integer", "higher", 0.8),
    Rater("cedar", ("harmlessness", "honesty"), 0, 1, "boolean", "higher", 1.2, ("safety", "chat", "subjective_qa")),
    Rater("dahlia", ("fluency", "persona", "style", "coherence"), 0, 100, "continuous", "higher", 1.0),
    Rater("elder", ("correctness", "style", "knowledge"), 0, 6, "integer", "lower", 0.8, ("code", "objective_qa")),
    Rater(
        "fern",
        ("instruction_following", "persona", "harmlessness", "empathy", "richness"),
        1,
        5,
        "integer",
        "higher",
        1.0,
    ),
)
WORLD_OBJECTIVES: Final = tuple(objective for rater in RATERS for objective in rater.objectives())
LATENT_OF: Final[Mapping[str, str]] = {o.name: o.name.split("-", 1)[1] for o in WORLD_OBJECTIVES}
