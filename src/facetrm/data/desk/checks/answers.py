"""Checkers of what an answer says: the right answer, and the working of a sum."""

from __future__ import annotations

import re
from functools import cache
from typing import Final

from facetrm.data.desk.checks.mentions import number_given, says, statements_in
from facetrm.data.desk.facts import FactKind
from facetrm.data.desk.forms import Request
from facetrm.data.desk.numbers import numbers_in
from facetrm.data.desk.tasks.questions import fact_of, names_of
from facetrm.data.desk.tasks.sums import operands, result

_NUMERIC: Final = frozenset(("year", "count", "unit"))
_OPERATORS: Final = {
    "plus": r"\+|\bplus\b|\badd\w*|\bsum\b|\btogether\b",
    "minus": r"\s[-−–]\s*\w|\d[-−–]\d|\bminus\b|\bsubtract\w*|\btak(?:e|es|ing)\b.*\b(?:away|from)\b|\bless\b|\bfrom\b",
    "times": r"\s[x×*·]\s*\w|\d[x×*·]\d|\btimes\b|\bmultipl\w*|\bproduct\b",
    "share": r"\s[/÷:]\s*\w|\d[/÷:]\d|\bdivid\w*|\bover\b",
}


def check_correct(request: Request, text: str) -> float:
    """Return 1 if the right answer of a sum or a question is given, else 0."""
    if request.task == "sums":
        return float(number_given(text, right=result(request), given=operands(request)))
    kind, subject, right = fact_of(request)
    if kind.name in _NUMERIC:
        given = [f.value for f in numbers_in(subject)]
        span = {"least": 1000.0, "most": 2100.0} if kind.name == "year" else {}
        return float(number_given(text, right=float(right), given=given, **span))
    patterns = _patterns(kind)
    wrong = [p for answer, found in patterns.items() if answer != right for p in found]
    return float(says(text, patterns[right], wrong))


@cache
def _patterns(kind: FactKind) -> dict[str, tuple[re.Pattern[str], ...]]:
    return {answer: tuple(_pattern(kind, name) for name in names_of(kind, answer)) for answer in kind.answers}


def _pattern(kind: FactKind, name: str) -> re.Pattern[str]:
    if kind.name == "chemical symbol":
        # "He" and "I" are words as well: a symbol stands in quotes, after "is" or alone.
        return re.compile(
            rf"(?:(?<=[\"'“‘(*`])|(?<=\bis )|(?<=\bbe )|(?<=: )|(?<=\bsymbol )|^\W*){name}(?=$|[\"'”’)*`.,!;]"
            rf"|\s+(?:is|for|in)\b)"
        )
    plural = "" if name[:1].isupper() else "(?:e?s)?"
    return re.compile(rf"(?<!\w){re.escape(name)}{plural}(?!\w)", 0 if name[:1].isupper() else re.IGNORECASE)


def check_working(request: Request, text: str) -> float:
    """Return 1 if the calculation of a sum is shown, right or wrong: its numbers and the operation in one sentence."""
    numbers = operands(request)
    if request.form.kind == "steps":
        a, b, c = numbers
        adds = _shows(text, "plus", (a, b)) and _shows(text, "minus", (c,))
        return float(adds)
    return float(_shows(text, request.form.kind, numbers))


def _shows(text: str, operation: str, numbers: tuple[int, ...]) -> bool:
    for statement in statements_in(text):
        found = [f.value for f in numbers_in(statement)]
        if all(found.count(n) >= numbers.count(n) for n in numbers) and re.search(
            _OPERATORS[operation], statement, re.IGNORECASE
        ):
            return True
    return False
