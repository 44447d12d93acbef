"""From the columns of a preference row, in any layout, to one prompt and its responses.

A prompt and responses given as messages are joined as in TRL: responses that start with the prompt are complete
conversations; others continue it. If the responses repeat only the end of the prompt (such as its last user turn), the
earlier turns are kept.
"""

from __future__ import annotations

import math
import re
from typing import Any, Final

from facetrm.core.errors import DataError, short
from facetrm.data.read.columns import LARGEST, Facts, Row, is_number, need
from facetrm.data.read.turns import Turns, conversation_text, messages, turns

_QUESTIONS: Final = ("question", "instruction", "query", "input", "conversations", "history", "messages", "context")


def responses(row: Row, facts: Facts) -> Row:
    """Read ``prompt`` and ``responses`` (best first; facetrm's own convention) and remove them from ``row``.

    Args:
        row: columns of the row.
        facts: not used.
    """
    prompt, answers = (messages(need(row, key), key) for key in ("prompt", "responses"))
    return {"prompt": prompt, "responses": answers, **_aspect_and_strength(row)}


def rejected_response(row: Row, facts: Facts) -> Row:
    """Read ``messages`` and ``rejected_response`` (worse than the last message) and remove them from ``row``.

    Args:
        row: columns of the row.
        facts: facts about the file, with the scale of ``margin``.
    """
    chosen, worse = messages(need(row, "messages"), "messages"), need(row, "rejected_response")
    if isinstance(worse, list) and len(worse) == 1 and isinstance(worse[0], str):
        worse = worse[0]
    if isinstance(worse, list) and worse and all(isinstance(one, str) for one in worse):
        raise DataError(
            f"'rejected_response' holds {len(worse)} answers ({short(worse, 60)})", fix="write one row for each of them"
        )
    return _pair(chosen, [*chosen[:-1], *turns(worse, "rejected_response", "assistant")], row=row, facts=facts)


def explicit_prompt(row: Row, facts: Facts) -> Row:
    """Read ``prompt``, ``chosen`` and ``rejected``, which may repeat the prompt, and remove them from ``row``.

    Args:
        row: columns of the row.
        facts: facts about the file, with the scale of ``margin``.
    """
    asked = need(row, "prompt")
    prompt = turns(asked, "prompt", "user")
    texts = {key: need(row, key) for key in ("chosen", "rejected")}
    if all(isinstance(text, str) for text in texts.values()) and prompt:
        texts = _without_echo(str(prompt[-1].get("content")), texts)
    chosen, rejected = (
        join(prompt, turns(continuation(text, asked, prompt), key, "assistant"), key) for key, text in texts.items()
    )
    return _pair(chosen, rejected, row=row, facts=facts)


def implicit_prompt(row: Row, facts: Facts) -> Row:
    """Read ``chosen`` and ``rejected``, whose common start is the prompt, and remove them from ``row``.

    For plain strings, the common start is cut back to its last space, because responses may start alike too. An
    explicit prompt is safer.

    Args:
        row: columns of the row.
        facts: facts about the file, with the scale of ``margin``.
    """
    for key in _QUESTIONS:
        value = row.get(key)
        if value and (isinstance(value, str) or (isinstance(value, list) and isinstance(value[0], (dict, list)))):
            if key == "messages" and messages(value, key) == messages(row.get("chosen"), "chosen"):
                continue
            raise DataError(
                f"'{key}' is {short(value, 60)} beside 'chosen', and there is no 'prompt'", fix=f"rename '{key}'"
            )
    chosen, rejected = need(row, "chosen"), need(row, "rejected")
    if chosen == rejected:
        raise DataError(f"'chosen' and 'rejected' are the same ({short(chosen)})", fix="drop the row")
    if isinstance(chosen, str) and isinstance(rejected, str):
        whole = [conversation_text(text, key) for text, key in ((chosen, "chosen"), (rejected, "rejected"))]
        if whole[0] is None and whole[1] is None:
            return _shared_text(chosen, rejected, row=row, facts=facts)
        for text, found in zip((chosen, rejected), whole, strict=True):
            if found is None:
                raise DataError(f"the transcript starts with {short(text)}", fix=r"start with '\n\nHuman:'")
        chosen, rejected = whole
    return _pair(messages(chosen, "chosen"), messages(rejected, "rejected"), row=row, facts=facts)


