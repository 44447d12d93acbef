"""Simulated rating sources: each rates some qualities on its own scale, with noise, bias and missing ratings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Final

from facetrm.data.objectives import Direction, Objective, RatingKind

VERBOSITY: Final = "verbosity"


@dataclass(frozen=True)
class Rater:
    """A simulated source of ratings.

    Attributes:
        name: Name of the source; its objectives are named ``name-quality``.
        latents: Names of the qualities that it rates.
        low: Lower end of its scale.
        high: Upper end of its scale.
        kind: Kind of scale: integer, boolean or continuous.
        direction: Whether higher or lower ratings are better.
        noise: Standard deviation of its error, relative to the generator's ``rater_noise``.
        tasks: Tasks of the prompts that it rates.
    """

    name: str
    latents: tuple[str, ...]
    low: float
    high: float
    kind: RatingKind
    direction: Direction
    noise: float
    tasks: tuple[str, ...]

    def objectives(self, meanings: Mapping[str, str]) -> tuple[Objective, ...]:
        """Return one objective for each quality that it rates.

        Args:
            meanings: meaning of each quality, by name.
        """
        meaning = {**meanings, VERBOSITY: "how much padding it holds"}
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
        self, random: Random, shares: Mapping[str, float], *, bias: float, noise: float, gaps: float
    ) -> dict[str, float]:
        """Rate one answer: ``share + bias * padding + error``, on this source's scale. Some ratings are left out.

        Args:
            random: random number generator.
            shares: true level of each quality as a share of its highest level, with the share of the most padding as
                ``verbosity``; absent ones are not rated.
            bias: how much a fully padded answer gains on every other quality, as a share of the scale.
            noise: standard deviation of the generator's rating error, as a share of the scale.
            gaps: probability that a single rating is missing (at least one is kept).
        """
        padding = shares[VERBOSITY]
        rated: dict[str, float] = {}
        rateable = [latent for latent in self.latents if latent in shares]
        for latent in rateable:
            share = padding if latent == VERBOSITY else shares[latent] + bias * (padding - 0.5)
            share = min(max(share + random.gauss(0.0, noise * self.noise), 0.0), 1.0)
            kept = random.random() >= gaps or (not rated and latent == rateable[-1])
            if kept:
                rated[f"{self.name}-{latent}"] = self._write(1.0 - share if self.direction == "lower" else share)
        return rated

    def _write(self, share: float) -> float:
        if self.kind == "boolean":
            return float(share > 0.5)
        if self.kind == "integer":
            return self.low + min(int(share * (self.high - self.low + 1.0)), self.high - self.low)
        return round(self.low + share * (self.high - self.low), 1)
