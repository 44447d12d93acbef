"""Pairs and scorers with planted biases that the tests of audits share."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from facetrm.baselines.groups import bare_score, groups_of
from facetrm.data.records import Conversation, Message, Preference
from facetrm.model.output import Score

WORDS = ["amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heron"]


def text(generator: random.Random) -> str:
    """Return two to eight random sentences."""
    return " ".join(
        " ".join(generator.choice(WORDS) for _ in range(generator.randint(4, 9))).capitalize() + "."
        for _ in range(generator.randint(2, 8))
    )


def pair(chosen: str, rejected: str, *, asked: str = "why ?", task: str | None = None) -> Preference:
    """Return a pair from texts."""
    answers = [Message(role="assistant", content=content) for content in (chosen, rejected)]
    return Preference(prompt=(Message(role="user", content=asked),), responses=tuple(answers), task=task)


def random_pairs(size: int, *, seed: int = 0) -> list[Preference]:
    """Return pairs whose answers differ in nothing but chance."""
    generator = random.Random(seed)
    return [pair(text(generator), text(generator), asked=f"question {n} ?") for n in range(size)]


class Parts:
    """Scores the sum of named functions of the answer's text, one contribution each; ``rows`` counts the answers."""

    def __init__(self, **parts: Callable[[str], float]) -> None:
        self.parts, self.rows, self.calls = parts, 0, 0

    def score(self, conversations: Sequence[Conversation]) -> list[Score]:
        self.rows, self.calls = self.rows + len(conversations), self.calls + 1
        return [self._score(messages[-1].content) for messages in conversations]

    def _score(self, content: str) -> Score:
        values = {name: float(read(content)) for name, read in self.parts.items()}
        score = bare_score(sum(values.values()), model="parts", length=len(content.split()))
        return replace(score, contributions=values, scores=values, weights=dict.fromkeys(values, 1 / len(values)))


class FirstWins:
    """Compares two answers: the first one gets a bonus on the reward of another scorer."""

    def __init__(self, inner: Parts, bonus: float) -> None:
        self.inner, self.bonus = inner, bonus

    def score(self, conversations: Sequence[Conversation]) -> list[Score]:
        return [score for group in self.score_groups(groups_of(conversations)) for score in group]

    def score_groups(self, groups: Sequence[Sequence[Conversation]]) -> list[list[Score]]:
        return [
            [
                replace(score, reward=score.reward + (0.0 if n else self.bonus))
                for n, score in enumerate(self.inner.score(group))
            ]
            for group in groups
        ]


def luck(content: str) -> float:
    """Return a number in [0, 1) that only depends on how often each of the known words occurs: pure chance."""
    found = re.findall("|".join(WORDS), content.lower())
    return random.Random(" ".join(sorted(found))).random()
