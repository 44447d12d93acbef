"""From one cell to turns: message lists (also as text), rendered chat templates, transcripts and plain text.

Ambiguous text is refused with an error. A message list is always used unchanged.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, final

from facetrm.core.errors import DataError, short
from facetrm.data.read.transcripts import transcript

Turns: TypeAlias = list[Any]

_AS_LIST: Final = "write a list of {'role': ..., 'content': ...}"
_ROLES: Final = {"system": "system", "user": "user", "assistant": "assistant", "model": "assistant"}
_LISTED = re.compile(r"\s*[\[{].{0,400}?['\"]role['\"]\s*:", re.DOTALL)


@final
@dataclass(frozen=True)
class _Template:
    """Markers of a chat template: ``opens`` starts a turn (group 1: its role), ``close`` ends it, ``lead`` is first."""

    name: str
    opens: re.Pattern[str]
    close: str
    lead: str = ""


_TEMPLATES: Final = (
    _Template("ChatML", re.compile(r"<\|im_start\|>(system|user|assistant)\n"), "<|im_end|>"),
    _Template(
        "Llama 3",
        re.compile(r"<\|start_header_id\|>(system|user|assistant)<\|end_header_id\|>\n\n"),
        "<|eot_id|>",
        "<|begin_of_text|>",
    ),
    _Template("Gemma", re.compile(r"<start_of_turn>(system|user|model)\n"), "<end_of_turn>", "<bos>"),
)
_MARKS = re.compile(
    r"<\|im_start\|>\s*\w|<\|im_end\|>\s*$|<\|start_header_id\|>\s*\w|<\|eot_id\|>\s*$|<start_of_turn>\s*\w"
    r"|<end_of_turn>\s*$|\[INST\].*\[/INST\]|^\s*(<s>)?\s*\[INST\]|\[/INST\]\s*$|<<SYS>>"
    r"|<\|(user|assistant|system|User|Assistant|end|endoftext|eom_id|end_of_text|eot|return)\|>\s*$"
    r"|^\s*<\|(user|assistant|system|begin_of_text|start|header_start|turn)\|?>|<\|(user|assistant)\|>\s*\n"
    r"|<｜(User|Assistant)｜>|<｜end▁of▁sentence｜>|<\|(START|END)_OF_TURN_TOKEN\|>|<\|header_start\|>\s*\w"
    r"|<\|start\|>(system|developer|user|assistant)|^\s*(<s>|<bos>|<｜begin▁of▁sentence｜>)|(</s>|<eos>)\s*$"
    r"|<extra_id_\d>(System|User|Assistant)|^###\s*(Instruction|Human|User|Input):.*^###\s*(Response|Assistant):",
    re.DOTALL | re.MULTILINE,
)
# A closing marker counts only at the very end of the text, not at the end of a line.
_ANY_MARK = re.compile(_MARKS.pattern.replace(r"\s*$", r"\s*\Z"), re.DOTALL | re.MULTILINE)


def messages(value: object, key: str) -> Turns:
    """Return a message list, without the null fields of its messages.

    Args:
        value: list of messages, or text that contains a complete conversation.
        key: column name, for error messages.

    Raises:
        DataError: ``value`` is neither.
    """
    if isinstance(value, str):
        value = conversation_text(value, key) or value
    if isinstance(value, Mapping) and "role" in value:
        value = [value]
    if not isinstance(value, (list, tuple)) or not all(isinstance(message, Mapping) for message in value):
        raise DataError(f"'{key}' is {short(value)}", fix=_AS_LIST)
    return [_message(message) for message in value]


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return a message without null or empty fields; content with a single text part becomes that text."""
    kept = {k: v for k, v in message.items() if k in ("role", "content") or (v is not None and v != [] and v != {})}
    content = kept.get("content")
    if isinstance(content, list) and len(content) == 1 and isinstance(content[0], Mapping):
        part = {k: v for k, v in content[0].items() if v is not None}
        if part.keys() == {"type", "text"} and part["type"] == "text":
            kept["content"] = part["text"]
    if kept.get("content") is None and "content" in kept:
        del kept["content"]
    return kept


