"""The verdicts that a judge may give, their JSON schema, and a strict parser."""

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
# Some chat templates open the reasoning before the reply, so the reply holds only its closing tag.
_THOUGHT_ENDS: Final = (
    "</think>",
    "</thinking>",
    "</thought>",
    "</reasoning>",
    "[/THINK]",
    "<|channel|>final<|message|>",
)
_END: Final = re.compile(
    r"(?:\s|<\|[^|<>\s]{1,40}\|>|<｜[^｜<>\s]{1,40}｜>|</s>|<eos>|<eot>|<end_of_turn>|<turn\|>|\[EOS\])+\Z"
)
_FENCE_START: Final = re.compile(r"\A```(?:json)?[ \t]*\n")
_LONGEST: Final = 1000


def read_verdict(text: str) -> JudgeVerdict:
    """Parse a judge's reply, which must be one JSON object ``{"better": ...}`` and nothing else.

    Three things are ignored: a Markdown code fence around the object, closed reasoning before it
    (``<think>...</think>``; the opening tag may be missing), and end-of-turn tokens after it, such as ``<|im_end|>``.
    Nothing is guessed from words or digits: "reply 2 beats reply 1" is not a verdict.

    Args:
        text: the reply.

    Raises:
        LabelError: the reply is anything else.
    """
    value = reply_value(text)
    if isinstance(value, dict) and list(value) == [KEY] and value[KEY] in VERDICTS:
        return VERDICTS[VERDICTS.index(value[KEY])]
    wanted = " | ".join(VERDICTS)
    raise LabelError(f"the reply {short(text)} is not a verdict", fix=f'it must be only {{"{KEY}": "{wanted}"}}')


def reply_value(text: str) -> Any:
    """Return the JSON value that a reply consists of, or None if it is not one JSON value of a sensible length.

    A Markdown code fence around it, closed reasoning before it and end-of-turn tokens after it are ignored, as in
    :func:`read_verdict`. An object in which a key appears twice is not a value.

    Args:
        text: the reply.
    """
    ends = [(at, mark) for mark in _THOUGHT_ENDS if (at := text.find(mark)) >= 0]
    at, mark = min(ends, default=(0, ""))
    body = _without_end(text[at + len(mark) :].lstrip())
    if len(body) > _LONGEST:
        return None
    if body.endswith("```") and (fence := _FENCE_START.match(body)) is not None:
        body = body[fence.end() : -3]
    try:
        return json.loads(body, object_pairs_hook=_once)
    except (ValueError, RecursionError):
        return None


def _without_end(body: str) -> str:
    """Return ``body`` without end-of-turn tokens. A long text is too long to be a verdict and is not searched."""
    body = body.rstrip()
    return body if len(body) > 2 * _LONGEST else _END.sub("", body)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("a key appears twice")
    return value
