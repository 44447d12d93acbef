"""Whole numbers in words and digits."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_SMALL: Final = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS: Final = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_UNITS: Final = {word: value for value, word in enumerate(_SMALL)} | {
    word: 10 * value for value, word in enumerate(_TENS, start=2)
}
_SCALES: Final = {"hundred": 100, "thousand": 1000, "million": 1_000_000}
_WORD: Final = "|".join(sorted((*_UNITS, *_SCALES), key=len, reverse=True))
_NUMBER: Final = re.compile(
    rf"(?<![\w.])(?P<digits>-?\d{{1,3}}(?:,\d{{3}})+(?![\d])(?:\.\d+)?|-?\d+(?:\.\d+)?)(?!\w*[A-Za-z_]\w*\()"
    rf"|\b(?P<words>(?:a (?=hundred|thousand|million))?(?:{_WORD})(?:(?:[ -]|,? and )(?:{_WORD}))*)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Found:
    """A number in a text: its value and where it stands."""

    value: float
    start: int
    end: int


def in_words(number: int) -> str:
    """Return a whole number from 0 to 999,999 in words.

    Example:
        >>> in_words(342)
        'three hundred and forty-two'
    """
    if number < 20:
        return _SMALL[number]
    if number < 100:
        tens, rest = divmod(number, 10)
        return _TENS[tens - 2] + (f"-{_SMALL[rest]}" if rest else "")
    if number < 1000:
        hundreds, rest = divmod(number, 100)
        return f"{_SMALL[hundreds]} hundred" + (f" and {in_words(rest)}" if rest else "")
    thousands, rest = divmod(number, 1000)
    joint = " and " if rest < 100 else " "
    return f"{in_words(thousands)} thousand" + (f"{joint}{in_words(rest)}" if rest else "")


def numbers_in(text: str) -> list[Found]:
    """Return the numbers of a text, in order.

    Example:
        >>> [found.value for found in numbers_in("Twenty-one of 1,200 apples, or 3.5 kg")]
        [21.0, 1200.0, 3.5]
    """
    found = []
    for match in _NUMBER.finditer(text):
        if match["digits"]:
            found.append(Found(float(match["digits"].replace(",", "")), match.start(), match.end()))
        else:
            found += _of_words(match)
    return found


def _of_words(match: re.Match[str]) -> list[Found]:
    """Read a run of number words; a run such as "two three" is several numbers."""
    found: list[Found] = []
    total = current = 0
    start = end = -1
    last = 10**9
    for word in re.finditer(r"[a-z]+", match["words"].lower()):
        name = word[0]
        if name in {"and", "a"}:
            if name == "a":
                current, start, last = 1, match.start() + word.start(), 1
            continue
        if name in _SCALES:
            scale = _SCALES[name]
            current = max(current, 1) * scale
            if scale >= 1000:
                total, current = total + current, 0
            last = scale
        else:
            value = _UNITS[name]
            joins = (
                start < 0 or (last >= 100 and value < 100) or (20 <= last < 100 and last % 10 == 0 and 0 < value < 10)
            )
            if not joins:
                found.append(Found(float(total + current), start, end))
                total = current = 0
                start = -1
            current += value
            last = value
        if start < 0:
            start = match.start() + word.start()
        end = match.start() + word.end()
    found.append(Found(float(total + current), start, end))
    return found
