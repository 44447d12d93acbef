"""Words, sentences and list items of a text."""

from __future__ import annotations

import re
from typing import Final, Literal

_ABBREVIATION: Final = re.compile(r"\b(?:Mr|Mrs|Ms|Dr|St|Prof|e\.g|i\.e|[ap]\.m|etc|vs|No)\.$|(?<!is )\b[B-Z]\.$")
_BULLET: Final = re.compile(r"^\s*(?:[-*•–]|\+)\s+(\S.*)$", re.MULTILINE)
_NUMBERED: Final = re.compile(r"^\s*\d{1,2}[.):]\s+(\S.*)$", re.MULTILINE)
_FENCE: Final = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)


def without_code(text: str) -> str:
    """Return the text without fenced blocks and `inline` code."""
    return re.sub(r"`[^`\n]*`", " ", _FENCE.sub("\n", text))


def words_in(text: str) -> list[str]:
    """Return the words of a text, in lower case."""
    return re.findall(r"[^\W_]+(?:['’\-][^\W_]+)*", text.lower())


def items_in(text: str, kind: Literal["bullet", "numbered"]) -> list[str]:
    """Return the items of the bullet or numbered lists of a text."""
    return (_BULLET if kind == "bullet" else _NUMBERED).findall(text)


def sentences_in(text: str) -> list[str]:
    """Return the sentences of a text; a line break ends one too, and list marks are left out.

    Example:
        >>> sentences_in("Dr. Hall came at 3.30. She left!")
        ['Dr. Hall came at 3.30.', 'She left!']
    """
    found: list[str] = []
    for line in text.splitlines():
        line = re.sub(r"^\s*(?:[-*•–+]|\d{1,2}[.):])\s+", "", line).strip()
        start = 0
        for match in re.finditer(r"[.!?…]+[\"”’')\]*]*(?=\s|$)", line):
            if _ABBREVIATION.search(line[start : match.end()]) and match.end() < len(line):
                continue
            found.append(line[start : match.end()].strip())
            start = match.end()
        found.append(line[start:].strip())
    return [sentence for sentence in found if words_in(sentence)]
