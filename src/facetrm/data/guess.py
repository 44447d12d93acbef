"""Guess objectives from observed ratings: their scale, kind and direction. Each guess says what it rests on."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

from facetrm.data.objectives import Direction, Objective, RatingKind
from facetrm.data.read.columns import is_no_rating
from facetrm.data.read.files import FileRead
from facetrm.data.records import Rating

_WHOLE_SCALES: Final = ((0, 4), (1, 5), (0, 5), (1, 7), (0, 10), (1, 10), (-1, 1), (-2, 2), (-3, 3), (0, 100), (1, 100))
_OPEN_SCALES: Final = ((0, 1), (-1, 1), (0, 4), (1, 5), (0, 5), (1, 7), (1, 10), (0, 10), (-3, 3), (0, 100))
_WORSE: Final = re.compile(
    r"toxic|harmful|harmfulness|hallucinat|offensi|unsafe|insult|threat|profan|obscen|error|mistake|bias|spam|(?:^|[^a-z])rude"
    r"|incorrect|irrelevan|incoheren|repetit|violat",
    re.IGNORECASE,
)
_BETTER: Final = re.compile(r"harmless|non[_ -]?toxic|unbiased|no[_ -]|free|error[_ -]?less|avoid", re.IGNORECASE)
_UNCLEAR: Final = re.compile(r"refus|verbos|complex|length|style|formal|sentiment|difficult", re.IGNORECASE)


@final
@dataclass(frozen=True)
class GuessedObjective:
    """An objective, guessed from its ratings.

    Attributes:
        objective: The objective; ``length`` is also the name of facetrm's own expert.
        rows: Number of its ratings.
        low: Lowest rating.
        high: Highest rating.
        levels: Number of distinct ratings.
        unclear: Whether its direction could not be guessed.
    """

    objective: Objective
    rows: int
    low: float
    high: float
    levels: int
    unclear: bool

    @property
    def basis(self) -> str:
        """What the guess rests on, in words."""
        if self.levels == 1:
            return f"all {self.rows} ratings are {self.low:g}"
        return f"{self.rows} ratings from {self.low:g} to {self.high:g}, {self.levels} distinct"


def guess_objectives(files: Sequence[FileRead[Rating]]) -> tuple[list[GuessedObjective], list[str]]:
    """Return an objective for every rated quality, and the columns of numbers that do not look like ratings.

    A column is not taken if its name is that of an id, a count, a date or a length. Objectives that the rows name
    themselves (``ratings: {...}``) are all taken.

    Args:
        files: Files of ratings, read without declared objectives.
    """
    values: dict[str, list[float]] = {}
    for file in files:
        for record in file.records:
            for name, value in record.ratings.items():
                values.setdefault(name, []).append(value)
    columns = {name for file in files for name in file.attributes}
    others = sorted(name for name in columns if is_no_rating(name) and name in values)
    return [_guess(name, found) for name, found in values.items() if name not in others], others


def _guess(name: str, values: Sequence[float]) -> GuessedObjective:
    distinct = set(values)
    low, high = min(distinct), max(distinct)
    kind, ends = _scale(distinct, low, high)
    direction = guess_direction(name)
    objective = Objective(name=name, low=ends[0], high=ends[1], kind=kind, direction=direction)
    return GuessedObjective(objective, len(values), low, high, len(distinct), direction == "unknown")


def guess_direction(name: str) -> Direction:
    """Return which end of a scale is better, judged by the name of the objective alone.

    Args:
        name: Name of the objective.
    """
    if _UNCLEAR.search(name):
        return "unknown"
    return "lower" if _WORSE.search(name) and not _BETTER.search(name) else "higher"


def _scale(distinct: set[float], low: float, high: float) -> tuple[RatingKind, tuple[float, float]]:
    """Return the kind of the ratings and the narrowest common scale that holds them; else the observed range."""
    if distinct <= {0.0, 1.0}:
        return "boolean", (0.0, 1.0)
    whole = all(value == int(value) for value in distinct)
    fitting = [s for s in (_WHOLE_SCALES if whole else _OPEN_SCALES) if s[0] <= low and high <= s[1]]
    if fitting:
        start, end = min(fitting, key=lambda scale: scale[1] - scale[0])
        return ("integer" if whole else "continuous"), (float(start), float(end))
    if low == high:
        return "continuous", (min(low, 0.0), max(high, 0.0))
    return ("integer" if whole and high - low <= 100 else "continuous"), (low, high)


def objectives_text(guessed: Sequence[GuessedObjective], *, files: Sequence[str]) -> str:
    """Return the YAML text of guessed objectives, with what each guess rests on.

    Args:
        guessed: The objectives.
        files: Files that they were guessed from.
    """
    lines = [
        f"# Guessed by facetrm from {', '.join(map(_quoted, files))}.",
        "# Check low, high, kind and direction, and say in 'meaning' what is rated.",
        "# low and high are the ends of the scale that raters used, not the ratings that happen to occur.",
        "# direction: higher or lower is better; unknown is reported, but gets no weight.",
    ]
    for guess in guessed:
        one = guess.objective
        lines += [
            f"- name: {_quoted(one.name)}",
            f"  low: {one.low:.15g}  # a guess: {guess.basis}",
            f"  high: {one.high:.15g}",
            f"  kind: {one.kind}",
            f"  direction: {one.direction}  # a guess from the name",
            f"  meaning: {_quoted('')}",
        ]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return json.dumps(text)  # every JSON string is one of YAML
