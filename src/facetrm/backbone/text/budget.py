"""Limits on the cost of rendering a chat template: steps, time, characters created and characters written.

A chat template is an untrusted program that comes with a model. Every limit grows with the conversation, so that no
reasonable template reaches it. If a single operation could be too expensive (repeating a string, a replacement, a
field width), its cost is checked *before* it runs.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, final

from jinja2.utils import Namespace

SECONDS: Final = 0.5  # CPU time of this thread, for an empty conversation; longer ones get more
BITS: Final = 16_384  # maximum bits of an integer
NODES: Final = 200_000  # maximum items of a nested value; an item that occurs twice counts twice
WIDTH: Final = 1_000_000  # maximum absolute value of a numeric argument of a filter or string method

_WIDE: Final = re.compile(r"%(\([^)]*\))?[-+ #0]*(\d{5,}|\*|\d*\.(\d{5,}|\*))")
_WIDE_FIELD: Final = re.compile(r"\d{5,}")


class LimitError(Exception):
    """A template exceeded a limit; the message says which."""


@final
class Budget:
    """The remaining budget of one rendering.

    Args:
        characters: number of characters in the conversation.
        turns: number of turns in the conversation.
    """

    def __init__(self, *, characters: int, turns: int) -> None:
        self.longest = 1_000_000 + 4 * characters
        self._output = 200_000 + 4 * characters + 2_000 * turns
        self._steps = 100_000 + 20 * characters + 1_000 * turns
        self._work = 64_000_000 + 640 * characters
        self._seconds = SECONDS + 2e-6 * characters
        self._until = time.thread_time() + self._seconds

    def step(self) -> None:
        """Count one loop iteration or one call."""
        self._steps -= 1
        if self._steps < 0:
            raise LimitError("it makes too many steps, as an endless loop does")
        self.check_time()

    def check_time(self) -> None:
        """Raise LimitError if the time limit is exceeded."""
        if time.thread_time() > self._until:
            raise LimitError(f"it takes more than {self._seconds:.1f} seconds")

    def write(self, characters: int) -> None:
        """Count characters of the rendered text."""
        self._output -= characters
        if self._output < 0:
            raise LimitError("it writes far more than the conversation holds")

    def make(self, characters: int) -> None:
        """Count the characters of a string that is about to be created."""
        if characters > self.longest:
            raise LimitError(f"it makes a text of {characters} characters")
        self._work -= characters
        if self._work < 0:
            raise LimitError("it makes too many long texts")

    def made(self, value: object) -> None:
        """Count a result: the length of a string, the bits of an integer, or the items of a nested value."""
        if isinstance(value, str | bytes):
            self.make(len(value))
        elif isinstance(value, int):
            if value.bit_length() > BITS:
                raise LimitError(f"it makes an integer of {value.bit_length()} bits")
        elif isinstance(value, list | tuple | dict | Namespace):
            self.make(16 * measure(value)[0])

    def read(self, value: object) -> int:
        """Return the approximate length of ``value`` as text, and count it as work.

        Args:
            value: value that is about to be converted to text.
        """
        if isinstance(value, str | bytes):
            self.make(len(value))
            return len(value)
        if isinstance(value, list | tuple | dict | Namespace):
            nodes, characters = measure(value)
            self.make(4 * nodes + characters)
            return 4 * nodes + characters
        return 32


def measure(value: object) -> tuple[int, int]:
    """Return the number of items in a nested value and the total characters of its strings.

    Args:
        value: any value.

    Raises:
        LimitError: The value has more than :data:`NODES` items.
    """
    nodes = characters = 0
    rest: list[object] = [value]
    while rest:
        one = rest.pop()
        nodes += 1
        if isinstance(one, str | bytes):
            characters += len(one)
            continue
        items: Sequence[object] = ()
        if isinstance(one, Namespace):
            one = one._Namespace__attrs
        if isinstance(one, dict):
            items = [*one.keys(), *one.values()]
        elif isinstance(one, list | tuple):
            items = one
        if nodes + len(rest) + len(items) > NODES:
            raise LimitError(f"it builds a nested value of more than {NODES} items")
        rest.extend(items)
    return nodes, characters


def check_operator(operator: str, left: Any, right: Any, budget: Budget) -> None:
    """Check the cost of ``left operator right`` before it is computed.

    Args:
        operator: operator as written in the template.
        left: first operand.
        right: second operand.
        budget: remaining budget.

    Raises:
        LimitError: The result would be too long or too large.
    """
    if operator == "*":
        for many, times in ((left, right), (right, left)):
            if isinstance(many, str | bytes | list | tuple) and isinstance(times, int):
                budget.make(len(many) * max(times, 0) * (1 if isinstance(many, str | bytes) else 16))
    elif operator == "%" and isinstance(left, str | bytes):
        check_percent(left, right, budget)
    elif operator == "+":
        if isinstance(left, str | bytes | list | tuple) and isinstance(right, str | bytes | list | tuple):
            budget.make((len(left) + len(right)) * (1 if isinstance(left, str | bytes) else 16))
    elif (
        operator == "**"
        and isinstance(left, int)
        and isinstance(right, int)
        and (left.bit_length() * abs(right) > BITS)
    ):
        raise LimitError("it makes an integer of too many digits")


def check_percent(form: str | bytes, values: Any, budget: Budget) -> None:
    """Check the cost of ``form % values``.

    Args:
        form: format string.
        values: one value, a tuple, or a dict.
        budget: remaining budget.

    Raises:
        LimitError: The result would be too long.
    """
    text = form if isinstance(form, str) else form.decode("latin-1")
    if _WIDE.search(text):
        raise LimitError("it formats with a width of five digits or more")
    longest = max((budget.read(v) for v in _flat(values)), default=0)
    budget.make(len(text) + text.count("%") * longest)


def check_field(spec: str) -> None:
    """Check the format specification of one field of ``str.format``.

    Args:
        spec: text after the colon of the field.

    Raises:
        LimitError: It contains a width of five digits or more.
    """
    if _WIDE_FIELD.search(spec):
        raise LimitError("it formats with a width of five digits or more")


def check_method(name: str, owner: str | bytes, given: Sequence[Any], named: Mapping[str, Any], budget: Budget) -> None:
    """Check the cost of a string method before it is called.

    Args:
        name: name of the method.
        owner: string whose method is called.
        given: positional arguments.
        named: keyword arguments.
        budget: remaining budget.

    Raises:
        LimitError: The result would be too long.
    """
    values = [*given, *named.values()]
    check_widths(values)
    texts = [len(value) for value in values if isinstance(value, str | bytes)]
    if name == "replace" and len(texts) >= 2:
        old, new = values[0], values[1]
        places = owner.count(old) if old else len(owner) + 1
        budget.make(len(owner) + places * len(new))
    elif name == "join" and values:
        parts = values[0] if isinstance(values[0], list | tuple | dict | str | bytes) else ()
        budget.make(sum(len(p) for p in parts if isinstance(p, str | bytes)) + len(parts) * len(owner))
    elif name == "expandtabs":
        tab = "\t" if isinstance(owner, str) else b"\t"
        size = next((value for value in values if isinstance(value, int)), 8)
        budget.make(len(owner) + owner.count(tab) * max(size, 0))  # type: ignore[arg-type]
    elif name == "translate" and values:
        table = values[0].values() if isinstance(values[0], dict) else values[0]
        budget.make(len(owner) * max((len(v) for v in table if isinstance(v, str)), default=1))
    elif name in ("split", "rsplit", "splitlines"):
        budget.make(len(owner))
    else:
        budget.make(len(owner) + max((abs(v) for v in values if isinstance(v, int)), default=0))


def check_widths(values: Sequence[Any]) -> None:
    """Check the numeric arguments of a filter or method.

    Args:
        values: all arguments.

    Raises:
        LimitError: An integer is larger than :data:`WIDTH` in absolute value.
    """
    for value in values:
        if isinstance(value, int) and abs(value) > WIDTH:
            raise LimitError(f"it asks for a width or a number beyond {WIDTH}")


def _flat(values: Any) -> Sequence[Any]:
    if isinstance(values, dict):
        return [*values.values(), values]
    return values if isinstance(values, tuple) else (values,)
