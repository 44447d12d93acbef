"""Short Python functions."""

from __future__ import annotations

from random import Random
from typing import Final

from facetrm.data.desk.draft import Draft, Levels, Task
from facetrm.data.desk.forms import Form, Request, asked
from facetrm.data.desk.subjects.functions import EXERCISES, Exercise

_FOR_WHOM: Final = (
    "It is for a homework exercise.",
    "I am new to Python.",
    "I need it for a small script.",
    "My colleague will read it later.",
    "It should be easy to understand.",
    "I use Python 3.",
    "It is part of a larger program.",
    "I would like to learn from it.",
)
_TEXTS: Final = (
    "Write a Python function {name}({parameters}) that {does}. {context}",
    "{context} I need a Python function called {name}({parameters}) that {does}.",
    "How would you write {name}({parameters}) in Python? It {does}. {context}",
    "Please give me the code of {name}({parameters}), a Python function that {does}. {context}",
)
_FORMS: Final[tuple[Form, ...]] = tuple(
    form
    for i, exercise in enumerate(EXERCISES)
    for form in asked(
        "code",
        *(t.replace("{parameters}", exercise.parameters).replace("{does}", exercise.does) for t in _TEXTS),
        kind=str(i),
        pools={"name": exercise.names, "context": _FOR_WHOM},
    )
)
_INTROS: Final = (
    "Here is the function.",
    "This should do it:",
    "The code is as follows.",
    "One way to write it is this:",
)
_EXPLANATIONS: Final = (
    "The function takes its arguments and hands back the result with a return statement.",
    "Read it from the top to the bottom, and the idea behind it becomes clear.",
    "The name of the function tells the reader what it is made for.",
)
_REMARKS: Final = (
    "You can copy it into a file and import it from there.",
    "It is a good exercise to write a test for it.",
    "There is more than one way to write this in the language.",
    "It works on every computer on which the language is installed.",
)


def exercise_of(request: Request) -> Exercise:
    """Return the exercise that the prompt asks for."""
    return EXERCISES[int(request.form.kind)]


def _broken(random: Random, body: str, head: str) -> str:
    """Return code that does not parse, for one of four reasons."""
    code = _function(head, body)
    breaks = [
        code.replace("):\n", ")\n", 1),
        code.replace("(", " ", 1),
        _function(head, body + " +"),
        code.replace("def ", "function ", 1),
    ]
    return random.choice(breaks)


def _function(head: str, body: str) -> str:
    return f"def {head}:\n" + "\n".join(f"    {line}" for line in body.split("\n"))


def _write(random: Random, request: Request, levels: Levels) -> Draft:
    exercise = exercise_of(request)
    head = f"{request['name']}({exercise.parameters})"
    body = random.choice(exercise.wrong if levels["code"] == 1 else exercise.right)
    code = _broken(random, body, head) if levels["code"] == 0 else _function(head, body)
    return Draft(
        (random.choice(_INTROS), random.choice(_EXPLANATIONS)),
        _REMARKS,
        unpadded=_INTROS,
        block=f"```python\n{code}\n```",
    )


CODE: Final = Task(
    "code",
    "a short Python function",
    _FORMS,
    {"code": 0.95, "courteous": 0.01, "fluent": 0.04},
    _write,
)
