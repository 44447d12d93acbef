"""Checkers of how an answer is put: courtesy, fluency and padding."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from typing import Final

from facetrm.data.desk.forms import Request
from facetrm.data.desk.manner import PADDING, broken_places
from facetrm.data.desk.sentences import items_in, sentences_in, without_code, words_in

_RUDE: Final = re.compile(
    r"\b(?:stupid(?:ity)? ?(?:question|idea|excuse|request|thing to ask|of you|person|people)?s?|idiots?"
    r"|idiotic|morons?|shut up|wast(?:e|ing) (?:of )?my time"
    r"|could(?:n't| not) care less|stop (?:bothering|annoying)|annoy (?:somebody|someone) else|get lost|pathetic"
    r"|(?:sick|tired) of you\w*|thanks for nothing|none of your business|what(?:'s| is) wrong with you|who cares"
    r"|(?:you|you're|are|too|so|weren't) (?:\w+ )?(?:dumb|lazy|ignorant|foolish|thick)|laziest person|such "
    r"nonsense|go away|do your own homework)\b",
    re.IGNORECASE,
)
_NOT_RUDE: Final = re.compile(
    r"\b(?:not|never|no|nothing|isn't|aren't|wasn't|n't call|without being)\b(?:\W+\w+){0,5}\W*$"
    r"|n't\b(?:\W+\w+){0,3}\W*$",
    re.IGNORECASE,
)
_ABSOLUTE: Final = re.compile(r"care less|wast|bother|business|weren't|get lost|nothing", re.IGNORECASE)
_WARM: Final = re.compile(
    r"\b(?:(?<!no )thank you|(?<!no )(?<!o )thanks(?! for nothing| to\b)|many thanks|glad|happy to (?:help"
    r"|answer|assist|explain)|pleasure|delighted"
    r"|hope (?:that |this |it )?(?:that |this |it )?(?:helps|is (?:of )?help\w*)|hope (?:that )?you (?:are|have"
    r"|will|enjoy|find)|wish you|please (?:let me know|feel free|do ask|don't hesitate)"
    r"|feel free to ask|let me know if|(?:do not|don't) hesitate|you(?:'re| are) (?:very )?welcome|have a "
    r"(?:\w+ )?(?:day|evening|time|weekend)|(?:good|great|excellent|lovely) question"
    r"|grateful|kind of you|appreciate)\b",
    re.IGNORECASE,
)
_COLD: Final = re.compile(r"\b(?:not|never|won't|no|n't)\b(?:\W+\w+){0,2}\W*$|n't(?:\W+\w+){0,2}\W*$", re.IGNORECASE)
_LEGIT_DOUBLES: Final = frozenset(
    [
        "had",
        "that",
        "very",
        "no",
        "so",
        "ha",
        "ho",
        "bye",
        "really",
        "many",
        "blah",
        "more",
        "knock",
        "yo",
        "night",
        "there",
        "far",
    ]
)
_DANGLING: Final = frozenset(
    [
        "the",
        "a",
        "an",
        "of",
        "to",
        "and",
        "or",
        "but",
        "with",
        "for",
        "in",
        "on",
        "at",
        "from",
        "is",
        "are",
        "was",
        "were",
        "your",
        "my",
        "our",
        "his",
        "their",
        "because",
        "that",
        "which",
        "who",
        "if",
        "as",
        "by",
        "than",
    ]
)
_ASIDE: Final = re.compile(r"\"[^\"\n]*\"|“[^”\n]*”")


def check_courteous(request: Request, text: str) -> float:
    """Return 2 for a warm answer, 1 for a neutral one, 0 for a rude one."""
    plain = _ASIDE.sub('""', without_code(text).replace("’", "'"))
    warm = False
    for sentence in sentences_in(plain):
        for match in _RUDE.finditer(sentence):
            if not _NOT_RUDE.search(sentence[: match.start()]) or _ABSOLUTE.search(match[0]):
                return 0.0
        warm = warm or any(
            not _COLD.search(sentence[: m.start()]) or "hesitate" in m[0] for m in _WARM.finditer(sentence)
        )
    return 2.0 if warm else 1.0


def check_fluent(request: Request, text: str) -> float:
    """Return 2 minus the number of kinds of faults (garbled, repeated, cut off), at least 0."""
    return float(max(0, 2 - is_garbled(text) - is_repeated(text) - is_cut_off(text)))


def is_garbled(text: str) -> bool:
    """Return whether words stand in an impossible order, twice in a row, or are no words at all."""
    for sentence in sentences_in(without_code(text)):
        for clause in re.split(r"[,;:()\"“”—–]|--|/|\.\.\.|…", sentence):
            words = [word.lower() for word in _bare(clause)]
            last = (
                words[-1:] if clause is sentence or sentence.rstrip(".!?\"'").endswith(clause.rstrip(".!?\"'")) else []
            )
            ends_open = not sentence.rstrip().endswith((".", "!", "?")) or not last
            if broken_places([*words, "."] if ends_open else words):
                return True
            if any(
                a == b and a.isalpha() and len(a) > 1 and a not in _LEGIT_DOUBLES for a, b in itertools.pairwise(words)
            ):
                return True
            if any(re.fullmatch(r"[b-df-hj-np-tv-xz]{5,}", word) for word in words):
                return True
    return "�" in text


def _bare(clause: str) -> list[str]:
    """Return the words of a clause; a capital "A" inside it is a name ("vitamin A"), not an article."""
    words = re.findall(r"[^\W_]+(?:['’\-][^\W_]+)*", clause)
    upper = clause.upper() == clause
    return [f"{w}." if w == "A" and i and not upper else w.replace("’", "'") for i, w in enumerate(words)]


def is_repeated(text: str) -> bool:
    """Return whether a sentence of three words or more occurs twice, padding phrases left aside."""
    said = Counter(" ".join(words_in(_without_padding(s))) for s in sentences_in(_values(without_code(text))))
    return any(count > 1 and len(sentence.split()) >= 3 for sentence, count in said.items())


def is_cut_off(text: str) -> bool:
    """Return whether a text stops in the middle of a sentence, a word or a block of code."""
    if text.count("```") % 2:
        return True
    line = text.rstrip().splitlines()[-1].strip() if text.strip() else ""
    words = words_in(line)
    if not words or line.endswith(("```", "}", "]", ".", "!", "?", "…", ":", '."', '!"', '?"', ".”", ".)", "*")):
        return line.endswith("...") and not words
    item = bool(items_in(line, "bullet") or items_in(line, "numbered"))
    if words[-1] in _DANGLING or line.endswith((",", "-", "(")):
        return len(words) > 1 and not (len(words) < 4 and line.endswith(","))
    return len(words) >= 5 and not item


def _values(text: str) -> str:
    """Break the values of JSON into lines, so that their sentences are seen."""
    return re.sub(r"\"\s*[:,]\s*\"|[{}]", "\n", text) if text.lstrip().startswith("{") else text


def _without_padding(sentence: str) -> str:
    return _PADDING.sub("", sentence)


_PADDING: Final = re.compile(
    r"\b(?:"
    + "|".join(
        (
            *PADDING,
            "it goes without saying(?: that)?",
            r"it is (?:worth noting|important to note) that",
            "that being said",
        )
    )
    + r")\b,?",
    re.IGNORECASE,
)


def count_padding(text: str) -> int:
    """Return the number of padding phrases, such as "needless to say"."""
    plain = _ASIDE.sub('""', without_code(text)) if not text.lstrip().startswith("{") else text
    return len(_PADDING.findall(plain))
