"""A generator whose truth is known: rated conversations and labelled pairs, with known levels and a known gold reward.

The world and the desk are two such generators. Each one says how a prompt is drawn, how an answer is written at given
levels and how levels are read from a text; streams, raters, annotators and wrong labels are the same.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from random import Random
from typing import ClassVar, Generic, Protocol, TypeVar

from pydantic import Field

from facetrm.core.config import Section, Seed
from facetrm.core.errors import DataError, did_you_mean
from facetrm.data.objectives import Objective
from facetrm.data.records import Message, Preference, Rating
from facetrm.data.synthetic.annotators import better_first, error_probability
from facetrm.data.synthetic.parts import Part
from facetrm.data.synthetic.raters import VERBOSITY, Rater


class SyntheticConfig(Section):
    """Settings of a generator.

    Attributes:
        seed: Random seed of everything that it generates.
        noise: Share of all preference labels that disagree with the true order.
        rater_noise: Standard deviation of a rating's error, as a share of its scale.
        verbosity_bias: How much a fully padded answer gains in every other rating, as a share of the scale.
        gaps: Probability that a single rating of a source is missing.
    """

    seed: Seed = 0
    noise: float = Field(default=0.25, ge=0.0, lt=0.5)
    rater_noise: float = Field(default=0.15, ge=0.0)
    verbosity_bias: float = Field(default=0.4, ge=0.0)
    gaps: float = Field(default=0.1, ge=0.0, lt=1.0)


class HasTask(Protocol):
    """Something that a prompt asks for."""

    @property
    def task(self) -> str:
        """Name of the task."""
        ...


S = TypeVar("S", bound=HasTask)


class KnownTruth(ABC, Generic[S]):
    """A generator of ratings and preferences with known levels and a known *gold* reward.

    Every row is a function of (seed, part, number): streams are endless and deterministic, and can start at any row.
    Parts (``backbone, heads, gate, test``) never share a prompt.

    Attributes:
        name: Name of the generator; also the source of its pairs.
        tasks: Names of the tasks.
        slots: Highest level of each quality.
        meanings: Meaning of each quality.
        weights: Weight of each quality in the utility, by task; all are >= 0, and those of a task sum to 1.
        raters: The sources of ratings.
        objectives: What the sources rate.
        latent_of: Quality that each objective is about.
        most_padding: Number of padding phrases of a fully padded answer.
        verbosity_objective: Name of the objective that rates padding.
    """

    name: ClassVar[str]
    tasks: ClassVar[tuple[str, ...]]
    slots: ClassVar[Mapping[str, int]]
    meanings: ClassVar[Mapping[str, str]]
    weights: ClassVar[Mapping[str, Mapping[str, float]]]
    raters: ClassVar[Sequence[Rater]]
    objectives: ClassVar[Sequence[Objective]]
    latent_of: ClassVar[Mapping[str, str]]
    most_padding: ClassVar[int]
    verbosity_objective: ClassVar[str]

    def __init__(self, config: SyntheticConfig) -> None:
        self.config = config

    @abstractmethod
    def levels(self, messages: Sequence[Message]) -> dict[str, float]:
        """Read every quality's level from an answer, with the number of padding phrases as ``verbosity``.

        Args:
            messages: A prompt of this generator and any answer.

        Raises:
            DataError: The prompt was not generated here.
        """

    @abstractmethod
    def utility(self, messages: Sequence[Message]) -> float:
        """Return the gold reward of a conversation, in [0, 1].

        Args:
            messages: A prompt of this generator and any answer.

        Raises:
            DataError: The prompt was not generated here.
        """

    @property
    @abstractmethod
    def temperature(self) -> float:
        """The annotators' Bradley-Terry temperature, which gives the configured share of wrong labels."""

    @abstractmethod
    def _scene(self, random: Random, part: str, task: str) -> S:
        """Draw what a prompt of a part asks for."""

    @abstractmethod
    def _prompt(self, random: Random, scene: S) -> tuple[Message, ...]:
        """Write a prompt."""

    @abstractmethod
    def _draw(self, random: Random, scene: S) -> dict[str, float]:
        """Draw the levels of one answer."""

    @abstractmethod
    def _value(self, levels: Mapping[str, float], scene: S) -> float:
        """Return the utility of an answer with these levels."""

    @abstractmethod
    def _answer(self, random: Random, scene: S, levels: Mapping[str, float]) -> tuple[Message, int]:
        """Write an answer at these levels, and return it with its number of padding phrases."""

    def ratings(
        self, count: int, *, part: Part = "heads", start: int = 0, every_rater: bool = False
    ) -> Iterator[Rating]:
        """Yield rated conversations. Neighbouring rows share a prompt and a rater.

        Args:
            count: number of rows.
            part: part of the generator, which shares no prompt with the other parts.
            start: number of the first row.
            every_rater: whether every source rates every row, instead of one source per prompt.
        """
        for i in range(start, start + count):
            random = self._random("prompt", part, i // 2)
            rater = self.raters[random.randrange(len(self.raters))]
            scene = self._scene(random, part, random.choice(rater.tasks))
            prompt = self._prompt(random, scene)
            random = self._random("rating", part, i)
            levels = self._draw(random, scene)
            answer, fillers = self._answer(random, scene, levels)
            ratings = self._rate(random, self.raters if every_rater else (rater,), levels, fillers)
            source = "every" if every_rater else rater.name
            yield Rating(id=f"{part}-r{i}", source=source, task=scene.task, messages=(*prompt, answer), ratings=ratings)

    def _rate(
        self, random: Random, raters: Sequence[Rater], levels: Mapping[str, float], fillers: int
    ) -> dict[str, float]:
        settings = self.config
        shares = {name: level / self.slots[name] for name, level in levels.items()}
        shares[VERBOSITY] = fillers / self.most_padding
        rated: dict[str, float] = {}
        for rater in raters:
            rated |= rater.rate(
                random, shares, bias=settings.verbosity_bias, noise=settings.rater_noise, gaps=settings.gaps
            )
        return rated

    def preferences(self, count: int, *, part: Part = "gate", start: int = 0) -> Iterator[Preference]:
        """Yield labelled preference pairs.

        ``meta["agrees"]`` says whether the label follows the true order.

        Args:
            count: number of pairs.
            part: part of the generator, which shares no prompt with the other parts.
            start: number of the first pair.
        """
        for i in range(start, start + count):
            random = self._random("preference", part, i)
            scene = self._scene(random, part, random.choice(self.tasks))
            prompt = self._prompt(random, scene)
            better, worse = self._pair(random, scene)
            answers = [self._answer(random, scene, levels)[0] for levels in (better, worse)]
            gap = self._value(better, scene) - self._value(worse, scene)
            agrees = random.random() >= error_probability(gap, self.temperature)
            yield Preference(
                id=f"{part}-p{i}",
                source=self.name,
                task=scene.task,
                prompt=prompt,
                responses=tuple(answers if agrees else answers[::-1]),
                meta={"agrees": agrees},
            )

    def _pair(self, random: Random, scene: S) -> tuple[dict[str, float], dict[str, float]]:
        return better_first(lambda: self._draw(random, scene), lambda levels: self._value(levels, scene))

    def preferences_of(
        self, tasks: Collection[str], count: int, *, part: Part = "gate", start: int = 0
    ) -> Iterator[Preference]:
        """Yield the first labelled pairs with one of the given tasks.

        Args:
            tasks: names of the tasks.
            count: number of pairs.
            part: part of the generator, which shares no prompt with the other parts.
            start: number of the first pair to consider.

        Raises:
            DataError: A task is unknown, or ``tasks`` is empty.
        """
        unknown = next((task for task in tasks if task not in self.tasks), None)
        if unknown is not None:
            raise DataError(f"unknown task '{unknown}'", place=self.name, fix=did_you_mean(unknown, self.tasks))
        if not tasks:
            raise DataError("no task is named", place=self.name, fix=f"name some of {', '.join(self.tasks)}")
        every = (p for i in itertools.count(start) for p in self.preferences(1, part=part, start=i))
        yield from itertools.islice((p for p in every if p.task in tasks), count)

    def _random(self, *key: object) -> Random:
        return Random("|".join(str(k) for k in (self.config.seed, *key)))
