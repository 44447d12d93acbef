"""Sums in words."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Final

from facetrm.data.desk.draft import Draft, Levels, Task
from facetrm.data.desk.forms import Form, Request, asked, dialogue
from facetrm.data.desk.numbers import in_words, numbers_in

NAMES: Final = (
    *("Anna", "Ben", "Clara", "David", "Emma", "Felix", "Grace", "Harry", "Isla", "Jack", "Kate", "Leo"),
    *("Maria", "Noah", "Olivia", "Peter", "Rosa", "Sam", "Tina", "Victor"),
)
_ITEMS: Final = (
    *("apples", "marbles", "stamps", "books", "pencils", "shells", "coins", "stickers", "postcards", "buttons"),
    *("oranges", "candles", "photos", "tickets", "eggs", "plums"),
)


def _pool(low: int, high: int, step: int = 1) -> tuple[str, ...]:
    return tuple(in_words(n) for n in range(low, high + 1, step))


_PLUS: Final = {"name": NAMES, "items": _ITEMS, "a": _pool(11, 89), "b": _pool(3, 60)}
_MINUS: Final = {"name": NAMES, "items": _ITEMS, "a": _pool(41, 99), "b": _pool(3, 40)}
_TIMES: Final = {"name": NAMES, "items": _ITEMS, "a": _pool(3, 14), "b": _pool(4, 20)}
_SHARE: Final = {"name": NAMES, "items": _ITEMS, "a": _pool(12, 120, 12), "b": ("two", "three", "four", "six")}
_STEPS: Final = {**_PLUS, "c": _pool(2, 10)}
_DIGITS: Final = {"a": tuple(map(str, range(12, 99))), "b": tuple(map(str, range(3, 12)))}

FORMS: Final[tuple[Form, ...]] = (
    *asked(
        "sums",
        "{name} has {a} {items} and buys {b} more. How many {items} does {name} have now?",
        "There are {a} {items} in one box and {b} in another. {name} wants to know how many there are in total.",
        "{name} collected {a} {items} in the morning and {b} in the afternoon. How many is that altogether?",
        kind="plus",
        pools=_PLUS,
    ),
    *asked("sums", "What is {a} plus {b}?", "Could you add {a} and {b} for me?", kind="plus", pools=_PLUS),
    *asked("sums", "What is {a} + {b}?", "Please add up {a} and {b}.", kind="plus", pools=_DIGITS),
    dialogue(
        "sums",
        ("user", "{name} has {a} {items} on the table."),
        ("assistant", "All right. What would you like to know about them?"),
        ("user", "Now a friend brings {b} more. How many {items} are there now?"),
        kind="plus",
        pools=_PLUS,
    ),
    *asked(
        "sums",
        "{name} had {a} {items} and gave {b} of them away. How many {items} are left?",
        "A shop had {a} {items} in stock and sold {b} of them to {name}. How many {items} does the shop still have?",
        "What do I get if I take {b} away from {a}?",
        kind="minus",
        pools=_MINUS,
    ),
    dialogue(
        "sums",
        ("user", "I baked {a} rolls this morning."),
        ("assistant", "That sounds like a busy morning."),
        ("user", "My guests ate {b} of them. How many rolls are left?"),
        kind="minus",
        pools=_MINUS,
    ),
    *asked(
        "sums",
        "{name} packs {a} boxes and puts {b} {items} into each of them. How many {items} does {name} need?",
        "One ticket costs {b} euros. What do {a} tickets cost, in euros?",
        "There are {a} rows of chairs with {b} chairs in each row. How many chairs are there?",
        kind="times",
        pools=_TIMES,
    ),
    *asked("sums", "What is {a} times {b}?", kind="times", pools=_TIMES),
    *asked("sums", "What is {a} x {b}?", kind="times", pools=_DIGITS),
    *asked(
        "sums",
        "{name} shares {a} {items} equally among {b} friends. How many {items} does each friend get?",
        "What is {a} divided by {b}?",
        kind="share",
        pools=_SHARE,
    ),
    *asked(
        "sums",
        "{name} has {a} {items}, buys {b} more and then gives {c} away. How many {items} does {name} have in the end?",
        "On the bus there are {a} people. At the next stop {b} get on and {c} get off. How many people are on the bus?",
        kind="steps",
        pools=_STEPS,
    ),
)

_RESULT: Final[dict[str, Callable[..., int]]] = {
    "plus": lambda a, b: a + b,
    "minus": lambda a, b: a - b,
    "times": lambda a, b: a * b,
    "share": lambda a, b: a // b,
    "steps": lambda a, b, c: a + b - c,
}
_WORKING: Final = {
    "plus": ("{a} + {b} = {r}.", "Adding {b} to {a} gives {r}.", "We add the two numbers: {a} plus {b} makes {r}."),
    "minus": ("{a} - {b} = {r}.", "Taking {b} away from {a} leaves {r}.", "We subtract: {a} minus {b} is {r}."),
    "times": ("{a} x {b} = {r}.", "Multiplying {a} by {b} gives {r}.", "We multiply: {a} times {b} makes {r}."),
    "share": ("{a} / {b} = {r}.", "Dividing {a} by {b} gives {r}.", "We divide: {a} divided by {b} is {r}."),
    "steps": (
        "{a} + {b} - {c} = {r}.",
        "First add {b} to {a}, then take {c} away, which makes {r}.",
        "We add {b} to {a} and subtract {c} again, which gives {r}.",
    ),
}
_ANSWERS: Final = ("The answer is {r}.", "The result is {r}.", "That makes {r}.", "You end up with {r}.")
_REMARKS: Final = (
    "It is a good idea to check the result with a pocket calculator.",
    "A drawing on a piece of paper can make such a question easier.",
    "Questions of this kind come up in the kitchen and in the shop.",
    "Most of us learn this in the first years of school.",
    "You can do the same with any other pair of numbers.",
)


def operands(request: Request) -> tuple[int, ...]:
    """Return the numbers of the question, in the order of its blanks."""
    return tuple(int(numbers_in(request[name])[0].value) for name in ("a", "b", "c") if name in request.values)


def result(request: Request) -> int:
    """Return the right result."""
    return _RESULT[request.form.kind](*operands(request))


def _write(random: Random, request: Request, levels: Levels) -> Draft:
    right = result(request)
    said = right
    while not levels["correct"] and (said == right or said < 0 or said in operands(request)):
        said = right + random.choice((-20, -10, -3, -2, -1, 1, 2, 3, 10, 20))
    write: Callable[[int], str] = random.choice((str, in_words))
    named = dict(zip("abc", map(write, operands(request)), strict=False)) | {"r": write(said)}
    sentences = [random.choice(_ANSWERS).format_map(named)]
    if levels["working"]:
        working = random.choice(_WORKING[request.form.kind]).format_map(named)
        sentences = [working[0].upper() + working[1:], *sentences]
    return Draft(tuple(sentences), _REMARKS)


SUMS: Final = Task(
    "sums",
    "a sum, told in words",
    FORMS,
    {"correct": 0.52, "working": 0.44, "fluent": 0.03, "courteous": 0.01},
    _write,
)
