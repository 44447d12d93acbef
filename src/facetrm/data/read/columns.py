"""Single columns of a row: required columns, ratings, and validation of the resulting record."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, TypeAlias, TypeGuard, final

from pydantic import ValidationError

from facetrm.core.errors import DataError, did_you_mean
from facetrm.core.errors import short as short
from facetrm.data.objectives import Objective
from facetrm.data.read.unreadable import Unreadable
from facetrm.data.records import Preference, Rating

Row: TypeAlias = dict[str, Any]

_SURROGATE = re.compile("[\ud800-\udfff]")
_QUOTED = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)\s*")
_NO_RATING = re.compile(
    r"^(id|idx|index|row|line|no|num|number|turn|turns|seed|year|month|day|date|time|epoch|step|split|fold|margin"
    r"|strength|length|tokens?|chars?|words?|age|rank|order|count|size|version|batch|page|label_id|unnamed.*|__.*)$"
    r"|(^|_)(id|ids|idx|index|uuid|hash|timestamp|tstamp|date|time|seconds|ms|tokens|chars|words|length|len|count|seed"
    r"|turn|turns|rank|year)$|^(num|n|nb|count|timestamp|created|updated)_",
    re.IGNORECASE,
)
MISSING = -100.0
LARGEST = sys.float_info.max


@final
@dataclass(frozen=True)
class Facts:
    """Facts that depend on all rows of a file.

    Attributes:
        attributes: Names of the columns that contain ratings.
        margin_scale: Median of the positive ``margin`` values in the file; 0 if there are none.
        objectives: Declared objectives by name, or None if none were declared.
    """

    attributes: frozenset[str] = frozenset()
    margin_scale: float = 0.0
    objectives: Mapping[str, Objective] | None = None


def validate(model: type[Rating] | type[Preference], fields: Row) -> Rating | Preference:
    """Validate ``fields`` as ``model``, turning pydantic's error into a :class:`DataError`.

    Args:
        model: class of the record.
        fields: field values as read from the row.

    Raises:
        DataError: A field is missing, unknown or wrong.
    """
    _check_text(fields)
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
            fix="give a message only 'role' and 'content'",
        )
    message = first["msg"].removeprefix("Value error, ").replace("a valid tuple", "a list").replace("Tuple", "List")
    raise DataError(f"'{where}' is {short(first['input'])}{more}", fix=message[0].lower() + message[1:])


def _check_text(fields: Row) -> None:
    """Refuse lone surrogates, which cannot be encoded, in every text of a record except ``meta``."""
    turns = [m.get("content") for key in ("messages", "prompt", "responses") for m in _listed(fields.get(key))]
    for text in (*turns, *(value for key, value in fields.items() if key != "meta")):
        half = _SURROGATE.search(text) if isinstance(text, str) and not text.isascii() else None
        if half is not None:
            raise DataError(
                f"half a character ({half.group()!r}) in {short(text)}", fix="write both halves of the surrogate pair"
            )


def _listed(value: object) -> list[Row]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def clean_ratings(value: object, objectives: Mapping[str, Objective] | None = None) -> dict[str, float]:
    """Return the ratings that are not missing, as floats.

    Args:
        value: ratings by name: numbers, booleans, or markers of missing values; None means no ratings.
        objectives: declared objectives by name, to check names and ranges against; None checks nothing.

    Raises:
        DataError: A value is not a number, an objective is not declared (the message shows the YAML to add), or a value
            is outside its objective's range.
    """
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise DataError(f"'ratings' is {short(value)}", fix="write {objective: number}")
    ratings = {}
    for name, raw in value.items():
        objective = None if objectives is None else objectives.get(name)
        if isinstance(raw, Decimal) or hasattr(raw, "item"):
            raw = float(raw)
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
            f"'ratings.{name}' is {raw:g}, not {span}", fix="fix the value or the objective's declared range"
        )


def is_number(value: object) -> TypeGuard[float]:
    """Return whether ``value`` is an int or a float, but not a bool."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_no_rating(name: str) -> bool:
    """Return whether a column is named like an id, a count, a date or a length, rather than a rating."""
    return _NO_RATING.search(name) is not None


def is_quoted_number(value: object) -> bool:
    """Return whether ``value`` is text that holds nothing but a number."""
    return isinstance(value, str) and _QUOTED.fullmatch(value) is not None


def need(row: Row, key: str) -> Any:
    """Remove the column ``key`` from ``row`` and return it; raise DataError if it is absent or null."""
    value = row.pop(key, None)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise DataError(f"'{key}' is missing", fix=f"add '{key}', or drop the row")
    if isinstance(value, Unreadable):
        raise DataError(f"'{key}' cannot be read ({value.reason})", fix="write it again as UTF-8 text")
    if hasattr(value, "tolist"):
        return value.tolist()
    return value