def _shared_text(chosen: str, rejected: str, *, row: Row, facts: Facts) -> Row:
    shorter = min(len(chosen), len(rejected))
    alike = next((n for n in range(shorter) if chosen[n] != rejected[n]), shorter)
    cut = max(chosen.rfind(" ", 0, alike), chosen.rfind("\n", 0, alike)) + 1
    if not chosen[:cut].strip():
        raise DataError(f"'chosen' ({short(chosen, 40)}) and 'rejected' share no prompt", fix="add 'prompt'")
    prompt = {"role": "user", "content": chosen[:cut].rstrip()}
    answers = ([prompt, {"role": "assistant", "content": text[cut:]}] for text in (chosen, rejected))
    return _pair(*answers, row=row, facts=facts)


def continuation(answer: Any, asked: object, prompt: Turns) -> Any:
    """Return a response, stripped of surrounding white space if it continues a transcript or a rendered template.

    Args:
        answer: cell with the response.
        asked: cell with the prompt.
        prompt: turns read from the prompt cell.
    """
    written = isinstance(asked, str) and [message["content"] for message in prompt] != [asked]
    return answer.strip() if written and isinstance(answer, str) else answer


def join(prompt: Turns, answer: Turns, key: str) -> Turns:
    """Return the complete conversation of a prompt and a response, which may repeat the prompt or its end.

    Args:
        prompt: messages before the response.
        answer: turns that continue the prompt, or a complete conversation.
        key: column of the response, for error messages.

    Raises:
        DataError: The response is a conversation that neither starts with the prompt, nor continues it, nor repeats its
            end.
    """
    if not prompt or answer[: len(prompt)] == prompt:
        return answer
    if not answer or answer[0].get("role") == "assistant":
        return [*prompt, *answer]
    for start in range(1, len(prompt)):
        if answer[: len(prompt) - start] == prompt[start:]:
            return [*prompt[:start], *answer]
    for start in range(1, len(answer) - len(prompt)):
        before_the_answer = start + len(prompt) == len(answer) - 1
        only_system = all(message.get("role") == "system" for message in answer[:start])
        if answer[start : start + len(prompt)] == prompt and (before_the_answer or only_system):
            return answer
    asked = prompt[-1].get("content")
    raise DataError(f"'prompt' is {short(asked)}, not in '{key}'", fix="give the responses without the prompt")


def is_echo(prompt: str, answer: object) -> bool:
    """Return whether ``answer`` starts with the complete ``prompt``, and the prompt is longer than a greeting."""
    asked = prompt.strip()
    if not isinstance(answer, str) or not (asked.endswith(("?", ":")) or len(asked.split()) > 3):
        return False
    rest = answer.lstrip()[len(asked) :]
    return answer.lstrip().startswith(asked) and re.match(r"\s+\S", rest) is not None


def _without_echo(prompt: str, texts: dict[str, Any]) -> dict[str, Any]:
    """Remove the prompt from the responses if all of them start with it."""
    if not all(is_echo(prompt, text) for text in texts.values()):
        return texts
    return {key: text.lstrip()[len(prompt.strip()) :].lstrip() for key, text in texts.items()}


def _aspect_and_strength(row: Row) -> Row:
    fields = {key: row.pop(key) for key in ("aspect", "strength") if key in row}
    strength = fields.get("strength")
    if strength is not None and not is_number(strength):
        raise DataError(f"'strength' is {short(strength)}", fix="write a number in [0, 1], unquoted")
    return {key: value for key, value in fields.items() if value is not None}


def _pair(chosen: Turns, rejected: Turns, *, row: Row, facts: Facts) -> Row:
    same = 0
    while same < min(len(chosen), len(rejected)) - 1 and chosen[same] == rejected[same]:
        same += 1
    for key, whole in (("chosen", chosen), ("rejected", rejected)):
        if len(whole) - same != 1:
            raise DataError(
                f"'{key}' has {len(whole) - same} messages beyond the prompt ({short(whole[same:], 60)})",
                fix="let chosen and rejected share every turn but the last",
            )
    fields: Row = {
        "prompt": chosen[:same],
        "responses": [chosen[-1], rejected[-1]],
        **_aspect_and_strength(row),
    }
    margin = row.get("margin")
    if "strength" not in fields and margin is not None and margin == margin:
        if not is_number(margin) or not 0.0 <= margin <= LARGEST:
            raise DataError(
                f"'margin' is {short(margin)}", fix="write a number >= 0; swap the pair where it is negative"
            )
        if facts.margin_scale > 0:
            fields["strength"] = clearness(float(margin), facts.margin_scale)
    return fields


def clearness(margin: float, typical: float) -> float:
    """Return the strength of a pair, ``margin / (margin + typical)``: 0 at margin 0, 0.5 at a typical margin, below 1.

    Args:
        margin: margin of the pair, >= 0.
        typical: median of the positive margins in the file, > 0; a single pair hardly changes it.
    """
    ratio = margin / typical
    return ratio / (1.0 + ratio) if math.isfinite(ratio) else 1.0
