"""What a text asserts: names and numbers that it neither denies, nor quotes, nor asks about."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Final

from facetrm.data.desk.numbers import Found, numbers_in
from facetrm.data.desk.sentences import sentences_in

_QUOTING: Final = re.compile(
    r"^\W*(?:so,? |hi,? |ok(?:ay)?,? |well,? )?(?:you (?:asked|ask|want(?:ed)? to know|wonder(?:ed)?|are asking"
    r"|were asking|wrote)|you're asking"
    r"|your question|the question (?:is|was)|(?:my )?question:|q:)",
    re.IGNORECASE,
)
_DENIED_BEFORE: Final = re.compile(
    r"(?:\bnot|n't|\bnever|\brather than|\binstead of|\bunlike|\bno longer|\bconfused? (?:it |this |that )?with"
    r"|\bmistake\w* (?:it )?for"
    r"|\bneither|\blooks? like|\bsimilar to|\bnor"
    r"|\b(?:people|some|many|others) (?:often |sometimes |wrongly |still )?(?:think|believe|say"
    r"|assume|guess)"
    r"|\bused to be|\bwas once|\bwrong answers? (?:would be|is|are))\W*(?:\w+\W+){0,4}?$",
    re.IGNORECASE,
)
_DENIED_AFTER: Final = re.compile(
    r"^\W{0,3}(?:(?:is|are|was|were|would be)(?:n't| not)\b|(?:is|are|was|would be) (?:wrong|incorrect|false|a "
    r"(?:common )?(?:mistake|myth|misconception))"
    r"|\?)",
    re.IGNORECASE,
)
_CORRECTION: Final = re.compile(
    r"\b(?:sorry|correction|actually|wait|i mean|i meant|no,|rather|let me correct)", re.IGNORECASE
)
_CLAUSE: Final = re.compile(r"[;:]|,? \bbut\b|,? \balthough\b|,? \bbecause\b|, (?=it|the|that|this|he|she)")


def statements_in(text: str) -> list[str]:
    """Return the sentences of a text that state something: no questions, and none that repeats what was asked."""
    return [s for s in sentences_in(text) if not s.rstrip("\"'”)*").endswith("?") and not _QUOTING.match(s)]


def asserted(statement: str, start: int, end: int) -> bool:
    """Return whether a statement asserts what stands from ``start`` to ``end`` of it."""
    before = _CLAUSE.split(statement[:start])[-1]
    return not _DENIED_BEFORE.search(before) and not _DENIED_AFTER.match(statement[end:])


def says(text: str, right: Sequence[re.Pattern[str]], wrong: Sequence[re.Pattern[str]]) -> bool:
    """Return whether a text gives the right answer: it asserts it, and no wrong one unless it corrects itself.

    Args:
        text: The answer.
        right: Patterns of the right answer's names.
        wrong: Patterns of other answers' names.
    """
    verdict = False
    for statement in statements_in(text):
        good = _places(statement, right)
        taken = [(m.start(), m.end()) for p in right for m in p.finditer(statement)]
        bad = [at for at in _places(statement, wrong) if not any(a <= at < b for a, b in taken)]
        if good and not bad:
            verdict = verdict or not _said_wrong(text, statement, wrong, right) or bool(_CORRECTION.search(statement))
        elif bad and good:
            verdict = bool(_CORRECTION.search(statement)) and max(good) > max(bad)
        elif bad:
            verdict = False
    return verdict


def _said_wrong(text: str, statement: str, wrong: Sequence[re.Pattern[str]], right: Sequence[re.Pattern[str]]) -> bool:
    for other in statements_in(text.split(statement)[0]):
        taken = [(m.start(), m.end()) for p in right for m in p.finditer(other)]
        if any(not any(a <= at < b for a, b in taken) for at in _places(other, wrong)):
            return True
    return False


def _places(statement: str, patterns: Sequence[re.Pattern[str]]) -> list[int]:
    return [m.start() for p in patterns for m in p.finditer(statement) if asserted(statement, m.start(), m.end())]


_CLAIM: Final = re.compile(
    r"(?:\b(?:answer|result|total|sum|makes?|equals?|is|are|was|leaves?|gives?|gets?|has|have|had|left with"
    r"|costs?|mean|meant|end up with|come to|comes to"
    r"|that's|it's|you'll have|altogether|product|difference)\b|=|\bto\b)[\s:*(]*(?:(?:is|are|to|of|a|be"
    r"|exactly|now|simply|just|therefore|then|only|still|equal|has|have|in|that|total|about|the number|the year"
    r"|in the year)\b[\s:*(]*)*[$€£\"'(*]*$",
    re.IGNORECASE,
)


def number_given(
    text: str, *, right: float, given: Collection[float], least: float = float("-inf"), most: float = float("inf")
) -> bool:
    """Return whether a text gives the right number as its answer.

    The last number that is claimed (
        "the answer is", "=", "makes") counts, else the last one that is asserted. Numbers of
    the question count only if they are right; the word "one" never counts.

    Args:
        text: The answer.
        right: The right number.
        given: Numbers of the question.
        least: The smallest number to look at.
        most: The largest number to look at.
    """
    claims: list[tuple[float, bool]] = []
    others: list[tuple[float, bool]] = []
    for statement in statements_in(text):
        found = [f for f in numbers_in(statement) if not _is_pronoun(statement, f) and least <= f.value <= most]
        for number in found:
            if (number.value in given and number.value != right) or not asserted(statement, number.start, number.end):
                continue
            either = re.search(r"\bor\b\W*(?:\w+\W+)?$", statement[: number.start]) is not None and len(found) > 1
            into = claims if _CLAIM.search(statement[: number.start]) else others
            if not re.match(r"\s*[-+*/x×÷]\s*\d", statement[number.end :]):
                into.append((number.value, either))
    last = (claims or others)[-1:]
    return bool(last) and last[0] == (right, False)


def _is_pronoun(statement: str, number: Found) -> bool:
    return statement[number.start : number.end].lower() == "one"
