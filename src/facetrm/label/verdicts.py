"""Verdicts: what a judge may say, the JSON schema of it, and the strict reader."""

from __future__ import annotations

import json
import re
from typing import Any, Final, Literal, get_args

from facetrm.core.errors import LabelError, short

JudgeVerdict = Literal["reply_1", "reply_2", "tie", "cannot_say"]
VERDICTS: Final[tuple[JudgeVerdict, ...]] = get_args(JudgeVerdict)
KEY: Final = "better"
VERDICT_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {KEY: {"type": "string", "enum": list(VERDICTS)}},
    "required": [KEY],
    "additionalProperties": False,
}
_THOUGHT: Final = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)
_FENCED: Final = re.compile(r"\A```(?:json)?\s*\n(.*)\n\s*```\Z", re.DOTALL)


def read_verdict(text: str) -> JudgeVerdict:
    """Return the verdict that ``text`` is: one JSON object ``{"better": ...}`` and nothing else.

    Around it only a Markdown code fence is let through, and before it one closed ``<think>`` block. Nothing is guessed
    from words or digits: "reply 2 beats reply 1" is no verdict.

    Raises:
        LabelError: it is anything else.
    """
    body = _THOUGHT.sub("", text, count=1).strip()
    fenced = _FENCED.match(body)
    try:
        value = json.loads(body if fenced is None else fenced[1], object_pairs_hook=_once)
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, dict) and list(value) == [KEY] and value[KEY] in VERDICTS:
        return VERDICTS[VERDICTS.index(value[KEY])]
    wanted = " | ".join(VERDICTS)
    raise LabelError(f"the reply {short(text)} is no verdict", fix=f'it should be {{"{KEY}": "{wanted}"}} alone')


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("a key stands twice")
    return value
