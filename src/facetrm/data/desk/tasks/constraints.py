"""Constraints on the form of a text: how a prompt states one, and whether a text keeps it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from facetrm.data.desk.numbers import in_words, numbers_in
from facetrm.data.desk.sentences import items_in, sentences_in, words_in

COUNTS: Final = tuple(in_words(n) for n in (4, 5, 6))
LIMITS: Final = ("55", "60")
REQUIRED: Final = (
    *("lantern", "harbour", "copper", "blanket", "ribbon", "whistle", "compass", "kettle", "feather", "ladder"),
    *("pepper", "anchor", "velvet", "marble", "basket"),
)
AVOIDED: Final = ("beautiful", "really", "wonderful", "amazing", "lovely", "very")
ENDINGS: Final = ("That is all for today.", "Try it yourself.", "What more could you want?", "I could say more.")
KEYS: Final = ("title", "text", "summary", "headline", "detail", "note")

Kept = Callable[[str, Mapping[str, str]], bool]


@dataclass(frozen=True)
class Constraint:
    """One constraint on a text.

    Attributes:
        name: Name of the constraint.
        texts: How a prompt states it, with ``{blanks}``.
        kept: Function (text, blanks) that says whether a text keeps it.
        pools: What each blank may hold.
    """

    name: str
    texts: tuple[str, ...]
    kept: Kept
    pools: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)


def _count(values: Mapping[str, str]) -> int:
    return int(numbers_in(values["count"])[0].value)


def _has_word(text: str, word: str) -> bool:
    return re.search(rf"\b{re.escape(word)}s?\b", text, re.IGNORECASE) is not None


def json_object(text: str) -> dict[str, object] | None:
    """Return the JSON object that is the whole text, a code fence around it allowed; None where there is none."""
    fenced = re.fullmatch(r"\s*```(?:json)?\s*\n(.*?)\n?\s*```\s*", text, re.DOTALL)
    try:
        found = json.loads(fenced[1] if fenced else text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _letters(text: str) -> str:
    return "".join(c for c in text if c.isalpha())


SHAPES: Final = (
    Constraint(
        "sentences",
        ("Use exactly {count} sentences.", "It should have {count} sentences, no more and no less."),
        lambda text, v: len(sentences_in(text)) == _count(v),
        {"count": COUNTS},
    ),
    Constraint(
        "words",
        ("Do not use more than {limit} words.", "Keep it to {limit} words at most."),
        lambda text, v: 0 < len(words_in(text)) <= int(v["limit"]),
        {"limit": LIMITS},
    ),
    Constraint(
        "bullets",
        ("Give me a list of {count} bullet points.", "Put it into {count} bullet points."),
        lambda text, v: len(items_in(text, "bullet")) == _count(v),
        {"count": COUNTS},
    ),
    Constraint(
        "numbered",
        ("Write it as a numbered list with {count} items.", "Make it a numbered list of {count} points."),
        lambda text, v: len(items_in(text, "numbered")) == _count(v),
        {"count": COUNTS},
    ),
    Constraint(
        "json",
        (
            'Answer with a JSON object that has the keys "{key}" and "{other}", and nothing else.',
            'Return only JSON with exactly two keys, "{key}" and "{other}".',
        ),
        lambda text, v: (found := json_object(text)) is not None and set(found) == {v["key"], v["other"]},
        {"key": KEYS, "other": KEYS},
    ),
)
USE: Final = Constraint(
    "use",
    ('Use the word "{word}" somewhere.', 'The word "{word}" has to appear in it.'),
    lambda text, v: _has_word(text, v["word"]),
    {"word": REQUIRED},
)
AVOID: Final = Constraint(
    "avoid",
    ('Do not use the word "{banned}".', 'The word "{banned}" must not appear in it.'),
    lambda text, v: not _has_word(text, v["banned"]),
    {"banned": AVOIDED},
)
LOWER: Final = Constraint(
    "lower",
    ("Write everything in lower case.", "Do not use any capital letters."),
    lambda text, v: bool(_letters(text)) and _letters(text) == _letters(text).lower(),
)
UPPER: Final = Constraint(
    "upper",
    ("Write everything in capital letters.", "USE CAPITAL LETTERS ONLY."),
    lambda text, v: bool(_letters(text)) and _letters(text) == _letters(text).upper(),
)
ENDING: Final = Constraint(
    "ending",
    ('End with the sentence "{ending}"', 'The last sentence must be "{ending}"'),
    lambda text, v: text.rstrip().rstrip('"”').lower().endswith(v["ending"].lower()),
    {"ending": ENDINGS},
)
WORDINGS: Final = (USE, AVOID, LOWER, UPPER, ENDING)
BY_NAME: Final = {constraint.name: constraint for constraint in (*SHAPES, *WORDINGS)}
