"""Questions about facts."""

from __future__ import annotations

from random import Random
from typing import Final

from facetrm.data.desk.draft import Draft, Levels, Task
from facetrm.data.desk.facts import FACT_KINDS, FactKind
from facetrm.data.desk.forms import Form, Request, asked

_KINDS: Final = {kind.name: kind for kind in FACT_KINDS}
_FORMS: Final[tuple[Form, ...]] = tuple(
    form
    for kind in FACT_KINDS
    for form in asked("facts", *kind.questions, kind=kind.name, pools={"subject": tuple(kind.table)})
)
_SHORT: Final = ("It is {answer}.", "The answer is {answer}.", "That would be {answer}.")
_REMARKS: Final = (
    "You can look it up in any good encyclopedia.",
    "It is a popular question in the pub and on the radio.",
    "Many children learn this in the first years of school.",
    "It is the kind of thing that is easy to forget.",
)


def fact_of(request: Request) -> tuple[FactKind, str, str]:
    """Return the kind of fact that is asked for, its subject and the right answer."""
    kind = _KINDS[request.form.kind]
    return kind, request["subject"], kind.table[request["subject"]]


def names_of(kind: FactKind, answer: str) -> tuple[str, ...]:
    """Return every name of an answer."""
    return (answer, *kind.aliases.get(answer, ()))


def _write(random: Random, request: Request, levels: Levels) -> Draft:
    kind, subject, right = fact_of(request)
    said = right if levels["correct"] else random.choice([a for a in kind.answers if a != right])
    template = kind.statement if random.random() < 0.7 else random.choice(_SHORT)
    sentence = template.format(subject=subject, answer=f"the {said}" if _the(kind, template) else said)
    return Draft((sentence[0].upper() + sentence[1:],), (*_REMARKS, kind.remark))


def _the(kind: FactKind, template: str) -> bool:
    return kind.name in {"currency", "body"} and template in _SHORT


FACTS: Final = Task(
    "facts",
    "a fact that an encyclopedia settles",
    _FORMS,
    {"correct": 0.6, "fluent": 0.38, "courteous": 0.02},
    _write,
)