def turns(value: object, key: str, role: Literal["user", "assistant"]) -> Turns:
    """Return the turns in a cell that contains text or a message list.

    Args:
        value: plain text, a rendered chat template, a transcript, or a message list.
        key: column name, for error messages.
        role: speaker of plain text: ``user`` for a prompt, ``assistant`` for a response.

    Returns:
        The messages, without the generation header at the end of a rendered prompt.

    Raises:
        DataError: The template markers or transcript labels do not divide the text into complete turns.
    """
    if not isinstance(value, str):
        return messages(value, key)
    listed = _listed(value, key)
    if listed is not None:
        return messages(listed, key)
    if role == "assistant":
        value = _without_close(value)
    found = _rendered(value, key) or transcript(value, key, answer=role == "assistant")
    return found or [{"role": role, "content": value}]


def conversation_text(value: str, key: str) -> Turns | None:
    """Return the turns of a text that is a complete conversation (list, template or transcript), else None.

    Args:
        value: text to read.
        key: column name, for error messages.

    Raises:
        DataError: The template markers or transcript labels do not divide the text into complete turns.
    """
    listed = _listed(value, key)
    if listed is not None:
        return messages(listed, key)
    return _rendered(value, key) or transcript(value, key, answer=False)


def _listed(text: str, key: str) -> list[Any] | None:
    """Return the message list that ``text`` contains as JSON or as a Python literal; None if it contains none."""
    if not _LISTED.match(text):
        return None
    found: object = None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        try:
            found = ast.literal_eval(text.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            if text.lstrip().startswith("["):
                raise DataError(
                    f"'{key}' looks like a message list written as text, but is neither JSON nor Python "
                    f"({short(text, 60)})",
                    fix=_AS_LIST,
                ) from None
    if isinstance(found, dict) and {"role", "content"} <= found.keys():
        found = [found]
    listed = isinstance(found, list) and bool(found) and all(isinstance(m, dict) and "role" in m for m in found)
    return found if listed and isinstance(found, list) else None


def _rendered(text: str, key: str) -> Turns | None:
    """Return the turns of a rendered chat template, or None if ``text`` has no template markers."""
    if not ("<" in text or "[" in text or "###" in text) or not _ANY_MARK.search(text):
        return None
    for template in _TEMPLATES:
        rest = text.strip().removeprefix(template.lead).lstrip() if template.lead else text.strip()
        if template.opens.match(rest + "\n\n"):
            found = _blocks(rest, template)
            if found:
                return found
    raise DataError(
        f"'{key}' has chat-template markers whose turns are ambiguous ({short(text, 60)})",
        fix="give the conversation as a list of {'role': ..., 'content': ...}, or plain text without the markers",
    )


def _without_close(text: str) -> str:
    """Return a response without its closing marker, if it has no other marker."""
    for template in _TEMPLATES:
        said = text.rstrip().removesuffix(template.close)
        if len(said) < len(text.rstrip()) and not _ANY_MARK.search(said):
            return said
    return text


def _blocks(text: str, template: _Template) -> Turns | None:
    """Return the turns of ``text``, or None if there is text between turns or a marker within a turn."""
    found: Turns = []
    parts = template.opens.split(text + "\n\n")
    if parts[0].strip():
        return None
    for n, (role, said) in enumerate(zip(parts[1::2], parts[2::2], strict=True)):
        last = 2 * n + 3 == len(parts)
        said, closed, after = said.partition(template.close)
        if after.strip() or (not closed and (not last or said.strip())) or (closed and _ANY_MARK.search(said)):
            return None
        if closed:
            found.append({"role": _ROLES[role], "content": said})
        elif _ROLES[role] != "assistant":
            return None
    return found or None
