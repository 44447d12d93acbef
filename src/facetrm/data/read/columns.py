"""From the columns of one row to the fields of a record: ratings, messages, pairs; the conventions' own work."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeGuard, final

from pydantic import ValidationError

from facetrm.core.errors import DataError, did_you_mean
from facetrm.core.errors import short as short
from facetrm.data.objectives import Objective
from facetrm.data.records import Preference, Rating

Row: TypeAlias = dict[str, Any]

MISSING = -100.0
LARGEST = sys.float_info.max
_HUMAN = "\n\nHuman:"


@final
@dataclass(frozen=True)
class Facts:
    """What the rows of one file say together.

    Attributes:
        attributes: the columns that hold ratings.
        margin_scale: the largest ``margin`` of the file; 0 without that column.
        objectives: the declared objectives by name, or None when nothing was declared.
    """

    attributes: frozenset[str] = frozenset()
    margin_scale: float = 0.0
    objectives: Mapping[str, Objective] | None = None


def validate(model: type[Rating] | type[Preference], fields: Row) -> Rating | Preference:
    """Return ``fields`` validated as ``model``, with pydantic's complaint turned into a :class:`DataError`."""
    try:
        return model.model_validate(fields)
    except ValidationError as exc:
        errors = exc.errors(include_url=False, include_context=False)
    first = errors[0]
    where = ".".join(str(part) for part in first["loc"]) or "row"
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    if first["type"] == "missing":
        raise DataError(f"'{where}' is missing{more}", fix=f"add '{first['loc'][-1]}'")
    if first["type"] == "extra_forbidden":
        raise DataError(
            f"unknown field '{where}' ({short(first['input'])}){more}",
            fix="a message has 'role' and 'content', no more",
        )
    message = first["msg"].removeprefix("Value error, ").replace("a valid tuple", "a list").replace("Tuple", "List")
    raise DataError(f"'{where}' is {short(first['input'])}{more}", fix=message[0].lower() + message[1:])


def clean_ratings(value: object, objectives: Mapping[str, Objective] | None = None) -> dict[str, float]:
    """Return the ratings that are there, as floats.

    Args:
        value: ``{name: number, boolean, or a missing mark}``; None is no rating at all.
        objectives: the declared objectives by name; given, names and ranges are checked.

    Raises:
        DataError: a value that is no number, an undeclared objective (the message shows the YAML to write), or a value
            outside its objective's range.
    """
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise DataError(f"'ratings' is {short(value)}", fix="write {objective: number}")
    ratings = {}
    for name, raw in value.items():
        objective = None if objectives is None else objectives.get(name)
        if raw is None or (isinstance(raw, float) and math.isnan(raw)):
            continue
        if not isinstance(raw, (bool, int, float)):
            raise DataError(
                f"'ratings.{name}' is {short(raw)}, not a number",
                fix="write the number unquoted, or null where missing",
            )
        if raw == MISSING and not (objective is not None and objective.low <= MISSING):
            continue
        if abs(raw) > LARGEST:
            raise DataError(f"'ratings.{name}' is {short(raw)}", fix="write a finite number, or null where missing")
        if objectives is not None:
            _check_rating(name, float(raw), objective, objectives)
        ratings[name] = float(raw)
    return ratings


def _check_rating(name: str, raw: float, objective: Objective | None, declared: Mapping[str, Objective]) -> None:
    if objective is None:
        raise DataError(
            f"objective '{name}' (here {raw:g}) is not declared",
            fix=f"{did_you_mean(name, declared)} Else declare it in the objectives file:\n"
            f"- name: {name}\n  low: LOWEST\n  high: HIGHEST\n  kind: integer | boolean | continuous\n"
            "  direction: higher | lower | unknown",
        )
    if not objective.low <= raw <= objective.high or (objective.kind == "boolean" and raw not in (0.0, 1.0)):
        span = "0 or 1" if objective.kind == "boolean" else f"{objective.low:g}..{objective.high:g}"
        raise DataError(
            f"'ratings.{name}' is {raw:g}, not {span}", fix="mend the value or the objective's declared range"
        )


