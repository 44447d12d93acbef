"""Prompts and answers given on the command line, instead of a file of rows."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from facetrm import data as records
from facetrm.core.errors import DataError

if TYPE_CHECKING:
    from facetrm.data import ScoringRow

PLACE = Path("command-line")
"""What stands for the name of a file where rows come from the command line."""


def typed_row(prompt: str | None, answers: Sequence[str], *, option: str, data: Path | None) -> ScoringRow | None:
    """Return the row that was typed on the command line; None if none was.

    Args:
        prompt: The prompt; ``-`` reads it from standard input.
        answers: One or more answers; one of the texts may be ``-``.
        option: The options that give the answers, for error messages.
        data: File of rows that was given as well, if any.

    Raises:
        DataError: Only a prompt or only answers, a file as well, an empty text, or more than one ``-``.
    """
    if prompt is None and not answers:
        return None
    if data is not None:
        raise DataError("--data and a prompt on the command line", place="options", fix="give one of them")
    if prompt is None:
        raise DataError("an answer without its prompt", place=option, fix="add --prompt TEXT")
    if not answers:
        raise DataError("a prompt without an answer", place="--prompt", fix=f"add {option} TEXT")
    texts = [prompt, *answers]
    if texts.count("-") > 1:
        raise DataError("'-' given twice", place=f"--prompt and {option}", fix="read one text from standard input")
    asked, *said = [sys.stdin.read().rstrip("\n") if text == "-" else text for text in texts]
    asks = {"role": "user", "content": asked}
    answered = [{"role": "assistant", "content": text} for text in said]
    row = {"messages": [asks, *answered]} if len(said) == 1 else {"prompt": [asks], "responses": answered}
    return records.conversations_in_memory([row], place="the command line")[0]
