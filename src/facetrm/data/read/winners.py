"""Who won a comparison of two answers: a letter, a number, a model's name, a signed strength, or one column each."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, final

from facetrm.core.errors import DataError, short
from facetrm.data.read.columns import Row, is_number

Winner: TypeAlias = Literal["first", "second"]

WINNERS: Final = ("winner", "preferred", "preference", "choice", "better", "better_response", "better_response_id")
"""Columns that name the better answer."""
SIGNED: Final = ("overall_preference", "preference_strength")
"""Columns with a number whose sign names the better answer: negative for the first one (HelpSteer3)."""
FLAGS: Final = ("winner_model_a", "winner_model_b")
"""Columns that are 1 for the model that won and 0 for the other (Chatbot Arena)."""

_ENDS: Final = (("a", "b"), ("1", "2"), ("0", "1"))
_STEMS: Final = ("response", "answer", "output", "completion", "reply", "conversation")
ANSWER_PAIRS: Final = tuple(
    (f"{stem}{gap}{first}", f"{stem}{gap}{second}") for first, second in _ENDS for stem in _STEMS for gap in ("_", "")
)
"""Pairs of columns that hold the two answers."""

_TIES: Final = frozenset(
    {"tie", "tied", "draw", "equal", "same", "both", "neither", "both good", "both bad", "bothbad", "tie (bothbad)"}
)
_WORDS: Final[dict[str, Winner]] = {
    **dict.fromkeys(("a", "1", "first", "left"), "first"),
    **dict.fromkeys(("b", "2", "second", "right"), "second"),
}
_LEAD = re.compile(rf"(model|assistant|{'|'.join(_STEMS)})[ _]*(?=.)")


@final
@dataclass(frozen=True)
class WinnerColumns:
    """Where a file says which of two answers won.

    Attributes:
        answers: Columns of the two answers.
        winner: Column that names the better one; None if ``signed`` or :data:`FLAGS` do.
        signed: Column with a signed strength, or None.
        base: Number that stands for the first answer, if the winners are numbers; None if they are not.
    """

    answers: tuple[str, str]
    winner: str | None
    signed: str | None
    base: int | None


def find_winners(rows: Sequence[Row], names: frozenset[str]) -> WinnerColumns | None:
    """Return where the rows of a file say which of two answers won; None if they hold no such comparison.

    Args:
        rows: All rows of the file: how the winners are numbered depends on all of them.
        names: Columns of the file.

    Raises:
        DataError: The winners are numbers that can be counted from 0 or from 1.
    """
    answers = next((pair for pair in ANSWER_PAIRS if pair[0] in names and pair[1] in names), None)
    if answers is None:
        return None
    winner = next((name for name in WINNERS if name in names), None)
    signed = next((name for name in SIGNED if name in names), None)
    if winner is not None:
        numbers = {n for row in rows if (n := _number(row.get(winner))) is not None and not math.isnan(n)}
        return WinnerColumns(answers, winner, None, _base(numbers, answers, winner))
    if signed is not None or set(FLAGS) <= names:
        return WinnerColumns(answers, None, signed, None)
    return None


def _base(numbers: set[float], answers: tuple[str, str], winner: str) -> int | None:
    """Return the number of the first answer: that of its column, if the winners agree with it."""
    if not numbers:
        return None
    written = answers[0][-1]
    if written in "01" and numbers <= {int(written), int(written) + 1}:
        return int(written)
    for base in (0, 1) if written == "a" else ():
        if {float(base), base + 1.0} >= numbers and numbers != {1.0}:
            return base
    raise DataError(
        f"'{winner}' holds the numbers {short(sorted(numbers)[:6])}, which do not say where counting starts",
        fix=f"write 'a' for '{answers[0]}', 'b' for '{answers[1]}' and 'tie'",
    )


def winner_of(row: Row, found: WinnerColumns) -> tuple[Winner | None, float | None]:
    """Return the side that won (None for a tie or where nothing is said), and how clearly, if the row says so.

    Args:
        row: Columns of the row.
        found: Where the file says who won.

    Raises:
        DataError: The column has a value that names neither answer.
    """
    if found.signed is not None:
        return _signed(row, found.signed)
    if found.winner is None:
        first, second = (bool(_number(row.get(name)) or row.get(name) is True) for name in FLAGS)
        return (None if first == second else "first" if first else "second"), None
    value = row.get(found.winner)
    number = _number(value)
    if value is None or value == "" or (number is not None and math.isnan(number)):
        return None, None
    if number is not None and found.base is not None:
        return ("first" if number == found.base else "second"), None
    side = _named(str(value), row)
    if side is None:
        raise DataError(
            f"'{found.winner}' is {short(value)}, which names neither answer",
            fix=f"write 'a' for '{found.answers[0]}', 'b' for '{found.answers[1]}' or 'tie'",
        )
    return (None if side == "tie" else side), None


def is_unlabelled(row: Row, found: WinnerColumns) -> bool:
    """Return whether a row that names no winner has no label at all, and so is not a tie.

    Args:
        row: Columns of the row.
        found: Where the file says who won.
    """
    columns: Iterable[str] = [name for name in (found.winner, found.signed) if name is not None] or FLAGS
    return all((value := row.get(name)) is None or value == "" or value != value for name in columns)


def _signed(row: Row, name: str) -> tuple[Winner | None, float | None]:
    value = row.get(name)
    number = _number(value)
    if number is None and value is not None:
        raise DataError(
            f"'{name}' is {short(value)}, not a number", fix="write a number below 0 where the first answer is better"
        )
    if not number or math.isnan(number):
        return None, None
    return ("first" if number < 0 else "second"), abs(number)


def _named(value: str, row: Row) -> Winner | Literal["tie"] | None:
    """Return the side that a text names; None if it names neither."""
    models = row.get("model_a"), row.get("model_b")
    if value in models and models[0] != models[1]:
        return "first" if value == models[0] else "second"
    text = " ".join(value.casefold().replace("_", " ").split()).strip("[]().:! ")
    if text in _TIES or text.startswith("tie "):
        return "tie"
    return _WORDS.get(_LEAD.sub("", text, count=1).strip() if _LEAD.match(text) else text)


def _number(value: object) -> float | None:
    if is_number(value):
        return float(value)
    if isinstance(value, str) and re.fullmatch(r"\s*-?\d+(\.0*)?\s*", value):
        return float(value)
    return None
