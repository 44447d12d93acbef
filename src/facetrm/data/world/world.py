"""The world: a seeded, endless source of synthetic conversations with known ground truth.

It is a test bench. Its language is a closed vocabulary of stock clauses, its latents are independent by design, and its
annotators follow one Bradley-Terry law: a method that fails here is broken, but one that works here may fail on people.
It shares with real data: several raters with different scales who rated different rows, labels that disagree with the
truth, raters (not users) who like padding, and tasks with different demands. Word order and context carry the
information, not single words.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from random import Random
from typing import Final, Literal

from pydantic import Field

from facetrm.core.config import Section, Seed
from facetrm.core.errors import DataError, did_you_mean
from facetrm.data.objectives import Objective
from facetrm.data.records import Message, Preference, Rating
from facetrm.data.world import words as w
from facetrm.data.world.latents import HARD_LATENTS, LATENT_NAMES, LATENTS, MOST_FILLERS, VERBOSITY, Scene
from facetrm.data.world.raters import LATENT_OF, RATERS, WORLD_OBJECTIVES, Rater
from facetrm.data.world.truth import (
    SLOTS,
    TASK_WEIGHTS,
    annotator_temperature,
    draw_levels,
    draw_pair,
    error_probability,
    utility,
)

Part = Literal["backbone", "heads", "gate", "test"]
_PARTS: Final[dict[str, tuple[float, float]]] = {
    "backbone": (0.0, 0.6),
    "heads": (0.6, 0.75),
    "gate": (0.75, 0.9),
    "test": (0.9, 1.0),
}
_ASKED: Final = re.compile(
    r"as a ({}) for a ({}) about ({}) and ({}) , (.*) \.".format(
        *("|".join(words) for words in (w.PERSONAS, w.AUDIENCES, w.SITES, w.THINGS))
    )
)
_TASK_OF: Final = {lead: task for task, leads in w.LEADS.items() for lead in leads}


class WorldConfig(Section):
    """Settings of the world.

    Attributes:
        seed: Random seed of everything that the world generates.
        noise: Share of all preference labels that disagree with the true order.
        rater_noise: Standard deviation of a rating's error, as a share of its scale.
        verbosity_bias: How much a fully padded answer gains in every other rating, as a share of the scale.
        gaps: Probability that a single rating of a source is missing.

    Example:
        >>> from facetrm import World, WorldConfig
        >>> next(World(WorldConfig(seed=1)).ratings(1)) == next(World(WorldConfig(seed=1)).ratings(1))
        True
    """

    seed: Seed = 0
    noise: float = Field(default=0.25, ge=0.0, lt=0.5)
    rater_noise: float = Field(default=0.15, ge=0.0)
    verbosity_bias: float = Field(default=0.4, ge=0.0)
    gaps: float = Field(default=0.1, ge=0.0, lt=1.0)


class World:
    """A generator of ratings and preferences with known latent levels and a known *gold* reward.

    Every row is a function of (seed, part, number): streams are endless and deterministic, and can start at any row.
    Parts (``backbone, heads, gate, test``) never share a prompt.

    Example:
        >>> from facetrm import World
        >>> pair = next(World().preferences(1, part="test"))
        >>> pair.chosen != pair.rejected
        True
    """

    objectives: Sequence[Objective] = WORLD_OBJECTIVES
    latent_of: Mapping[str, str] = LATENT_OF
    weights: Mapping[str, Mapping[str, float]] = TASK_WEIGHTS
    verbosity_objective: str = f"almond-{VERBOSITY}"

    def __init__(self, config: WorldConfig | None = None) -> None:
        self.config = config or WorldConfig()

    @cached_property
    def temperature(self) -> float:
        """The annotators' Bradley-Terry temperature, which gives the configured share of wrong labels."""
        return annotator_temperature(self.config.noise)

    def ratings(
        self, count: int, *, part: Part = "heads", start: int = 0, every_rater: bool = False
    ) -> Iterator[Rating]:
        """Yield rated conversations. Neighbouring rows share a prompt and a rater.

        Args:
            count: number of rows.
            part: part of the world, which shares no prompt with the other parts.
            start: number of the first row.
            every_rater: whether every source rates every row, instead of one source per prompt.
        """
        for i in range(start, start + count):
            random = self._random("prompt", part, i // 2)
            rater = RATERS[random.randrange(len(RATERS))]
            scene = self._scene(random, part, random.choice(rater.tasks))
            prompt = self._prompt(random, scene)
            random = self._random("rating", part, i)
            levels = draw_levels(random)
            answer, fillers = self._answer(random, scene, levels)
            raters = RATERS if every_rater else (rater,)
            ratings = self._rate(random, raters, levels | {VERBOSITY: fillers})
            source = "every" if every_rater else rater.name
            yield Rating(id=f"{part}-r{i}", source=source, task=scene.task, messages=(*prompt, answer), ratings=ratings)

    def lessons(self, count: int, *, part: Part = "backbone", start: int = 0) -> Iterator[Rating]:
        """Yield conversations with short answers. Each answer expresses one latent, which every source rates.

        They teach a backbone one latent at a time. Latents that compare words with each other or with the prompt occur
        twice as often. The rows of :meth:`ratings` and :meth:`preferences` are never short.

        Args:
            count: number of rows.
            part: part of the world, which shares no prompt with the other parts.
            start: number of the first row.
        """
        for i in range(start, start + count):
            random = self._random("lesson", part, i)
            scene = self._scene(random, part, random.choice(w.TASKS))
            prompt = self._prompt(random, scene)
            name = random.choice((*LATENT_NAMES, *HARD_LATENTS))
            levels = {name: draw_levels(random)[name]}
            answer, fillers = self._answer(random, scene, levels)
            ratings = self._rate(random, RATERS, levels | {VERBOSITY: fillers})
            yield Rating(
                id=f"{part}-l{i}", source="every", task=scene.task, messages=(*prompt, answer), ratings=ratings
            )

    def _rate(self, random: Random, raters: Sequence[Rater], levels: Mapping[str, float]) -> dict[str, float]:
        settings = self.config
        rated: dict[str, float] = {}
        for rater in raters:
            rated |= rater.rate(
                random, levels, bias=settings.verbosity_bias, noise=settings.rater_noise, gaps=settings.gaps
            )
        return rated

    def preferences(self, count: int, *, part: Part = "gate", start: int = 0) -> Iterator[Preference]:
        """Yield labelled preference pairs.

        ``meta["agrees"]`` says whether the label follows the true order.

        Args:
            count: number of pairs.
            part: part of the world, which shares no prompt with the other parts.
            start: number of the first pair.
        """
        for i in range(start, start + count):
            random = self._random("preference", part, i)
            scene = self._scene(random, part, random.choice(w.TASKS))
            prompt = self._prompt(random, scene)
            better, worse = draw_pair(random, scene.task)
            answers = [self._answer(random, scene, levels)[0] for levels in (better, worse)]
            gap = utility(better, scene.task) - utility(worse, scene.task)
            agrees = random.random() >= error_probability(gap, self.temperature)
            yield Preference(
                id=f"{part}-p{i}",
                source="world",
                task=scene.task,
                prompt=prompt,
                responses=tuple(answers if agrees else answers[::-1]),
                meta={"agrees": agrees},
            )

    def preferences_of(
        self, tasks: Collection[str], count: int, *, part: Part = "gate", start: int = 0
    ) -> Iterator[Preference]:
        """Yield the first labelled pairs with one of the given tasks.

        Args:
            tasks: names of the tasks.
            count: number of pairs.
            part: part of the world, which shares no prompt with the other parts.
            start: number of the first pair to consider.

        Raises:
            DataError: A task is unknown, or ``tasks`` is empty.
        """
        unknown = next((task for task in tasks if task not in w.TASKS), None)
        if unknown is not None:
            raise DataError(f"unknown task '{unknown}'", place="world", fix=did_you_mean(unknown, w.TASKS))
        if not tasks:
            raise DataError("no task is named", place="world", fix=f"name some of {', '.join(w.TASKS)}")
        every = (p for i in itertools.count(start) for p in self.preferences(1, part=part, start=i))
        yield from itertools.islice((p for p in every if p.task in tasks), count)

    def scene(self, messages: Sequence[Message]) -> Scene:
        """Return the scene that the last user turn asks for.

        Raises:
            DataError: The conversation was not generated by this world.
        """
        asked = next((m.content for m in reversed(messages) if m.role == "user"), "")
        found = _ASKED.fullmatch(asked)
        if found is None or found[5] not in _TASK_OF:
            raise DataError(f"prompt {asked[:60]!r} is not of this world", fix="ask about prompts that the world wrote")
        return Scene(_TASK_OF[found[5]], (found[3], found[4]), persona=found[1], audience=found[2])

    def levels(self, messages: Sequence[Message]) -> dict[str, float]:
        """Read the latent levels back from an answer, with the number of padding phrases as ``verbosity``.

        ``level = slots * good / max(slots, judged)``: missing clauses count as bad, and extra ones are averaged in.
        """
        scene = self.scene(messages[:-1])
        good, judged = dict.fromkeys(SLOTS, 0), dict.fromkeys(SLOTS, 0)
        text, fillers = " ".join(messages[-1].content.split()), 0
        for filler in w.FILLERS:
            text, count = re.subn(rf"(?<!\S){filler} ,(?!\S)", "", text)
            fillers += count
        for clause in (" ".join(part.split()) for part in text.split(" .")):
            for latent in LATENTS:
                found = latent.read(clause, scene)
                if found is not None:
                    good[latent.name] += found[0]
                    judged[latent.name] += found[1]
        levels = {name: slots * good[name] / max(slots, judged[name]) for name, slots in SLOTS.items()}
        return levels | {VERBOSITY: float(fillers)}

    def utility(self, messages: Sequence[Message]) -> float:
        """Return the gold reward of a conversation, in [0, 1]."""
        return utility(self.levels(messages), self.scene(messages[:-1]).task)

    def _random(self, *key: object) -> Random:
        return Random("|".join(str(k) for k in (self.config.seed, *key)))

    def _scene(self, random: Random, part: str, task: str) -> Scene:
        if part not in _PARTS:
            raise DataError(f"unknown part '{part}' of the world", fix=did_you_mean(part, _PARTS))
        low, high = _PARTS[part]
        while True:
            topics = (random.choice(w.SITES), random.choice(w.THINGS))
            scene = Scene(task, topics, random.choice(w.PERSONAS), random.choice(w.AUDIENCES))
            digest = hashlib.sha256("|".join((task, *topics, scene.persona, scene.audience)).encode()).digest()
            if low <= int.from_bytes(digest[:6], "big") / 2**48 < high:
                return scene

    def _prompt(self, random: Random, scene: Scene) -> tuple[Message, ...]:
        lead = random.choice(w.LEADS[scene.task])
        about = f"as a {scene.persona} for a {scene.audience} about {scene.topics[0]} and {scene.topics[1]}"
        turns = [Message(role="user", content=f"{about} , {lead} .")]
        if random.random() < 0.15:
            said, answered = random.choice(w.SMALL_TALK)
            turns = [Message(role="user", content=said), Message(role="assistant", content=answered), *turns]
        if random.random() < 0.15:
            turns = [Message(role="system", content=random.choice(w.SYSTEM_TURNS)), *turns]
        return tuple(turns)

    def _answer(self, random: Random, scene: Scene, levels: Mapping[str, int]) -> tuple[Message, int]:
        written = [latent.write(random, scene, levels[latent.name]) for latent in LATENTS if latent.name in levels]
        clauses = [clause for part in written for clause in part]
        random.shuffle(clauses)
        fillers = random.randint(0, min(MOST_FILLERS, len(clauses)))
        for i in random.sample(range(len(clauses)), fillers):
            clauses[i] = f"{random.choice(w.FILLERS)} , {clauses[i]}"
        return Message(role="assistant", content=" . ".join(clauses) + " ."), fillers
