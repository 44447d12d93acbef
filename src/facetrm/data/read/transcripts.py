"""Transcripts: text in which labels such as ``Human:`` and ``Assistant:`` mark the speaker."""

from __future__ import annotations

import re
from typing import Final

from facetrm.core.errors import DataError, short

_HUMAN: Final = "\n\nHuman:"
_LABEL = re.compile(r"^[ \t]*(system|human|user|assistant)[ \t]*:", re.IGNORECASE | re.MULTILINE)
_SHORT = re.compile(r"^[ \t]*(h|a)[ \t]*:", re.IGNORECASE | re.MULTILINE)
_ROLES: Final = {"system": "system", "human": "user", "user": "user", "assistant": "assistant"}
_FIX: Final = "give the conversation as a list of {'role': ..., 'content': ...}"


def human_assistant(text: str) -> list[dict[str, str]]:
    r"""Return the message list of a ``\n\nHuman: ...\n\nAssistant: ...`` transcript (Anthropic HH-RLHF).

    Args:
        text: complete transcript.

    Raises:
        DataError: There is text before the first marker.
    """
    parts = re.split(r"\n\n(Human|Assistant):", text)
    if parts[0].strip() or len(parts) < 3:
        raise DataError(f"the transcript starts with {short(parts[0])}", fix=r"start with '\n\nHuman:'")
    roles = {"Human": "user", "Assistant": "assistant"}
    return [{"role": roles[who], "content": said.strip()} for who, said in zip(parts[1::2], parts[2::2], strict=True)]


def transcript(text: str, key: str, *, answer: bool) -> list[dict[str, str]] | None:
    r"""Return the turns of a transcript in any common spelling, or None if ``text`` is plain text.

    Labels are ``Human:`` or ``User:``, ``Assistant:`` and ``System:`` at the start of a line, in any case, with or
    without blank lines between turns. Speakers must alternate. A final ``Assistant:`` without text is left out: it only
    opens the response.

    Args:
        text: a prompt, a response or a complete conversation.
        key: column name, for error messages.
        answer: whether the text is a response. A dialogue that begins inside a response is part of its text.

    Raises:
        DataError: The text has transcript labels whose turns are ambiguous.
    """
    if text.startswith(_HUMAN):
        return _without_header(human_assistant(text))
    if ":" not in text:
        return None
    labels = list(_LABEL.finditer(text))
    roles = [_ROLES[label.group(1).lower()] for label in labels]
    if not labels or (answer and text[: labels[0].start()].strip()):
        _refuse_letters(text, key, answer=answer)
        return None
    if not {"user", "assistant"} <= set(roles) and not (answer and roles[0] == "assistant"):
        if text[: labels[0].start()].strip() or roles[0] == "system":
            return None
        raise _unclear(key, text)
    ends = [*(label.start() for label in labels[1:]), len(text)]
    said = [text[label.end() : end] for label, end in zip(labels, ends, strict=True)]
    blank = [part.rstrip(" \t").endswith("\n\n") for part in said[:-1]]
    talk = roles[1:] if roles[0] == "system" else roles
    wanted = ["user" if n % 2 == 0 else "assistant" for n in range(len(talk))]
    if text[: labels[0].start()].strip() or talk != wanted or (any(blank) and not all(blank)):
        raise _unclear(key, text)
    return _without_header([{"role": r, "content": s.strip()} for r, s in zip(roles, said, strict=True)])


def _refuse_letters(text: str, key: str, *, answer: bool) -> None:
    """Refuse ``H: ... A: ...``, which could be a transcript or a list; accept any other text as plain."""
    labels = [label.group(1).lower() for label in _SHORT.finditer(text)]
    if set(labels) == {"h", "a"} and labels[0] == "h" and _SHORT.match(text.lstrip()):
        raise _unclear(key, text)
    if answer and labels and re.match(r"\s*assistant\s*:", text, re.IGNORECASE):
        raise _unclear(key, text)


def _without_header(turns: list[dict[str, str]]) -> list[dict[str, str]]:
    return turns[:-1] if len(turns) > 1 and turns[-1] == {"role": "assistant", "content": ""} else turns


def _unclear(key: str, text: str) -> DataError:
    return DataError(
        f"'{key}' has transcript labels ('Human:', 'Assistant:') whose turns are ambiguous ({short(text, 60)})",
        fix=f"{_FIX}, even if the whole text is one turn",
    )
