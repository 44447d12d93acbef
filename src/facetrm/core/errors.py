"""Every error that facetrm raises on purpose.

    FacetrmError
    ├── ConfigError      a recipe, a setting, or a command-line value
    ├── DataError        a row, a file or a column
    ├── BackboneError    a backbone folder, tokenizer or chat template, or a conversation that does not fit
    │   └── TooLongError     a conversation with more tokens than the backbone may read
    ├── StoreError       a feature folder or a label store on disk
    ├── LabelError       a judge API, or its response
    ├── FitError         data that a component cannot be fitted to
    └── ModelError       a model folder, or a request that a model cannot answer

A message names the value, the place and the fix, in that order.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from typing import Final

LONGEST: Final = 1_500  # characters of the problem; the place and the fix get a third of this each


class FacetrmError(Exception):
    """An error that says what is wrong, where, and how to fix it.

    Each part is truncated to a fixed length, and terminal control characters are escaped, so untrusted text (a
    template, a file name, a server's reply) can neither flood nor control the user's terminal.

    Args:
        problem: what is wrong, including the offending value.
        place: where it is wrong: ``file:line``, a config key or a folder.
        fix: what the user can do about it.

    Example:
        >>> from facetrm import FacetrmError, load_model
        >>> try:
        ...     load_model("./no-such-folder")
        ... except FacetrmError as error:
        ...     print(type(error).__name__, error.fix is not None)
        ModelError True
    """

    def __init__(self, problem: str, *, place: object = None, fix: str | None = None) -> None:
        self.problem = printable(problem, LONGEST)
        self.place = None if place is None else printable(str(place), LONGEST // 3)
        self.fix = None if fix is None else printable(fix, LONGEST // 3)
        super().__init__(str(self))

    def __str__(self) -> str:
        text = self.problem if self.place is None else f"{self.place}: {self.problem}"
        return text if self.fix is None else f"{text}; {self.fix}"


class ConfigError(FacetrmError):
    """A recipe, a setting or a command-line value is wrong."""


class DataError(FacetrmError):
    """A row, a file or a column is wrong."""


class BackboneError(FacetrmError):
    """A backbone folder, tokenizer or template is wrong, or a conversation does not fit it.

    Attributes:
        row: Index of that conversation in the list that was read, or None if the error is not about a conversation.
    """

    row: int | None = None

    def at(self, place: object, *, row: int | None = None) -> BackboneError:
        """Return the same error with a place that the user knows.

        Args:
            place: place to show in the message.
            row: index of the conversation at that place.
        """
        error = type(self)(self.problem, place=place, fix=self.fix)
        error.row = row
        return error


class TooLongError(BackboneError):
    """A conversation has more tokens than the backbone may read, and is not to be truncated."""


class StoreError(FacetrmError):
    """A feature folder or a label store on disk is wrong."""


class LabelError(FacetrmError):
    """A judge API does not work, or its response is not a valid verdict."""


class FitError(FacetrmError):
    """A component cannot be fitted to the given data."""


class ModelError(FacetrmError):
    """A model folder is wrong, or the model cannot answer the request."""


class ServerError(ModelError):
    """A reward server cannot be reached, stays busy, or answers nobody: what it is asked is not the cause."""


def printable(text: str, limit: int) -> str:
    """Return ``text`` with control characters escaped, truncated to ``limit`` characters.

    Args:
        text: any text; line breaks are kept.
        limit: maximum number of characters; the middle of a longer text is left out.
    """
    if len(text) > limit:
        tail = limit // 4
        text = f"{text[: limit - tail - 1]}…{text[len(text) - tail :]}"
    if text.isprintable():
        return text
    safe = (c if c == "\n" or c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return "".join(safe)[: 2 * limit]


def short(value: object, limit: int = 80) -> str:
    """Return ``repr(value)``, truncated to ``limit`` characters, for error messages.

    The work is bounded as well: only the part that is shown is formatted, however large or deep the value is.

    Args:
        value: any Python value.
        limit: maximum number of characters.
    """
    pieces: list[str] = []
    length = 0
    for piece in _pieces(value, limit, depth=0):
        pieces.append(piece)
        length += len(piece)
        if length > limit:
            break
    text = "".join(pieces)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _pieces(value: object, limit: int, *, depth: int) -> Iterator[str]:
    """Yield ``repr(value)`` in pieces, with ``...`` in place of deeply nested containers."""
    if isinstance(value, str | bytes | bytearray):
        yield repr(value[: limit + 1])
    elif isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 4 * limit:
        yield f"an integer of {value.bit_length()} bits"
    elif type(value) in (dict, list, tuple) and depth > 8:
        yield "..."
    elif type(value) is dict:
        yield "{"
        for n, (key, item) in enumerate(value.items()):
            yield ", " if n else ""
            yield from _pieces(key, limit, depth=depth + 1)
            yield ": "
            yield from _pieces(item, limit, depth=depth + 1)
        yield "}"
    elif isinstance(value, list | tuple) and type(value) in (list, tuple):
        yield "[" if type(value) is list else "("
        for n, item in enumerate(value):
            yield ", " if n else ""
            yield from _pieces(item, limit, depth=depth + 1)
        yield "]" if type(value) is list else ",)" if len(value) == 1 else ")"
    else:
        yield repr(value)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a hint for an unknown name.

    Args:
        name: the name that was not found.
        known: the names that exist.

    Returns:
        ``did you mean 'x'?`` if a known name is similar, else the list of known names.
    """
    names = sorted(known)
    near = difflib.get_close_matches(name[:200], names, n=1, cutoff=0.6)
    if near:
        return f"did you mean '{near[0]}'?"
    return f"known: {', '.join(names)}" if names else "none is known"