def is_number(value: object) -> TypeGuard[float]:
    """Return whether ``value`` is an int or a float, and no boolean."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def need(row: Row, key: str) -> Any:
    """Take the column ``key`` out of ``row``; DataError when it is absent or null."""
    value = row.pop(key, None)
    if value is None:
        raise DataError(f"'{key}' is missing", fix=f"add '{key}', or drop the row")
    return value


def _messages(value: object, key: str) -> list[Any]:
    if not isinstance(value, list) or not all(isinstance(message, dict) for message in value):
        raise DataError(f"'{key}' is {short(value)}", fix="write a list of {'role': ..., 'content': ...}")
    return [{k: v for k, v in message.items() if v is not None} for message in value]


def _turns(value: object, key: str, role: str) -> list[Any]:
    return [{"role": role, "content": value}] if isinstance(value, str) else _messages(value, key)


def messages_and_ratings(row: Row, facts: Facts) -> Row:
    """Take ``messages`` and ``ratings`` out of ``row`` (ours, and the pack); ``facts`` declares the objectives."""
    ratings = clean_ratings(row.pop("ratings", None), facts.objectives)
    return {"messages": _messages(need(row, "messages"), "messages"), "ratings": ratings}


def attributes(row: Row, facts: Facts) -> Row:
    """Take ``messages`` and the attribute columns that ``facts`` names out of ``row`` (RLHFlow)."""
    messages = _messages(need(row, "messages"), "messages")
    return {"messages": messages, "ratings": _attribute_ratings(row, facts)}


def prompt_and_response(row: Row, facts: Facts) -> Row:
    """Take ``prompt``, ``response`` (or ``completion``) and the attribute columns of ``facts`` out of ``row``."""
    response = _turns(need(row, "response" if "response" in row else "completion"), "response", "assistant")
    prompt = _turns(need(row, "prompt"), "prompt", "user")
    return {"messages": prompt + response, "ratings": _attribute_ratings(row, facts)}


def _attribute_ratings(row: Row, facts: Facts) -> dict[str, float]:
    return clean_ratings({key: row.pop(key) for key in list(row) if key in facts.attributes}, facts.objectives)


def responses(row: Row, facts: Facts) -> Row:
    """Take ``prompt`` and ``responses``, best first, out of ``row`` (ours); ``facts`` is not needed."""
    prompt, responses = (_messages(need(row, key), key) for key in ("prompt", "responses"))
    return {"prompt": prompt, "responses": responses, **_aspect_and_strength(row)}


def _aspect_and_strength(row: Row) -> Row:
    fields = {key: row.pop(key) for key in ("aspect", "strength") if key in row}
    if fields.get("strength") is not None and not is_number(fields["strength"]):
        raise DataError(f"'strength' is {short(fields['strength'])}", fix="write a number in (0, 1], unquoted")
    return {key: value for key, value in fields.items() if value is not None}


def explicit_prompt(row: Row, facts: Facts) -> Row:
    """Take ``prompt``, ``chosen``, ``rejected`` out of ``row``; whole conversations may repeat the prompt.

    ``facts`` holds the scale of ``margin``.
    """
    prompt = need(row, "prompt")
    chosen, rejected = row.get("chosen"), row.get("rejected")
    if isinstance(chosen, list) and isinstance(rejected, list) and max(len(chosen), len(rejected)) > 1:
        fields = implicit_prompt(row, facts)
        asked = _messages(prompt, "prompt")[-1].get("content") if isinstance(prompt, list) and prompt else prompt
        if not any(message.get("content") == asked for message in fields["prompt"]):
            raise DataError(f"'prompt' is {short(asked)}, not in 'chosen'", fix="give the responses without the prompt")
        return fields
    answers = [_turns(need(row, key), key, "assistant") for key in ("chosen", "rejected")]
    return _pair(_turns(prompt, "prompt", "user"), *answers, row=row, facts=facts)


def implicit_prompt(row: Row, facts: Facts) -> Row:
    """Take ``chosen`` and ``rejected`` out of ``row``; what they share from the start is the prompt.

    Of plain strings the shared text is cut back to its last blank, since answers can begin alike too: an explicit
    prompt is safer. ``facts`` holds the scale of ``margin``.
    """
    chosen, rejected = need(row, "chosen"), need(row, "rejected")
    if chosen == rejected:
        raise DataError(f"'chosen' and 'rejected' are the same ({short(chosen)})", fix="drop the row")
    if isinstance(chosen, str) and isinstance(rejected, str):
        if chosen.startswith(_HUMAN):
            chosen, rejected = human_assistant(chosen), human_assistant(rejected)
        else:
            shorter = min(len(chosen), len(rejected))
            alike = next((n for n in range(shorter) if chosen[n] != rejected[n]), shorter)
            cut = max(chosen.rfind(" ", 0, alike), chosen.rfind("\n", 0, alike)) + 1
            if not chosen[:cut].strip():
                raise DataError(f"'chosen' ({short(chosen, 40)}) and 'rejected' share no prompt", fix="add 'prompt'")
            prompt = [{"role": "user", "content": chosen[:cut].rstrip()}]
            answers = ([{"role": "assistant", "content": text[cut:]}] for text in (chosen, rejected))
            return _pair(prompt, *answers, row=row, facts=facts)
    chosen, rejected = _messages(chosen, "chosen"), _messages(rejected, "rejected")
    same = 0
    while same < min(len(chosen), len(rejected)) and chosen[same] == rejected[same]:
        same += 1
    return _pair(chosen[:same], chosen[same:], rejected[same:], row=row, facts=facts)


def _pair(prompt: list[Any], chosen: list[Any], rejected: list[Any], *, row: Row, facts: Facts) -> Row:
    for key, turns in (("chosen", chosen), ("rejected", rejected)):
        if len(turns) != 1:
            raise DataError(
                f"'{key}' has {len(turns)} messages beyond the prompt ({short(turns, 60)})",
                fix="let chosen and rejected share every turn but the last",
            )
    fields: Row = {"prompt": prompt, "responses": [*chosen, *rejected], **_aspect_and_strength(row)}
    margin = row.get("margin")
    if "strength" not in fields and margin is not None:
        if not is_number(margin) or not 0.0 <= margin <= LARGEST:
            raise DataError(
                f"'margin' is {short(margin)}", fix="write a number >= 0; swap the pair where it is negative"
            )
        if margin > 0:
            fields["strength"] = margin / facts.margin_scale
    return fields


def human_assistant(text: str) -> list[dict[str, str]]:
    r"""Return the message list of a ``\n\nHuman: ...\n\nAssistant: ...`` transcript (Anthropic HH-RLHF).

    Raises:
        DataError: text before the first marker.
    """
    parts = re.split(r"\n\n(Human|Assistant):", text)
    if parts[0].strip() or len(parts) < 3:
        raise DataError(f"the transcript begins with {short(parts[0])}", fix=r"begin with '\n\nHuman:'")
    roles = {"Human": "user", "Assistant": "assistant"}
    return [{"role": roles[who], "content": said.strip()} for who, said in zip(parts[1::2], parts[2::2], strict=True)]
