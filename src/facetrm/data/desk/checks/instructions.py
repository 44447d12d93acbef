"""Checker of instructions: the share of a prompt's constraints that an answer keeps."""

from __future__ import annotations

import re
from typing import Final

from facetrm.data.desk.forms import Request
from facetrm.data.desk.numbers import numbers_in
from facetrm.data.desk.tasks.formats import constraints_of

_FORMAL_END: Final = re.compile(
    r"\b(?:yours (?:sincerely|truly)|sincerely(?: yours)?|(?:kind|best|warm) regards|regards)\b", re.IGNORECASE
)
_CASUAL: Final = re.compile(r"\b(?:hey|hiya|cheers|see ya|bye|lol|gonna|wanna)\b", re.IGNORECASE)
_STIFF: Final = re.compile(
    r"\b(?:dear sir|to whom it may concern|yours (?:faithfully|sincerely|truly)|respectfully|i hereby|esteemed)\b",
    re.IGNORECASE,
)


def check_instructions(request: Request, text: str) -> float:
    """Return twice the share of the constraints that are kept: 2 if all are."""
    if request.task == "mail":
        kept = [
            _mentions_time(text, request["time"]),
            _mentions(text, request["thing"]),
            _tone(request, text),
            _signed(text, request["sender"]),
        ]
    else:
        kept = [constraint.kept(text, request.values) for constraint in constraints_of(request)]
    return 2.0 * sum(kept) / len(kept)


def _plain(text: str) -> str:
    return " ".join(text.replace("’", "'").lower().split())


def _mentions(text: str, thing: str) -> bool:
    """Return whether a thing is named; the article before it may differ."""
    bare = re.sub(r"^(?:the|a|an|my)\s+", "", thing.lower())
    return re.search(rf"\b{re.escape(bare)}\b", _plain(text)) is not None


def _mentions_time(text: str, time: str) -> bool:
    """Return whether a day and an hour are named together, the hour in words or digits."""
    day, hour = time.split(" at ")
    plain = _plain(text)
    if hour == "noon":
        hours = r"noon|midday|12(?::00|\.00)?(?: ?p\.?m\.?| o'clock)?"
    elif hour == "half past six":
        hours = r"half past (?:six|6)|(?:6|18)[:.]30|six[- ]thirty"
    else:
        word = hour.split()[0]
        number = int(numbers_in(word)[0].value)
        either = rf"{number}|{number + 12}" if number < 8 else str(number)
        hours = rf"{word}(?: o'clock)?|(?:{either})(?::00|\.00)?(?![:.\d])"
    gap = r"(?:\s*,)?(?:\s+(?:at|around|the|morning|afternoon|evening|\d+(?:st|nd|rd|th)?|of|next|this|from))*\s+"
    return (
        re.search(
            rf"\b{day.lower()}{gap}(?:{hours})\b|\b(?:{hours})(?:\s*[ap]\.?m\.?)?(?:\s+(?:on|next|this))+\s+{day.lower()}\b",
            plain,
        )
        is not None
    )


def _tone(request: Request, text: str) -> bool:
    """Return whether greeting and ending have the tone that was asked for, and name the reader."""
    lines = [line.strip() for line in text.replace("’", "'").splitlines() if line.strip()]
    lines = [line for line in lines if not re.match(r"(?:\*\*)?subject\b", line, re.IGNORECASE)]
    reader = request["reader"]
    greeting = next(
        (
            line
            for line in lines[:4]
            if re.match(r"(?:dear|hi|hello|hey|good (?:morning|afternoon|evening))\b", line, re.IGNORECASE)
        ),
        "",
    )
    surname = reader.split()[-1]
    if surname not in greeting:
        return False
    if request.form.kind == "formal":
        title = reader.split()[0]
        formal = re.match(rf"(?:dear|good (?:morning|afternoon|evening),?) {title}", greeting, re.IGNORECASE)
        return bool(formal) and bool(_FORMAL_END.search(" ".join(lines[-3:]))) and not _CASUAL.search(text)
    return not _STIFF.search(text)


def _signed(text: str, sender: str) -> bool:
    """Return whether the last line, or the one before it, is the sender's name."""
    lines = [line.strip(" *,.-–—_") for line in text.splitlines() if line.strip(" *,.-–—_")]
    return any(line == sender or re.fullmatch(rf"(?:[\w ]+, ){re.escape(sender)}", line) for line in lines[-1:])
