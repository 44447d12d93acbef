"""The user's files, read before anything is trained: their records, and the objectives, declared or guessed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from facetrm.core.errors import DataError
from facetrm.data.guess import GuessedObjective, guess_objectives
from facetrm.data.objectives import Objective
from facetrm.data.pack import read_objectives
from facetrm.data.read.conventions import CONVENTIONS, RecordKind
from facetrm.data.read.files import FileRead, OnError, read_preference_file, read_rating_file
from facetrm.data.read.foreign import find_foreign
from facetrm.data.read.rows import read_rows
from facetrm.data.records import Preference, Rating

_MISSING: Final = {
    "rating": (
        "no rated rows, and heads are fitted on ratings",
        "add --ratings FILE: rows of one answer each with its ratings, such as prompt, response and one column of "
        "numbers per quality",
    ),
    "preference": (
        "no preferences, and the gate that weighs the objectives is fitted on them",
        "add --pairs FILE: rows such as prompt, chosen and rejected, or question, response_a, response_b and winner",
    ),
}


@dataclass(frozen=True)
class OwnData:
    """Ratings and preferences of a user.

    Attributes:
        ratings: Files of ratings.
        pairs: Files of preferences.
        objectives: The objectives.
        guessed: The guesses behind them; empty if they were declared.
        not_taken: Columns of numbers that do not look like ratings.
        borrowed: What files of the other kind serve as well, in one sentence; empty if both kinds were given.
    """

    ratings: tuple[FileRead[Rating], ...]
    pairs: tuple[FileRead[Preference], ...]
    objectives: tuple[Objective, ...]
    guessed: tuple[GuessedObjective, ...] = ()
    not_taken: tuple[str, ...] = ()
    borrowed: str = ""

    @property
    def rated(self) -> list[Rating]:
        """All ratings, in the order of the files."""
        return [record for file in self.ratings for record in file.records]

    @property
    def preferences(self) -> list[Preference]:
        """All preferences, in the order of the files."""
        return [record for file in self.pairs for record in file.records]

    @property
    def left_out(self) -> Counter[str]:
        """Number of rows, or parts of rows, without a usable label, by reason."""
        return sum((*(f.left_out for f in self.ratings), *(f.left_out for f in self.pairs)), Counter())


def find_files(ratings: Sequence[Path], pairs: Sequence[Path]) -> tuple[list[Path], list[Path], str]:
    """Return the files of ratings and of preferences; a file that holds both serves as both if one kind is missing.

    Args:
        ratings: Files given as ratings.
        pairs: Files given as preferences.

    Returns:
        Files of ratings, files of preferences, and a sentence about files that serve as both.

    Raises:
        DataError: Neither or only one kind was given, and no file holds both.
    """
    found: dict[RecordKind, list[Path]] = {"rating": list(ratings), "preference": list(pairs)}
    if not ratings and not pairs:
        raise DataError("no files", place="--ratings and --pairs", fix="give --ratings FILE and --pairs FILE")
    missing: RecordKind = "preference" if ratings else "rating"
    if found[missing]:
        return list(ratings), list(pairs), ""
    given = ratings or pairs
    also = [path for path in given if _holds(path, missing)]
    if not also:
        problem, fix = _MISSING[missing]
        raise DataError(problem, place="--pairs" if ratings else "--ratings", fix=fix)
    found[missing] = also
    what = "preferences: pairs of answers whose scores differ" if ratings else "ratings: the scores of both answers"
    return found["rating"], found["preference"], f"{', '.join(map(str, also))} also gives the {what}"


def _holds(path: Path, kind: RecordKind) -> bool:
    """Return whether the columns of a file hold scores and an order of answers, and so both kinds of records."""
    rows = [row.value for row in read_rows(path) if row.value is not None]
    names = frozenset(key for row in rows for key in row)
    if kind == "rating":
        found = find_foreign(rows, "rating")
        return found is not None and found.name.startswith("scored")
    scored = find_foreign(rows, "rating")
    ordered = find_foreign(rows, "preference") is not None
    ordered |= any(c.kind == "preference" and c.required <= names for c in CONVENTIONS)
    return scored is not None and scored.name.startswith("scored") and ordered


def read_own_data(
    ratings: Sequence[Path],
    pairs: Sequence[Path],
    *,
    objectives: Path | None = None,
    on_error: OnError = "raise",
    skipped_to: str | None = None,
    borrowed: str = "",
) -> OwnData:
    """Read the user's files, and guess objectives unless they are declared.

    Args:
        ratings: Files of ratings.
        pairs: Files of preferences.
        objectives: YAML file of objectives; None to guess them.
        on_error: Whether to stop at a bad row, or to skip and count it.
        skipped_to: Folder of the side files of skipped rows; None for the folder of each file.
        borrowed: Sentence about files that serve as both kinds.

    Raises:
        DataError: A file is missing or empty, follows no known convention, or has a bad row.
    """
    declared = None if objectives is None else read_objectives(objectives)
    skipping: dict[str, OnError | str | None] = {"on_error": on_error, "skipped_to": skipped_to}
    rated = [read_rating_file(path, objectives=declared, **skipping) for path in ratings]  # type: ignore[arg-type]
    paired = [read_preference_file(path, **skipping) for path in pairs]  # type: ignore[arg-type]
    empty = [f.path for f in rated if not f.records] + [f.path for f in paired if not f.records]
    if empty:
        raise DataError("no rows", place=empty[0], fix="give a file with at least one row")
    if declared is not None:
        return OwnData(tuple(rated), tuple(paired), tuple(declared), borrowed=borrowed)
    guessed, others = guess_objectives(rated)
    if not guessed:
        names = f" (columns of numbers that look like ids or counts: {', '.join(others)})" if others else ""
        raise DataError(
            f"no objective: no row has a rating{names}",
            place=", ".join(map(str, ratings)),
            fix="give each quality a column of numbers, or declare the objectives and give --objectives",
        )
    named = tuple(guess.objective for guess in guessed)
    return OwnData(tuple(rated), tuple(paired), named, tuple(guessed), tuple(others), borrowed)
