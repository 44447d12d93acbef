"""Short texts under constraints of form."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Final

from facetrm.data.desk.draft import Draft, Levels, Task
from facetrm.data.desk.forms import Form, Request, asked
from facetrm.data.desk.numbers import numbers_in
from facetrm.data.desk.subjects.text_subjects import TEXT_SUBJECTS, Subject
from facetrm.data.desk.tasks.constraints import AVOID, BY_NAME, ENDING, LOWER, SHAPES, UPPER, USE, Constraint

_SUBJECTS: Final = {subject.name: subject for subject in TEXT_SUBJECTS}
_LEADS: Final = (
    "Write a short text about {subject}.",
    "Tell me something about {subject}.",
    "I need a few words about {subject} for our newsletter.",
)
_EXTRAS: Final[tuple[tuple[Constraint, ...], ...]] = (
    (USE,),
    (AVOID,),
    (USE, AVOID),
    (LOWER,),
    (UPPER, USE),
    (ENDING, USE),
    (ENDING, AVOID),
)


def _forms() -> tuple[Form, ...]:
    found: list[Form] = []
    for shape in SHAPES:
        for number, extras in enumerate(_EXTRAS):
            if (shape.name not in {"sentences", "words"} and ENDING in extras) or (
                shape.name == "json" and extras[0] in {LOWER, UPPER}
            ):
                continue
            constraints = (shape, *extras)
            for which, lead in enumerate(_LEADS):
                text = " ".join((lead, *(c.texts[(which + number) % len(c.texts)] for c in constraints)))
                pools = {"subject": tuple(_SUBJECTS)} | {k: v for c in constraints for k, v in c.pools.items()}
                found += asked("format", text, kind="+".join(c.name for c in constraints), pools=pools)
    return tuple(found)


_WITH_WORD: Final = (
    "Somebody has left a {word} there.",
    "It brings to mind a {word} on a quiet day.",
    "There is an old story of a {word} in which it plays a part.",
)
_WITH_BANNED: Final = {
    "beautiful": "That is a beautiful thing to see.",
    "really": "That is really good to know.",
    "wonderful": "It is wonderful to think of it.",
    "amazing": "It is amazing how much there is to see.",
    "lovely": "It is a lovely thing to look at.",
    "very": "That is very good to know.",
}


def constraints_of(request: Request) -> tuple[Constraint, ...]:
    """Return the constraints that the prompt states."""
    return tuple(BY_NAME[name] for name in request.form.kind.split("+"))


def subject_of(request: Request) -> Subject:
    """Return the subject to write about."""
    return _SUBJECTS[request["subject"]]


def _strangers(subject: Subject) -> list[Subject]:
    return [
        other
        for other in TEXT_SUBJECTS
        if not any(word in sentence.lower() for word in subject.words for sentence in other.sentences)
    ]


def _size(random: Random, request: Request, shape: str, *, kept: bool) -> int:
    """Return the number of sentences."""
    if shape == "words":
        return 4 if kept else 9
    if shape == "json":
        return 4
    wanted = int(numbers_in(request["count"])[0].value)
    return wanted if kept else random.choice([n for n in (4, 5, 6, 7) if n != wanted])


def _write(random: Random, request: Request, levels: Levels) -> Draft:
    names = [c.name for c in constraints_of(request)]
    kept = set(random.sample(names, round(levels["instructions"] / 2 * len(names))))
    shape = names[0]
    endings = [request["ending"]] if "ending" in kept else []
    subject = subject_of(request) if levels["topic"] else random.choice(_strangers(subject_of(request)))
    carriers = []
    if "use" in kept:
        carriers.append(_with_article(random.choice(_WITH_WORD), request["word"]))
    if "avoid" in names and "avoid" not in kept:
        carriers.append(_WITH_BANNED[request["banned"]])
    size = _size(random, request, shape, kept=shape in kept) - len(endings) - len(carriers)
    about = random.sample(subject.sentences, min(size, len(subject.sentences)))
    units = [*about[:1], *random.sample([*about[1:], *carriers], len(about) - 1 + len(carriers)), *endings]
    free = tuple(i for i, unit in enumerate(units) if unit in about)
    case: Callable[[str], str] = str
    if kept & {"lower", "upper"}:
        case = str.lower if "lower" in kept else str.upper
    return Draft(
        tuple(units),
        render=_renderer(random, request, shape, kept=shape in kept, case=case),
        faults=("garbled", "repeated"),
        fixed=free,
    )


def _with_article(text: str, word: str) -> str:
    return text.replace(" a {word}", f" an {word}" if word[0] in "aeiou" else f" a {word}")


def _renderer(
    random: Random, request: Request, shape: str, *, kept: bool, case: Callable[[str], str]
) -> Callable[[list[str]], str]:
    prose = shape in {"sentences", "words"} or (not kept and random.random() < 0.5)

    def render(units: list[str]) -> str:
        if prose:
            return case(" ".join(units))
        if shape == "bullets":
            return case("\n".join(f"- {unit}" for unit in units))
        if shape == "numbered":
            return case("\n".join(f"{i}. {unit}" for i, unit in enumerate(units, start=1)))
        keys = (request["key"], request["other"] if kept else "content")
        return json.dumps({keys[0]: " ".join(units[:1]), keys[1]: " ".join(units[1:])}, ensure_ascii=False)

    return render


FORMAT: Final = Task(
    "format",
    "a short text that has to keep rules of form",
    _forms(),
    {"instructions": 0.42, "topic": 0.12, "fluent": 0.46},
    _write,
)
