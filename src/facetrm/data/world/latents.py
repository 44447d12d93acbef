"""The world's latent qualities. Each one can write its level into text and read it back.

A latent has ``slots`` clauses in every answer; its level is the number of good ones (0 to slots). Where possible, good
and bad clauses use the same words, and only the word order or the prompt distinguishes them.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Final

from facetrm.data.world import words as w


@dataclass(frozen=True)
class Scene:
    """What a prompt asks for: its task, two topics (a site and a thing), the persona to speak as, and an audience.

    No latent depends on the audience; it only makes prompts with equal demands differ.
    """

    task: str
    topics: tuple[str, str]
    persona: str
    audience: str


Write = Callable[[Random, Scene, int], list[str]]
ReadClause = Callable[[str, Scene], tuple[int, int] | None]


@dataclass(frozen=True)
class Latent:
    """One quality of an answer.

    Attributes:
        name: Readable name.
        meaning: Meaning in one sentence.
        slots: Highest level.
        write: Function (random, scene, level) that returns clauses with that level.
        read: Function (clause, scene) that returns the (good, judged) counts of the clause, or None if the clause
            belongs to another latent.
    """

    name: str
    meaning: str
    slots: int
    write: Write
    read: ReadClause


def _per_clause(one: Callable[[Random, Scene, bool], str], slots: int = 2) -> Write:
    """Return a writer of ``slots`` clauses, ``level`` of them good, in random order."""

    def write(random: Random, scene: Scene, level: int) -> list[str]:
        good = [True] * level + [False] * (slots - level)
        random.shuffle(good)
        return [one(random, scene, g) for g in good]

    return write


def _one_of(options: tuple[str, ...]) -> str:
    return "|".join(options)


def _matcher(pattern: str, judge: Callable[[re.Match[str], Scene], tuple[int, int]]) -> ReadClause:
    compiled = re.compile(pattern)

    def read(clause: str, scene: Scene) -> tuple[int, int] | None:
        match = compiled.fullmatch(clause)
        return None if match is None else judge(match, scene)

    return read


def _sum(random: Random, scene: Scene, good: bool) -> str:
    a = random.randint(1, 5)
    wrong = [n for n in range(2, 11, 2) if n != 2 * a]
    result = 2 * a if good else random.choice(wrong)
    return f"{w.NUMBERS[a - 1]} plus {w.NUMBERS[a - 1]} is {w.NUMBERS[result - 1]}"


def _is_sum(match: re.Match[str], scene: Scene) -> tuple[int, int]:
    a, b, c = (w.NUMBERS.index(match[i]) + 1 for i in (1, 2, 3))
    return int(a + b == c), 1


def _fact(random: Random, scene: Scene, good: bool) -> str:
    place = random.choice(list(w.PLACES))
    country = w.PLACES[place]
    if not good:
        country = random.choice([c for c in w.PLACES.values() if c != country])
    return f"{place} in {country}"


def _follow(random: Random, scene: Scene, level: int) -> list[str]:
    said = list(scene.topics)
    for i in random.sample((0, 1), 2 - level):
        said[i] = random.choice([t for t in (w.SITES, w.THINGS)[i] if t != said[i]])
    return [f"covering {said[0]} and {said[1]}"]


def _is_following(match: re.Match[str], scene: Scene) -> tuple[int, int]:
    return (match[1] == scene.topics[0]) + (match[2] == scene.topics[1]), 2


def _inversions(order: tuple[int, ...]) -> int:
    return sum(a > b for a, b in itertools.combinations(order, 2))


_ORDERS: Final = {
    level: [p for p in itertools.permutations(range(3)) if _inversions(p) == 3 - level] for level in range(4)
}


def _steps(random: Random, scene: Scene, level: int) -> list[str]:
    process, order = random.choice(w.PROCESSES), random.choice(_ORDERS[level])
    return [f"first {process[order[0]]} then {process[order[1]]} last {process[order[2]]}"]


def _is_ordered(match: re.Match[str], scene: Scene) -> tuple[int, int]:
    for process in w.PROCESSES:
        if {match[1], match[2], match[3]} == set(process):
            return 3 - _inversions(tuple(process.index(match[i]) for i in (1, 2, 3))), 3
    return 0, 3


def _swapped(pattern: str, left: tuple[str, ...], right: tuple[str, ...], slots: int = 2) -> tuple[Write, ReadClause]:
    """Return writer and reader of a clause that is good if ``left`` comes first and bad if the two are swapped."""

    def one(random: Random, scene: Scene, good: bool) -> str:
        pair = (random.choice(left), random.choice(right))
        return pattern.format(*(pair if good else pair[::-1]))

    either = f"({_one_of(left + right)})"
    return _per_clause(one, slots), _matcher(
        pattern.format(either, either), lambda m, s: (int(m[1] in left and m[2] in right), 1)
    )


_EMPATHY_GOOD: Final = tuple(f"your {x}" for x in w.YOURS)
_EMPATHY_BAD: Final = tuple(f"my {x}" for x in w.MINE)
_honesty = _swapped("i {} not {}", w.FOUND_OUT, w.MADE_UP)
_harmless = _swapped("refuse {} offer {}", w.HARMS, w.HELPS)
_empathy = _swapped("{} before {}", _EMPATHY_GOOD, _EMPATHY_BAD, slots=1)


def _persona(random: Random, scene: Scene, level: int) -> list[str]:
    good = [True] * level + [False] * (2 - level)
    random.shuffle(good)
    said = [scene.persona if g else random.choice([p for p in w.PERSONAS if p != scene.persona]) for g in good]
    return [f"as {said[0]}", f"signed {said[1]}"]


def _brackets(random: Random, scene: Scene, good: bool) -> str:
    name = random.choice(w.NAMES_IN_CODE)
    return f"( [ {name} ] )" if good else f"( [ {name} ) ]"


def _is_nested(match: re.Match[str], scene: Scene) -> tuple[int, int]:
    pair = {"(": ")", "[": "]"}
    return int(pair[match[1]] == match[4] and pair[match[2]] == match[3]), 1


def _rich(random: Random, scene: Scene, level: int) -> list[str]:
    colours = random.sample(w.COLOURS, level + 1)
    colours += [random.choice(colours) for _ in range(2 - level)]
    random.shuffle(colours)
    return [f"a {colours[0]} {colours[1]} {colours[2]} sky"]


def _clause(random: Random, scene: Scene, good: bool) -> str:
    trait, animal, act = random.choice(w.TRAITS), random.choice(w.ANIMALS), random.choice(w.ACTS)
    straight = ("the", trait, animal, act)
    if good:
        return " ".join(straight)
    order = random.choice(_SCRAMBLES)
    return " ".join(straight[i] for i in order)


_SCRAMBLES: Final = [p for p in itertools.permutations(range(4)) if p != (0, 1, 2, 3)]


def _is_fluent(clause: str, scene: Scene) -> tuple[int, int] | None:
    said = clause.split()
    kinds = (("the",), w.TRAITS, w.ANIMALS, w.ACTS)
    if len(said) != 4 or any(sum(x in kind for x in said) != 1 for kind in kinds):
        return None
    return int(all(x in kind for x, kind in zip(said, kinds, strict=True))), 1


_NUMBER: Final = f"({_one_of(w.NUMBERS)})"
_SITE: Final = f"({_one_of(w.SITES)})"
_THING: Final = f"({_one_of(w.THINGS)})"
_STEP: Final = f"({_one_of(tuple(step for process in w.PROCESSES for step in process))})"
_COLOUR: Final = f"({_one_of(w.COLOURS)})"
_WHO: Final = f"({_one_of(w.PERSONAS)})"
_OPEN, _CLOSE = r"([(\[])", r"([)\]])"

LATENTS: Final = (
    Latent(
        "correctness",
        "the sum is right",
        1,
        _per_clause(_sum, 1),
        _matcher(f"{_NUMBER} plus {_NUMBER} is {_NUMBER}", _is_sum),
    ),
    Latent(
        "knowledge",
        "the places lie where they do",
        2,
        _per_clause(_fact),
        _matcher(
            f"({_one_of(tuple(w.PLACES))}) in ({_one_of(tuple(w.PLACES.values()))})",
            lambda m, s: (int(w.PLACES[m[1]] == m[2]), 1),
        ),
    ),
    Latent(
        "instruction_following",
        "the topics that were asked for are covered",
        2,
        _follow,
        _matcher(f"covering {_SITE} and {_THING}", _is_following),
    ),
    Latent(
        "coherence",
        "the steps stand in their order",
        3,
        _steps,
        _matcher(f"first {_STEP} then {_STEP} last {_STEP}", _is_ordered),
    ),
    Latent("honesty", "it was found out, not made up", 2, *_honesty),
    Latent("harmlessness", "harm is refused and help is offered", 2, *_harmless),
    Latent("empathy", "the user comes before the speaker", 1, *_empathy),
    Latent(
        "persona",
        "the persona that was asked for is kept",
        2,
        _persona,
        _matcher(
            f"(?:as {_WHO}|signed {_WHO})",
            lambda m, s: (int((m[1] or m[2]) == s.persona), 1),
        ),
    ),
    Latent(
        "style",
        "the brackets of the code close in order",
        1,
        _per_clause(_brackets, 1),
        _matcher(f"{_OPEN} {_OPEN} (?:{_one_of(w.NAMES_IN_CODE)}) {_CLOSE} {_CLOSE}", _is_nested),
    ),
    Latent(
        "richness",
        "the words differ from each other",
        2,
        _rich,
        _matcher(f"a {_COLOUR} {_COLOUR} {_COLOUR} sky", lambda m, s: (len({m[1], m[2], m[3]}) - 1, 2)),
    ),
    Latent("fluency", "the clause is grammatical", 1, _per_clause(_clause, 1), _is_fluent),
)
LATENT_NAMES: Final = tuple(latent.name for latent in LATENTS)
HARD_LATENTS: Final = ("correctness", "knowledge", "instruction_following", "persona", "richness")
MOST_FILLERS: Final = 6
