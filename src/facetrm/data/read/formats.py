"""Column conventions of rated and preference files: detect which one a file follows, and read its rows.

    rating       facetrm                  messages, ratings
                 facetrm pack             messages, ratings, category (read as task)
                 RLHFlow attributes       messages + one column of numbers per attribute, null where not rated
                 prompt and response      prompt, response (or completion, answer) + one column of numbers per attribute
    preference   facetrm                  prompt, responses (best first)
                 facetrm pack             id, source, split, prompt, chosen, rejected, category (read as task)
                 TRL explicit prompt      prompt, chosen, rejected: strings, or message lists
                 rejected response        messages, rejected_response: the worse answer beside the last message
                 TRL implicit prompt      chosen, rejected that begin alike: strings, or message lists (RLHFlow pairs)

:mod:`facetrm.data.read.foreign` lists further conventions, which are rewritten into these.
The columns ``id, source, subset, task (or category), split, meta`` are read in every convention. Other columns go to
``meta``, except that an unknown column is an error in facetrm's own convention.

Conversions: a rating of null, NaN or -100 is missing (-100 is kept if the objective's declared range includes it); a
boolean becomes 0 or 1; ``margin`` becomes ``strength = margin / (margin + median of the file's positive margins)``, and
is kept in ``meta``; a NaN margin is ignored. ``system`` text becomes the system turn.
Reference: the dataset formats of TRL (preference) and of RLHFlow (attributes, pairs).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal, final

from facetrm.core.errors import DataError, did_you_mean, short
from facetrm.data.objectives import Objective
from facetrm.data.read.columns import LARGEST, Facts, Row, is_no_rating, is_number, is_quoted_number, validate
from facetrm.data.read.conventions import CONVENTIONS, Convention
from facetrm.data.read.conventions import RecordKind as RecordKind
from facetrm.data.read.extras import as_json
from facetrm.data.read.foreign import FOREIGN_COLUMNS, as_asked, find_foreign
from facetrm.data.records import Preference, Rating

_SIDE = ("id", "source", "subset", "task", "split")
_LABELS = frozenset({"ratings", "margin", "strength", "aspect"})
_UNREAD = ("tools", "images", "image", "videos", "video", "audios", "audio", "history")
_KNOWN = frozenset(
    {
        "category",
        "answer",
        "system",
        "system_prompt",
        "meta",
        "ratings",
        "response",
        "completion",
        "aspect",
        "strength",
        *_SIDE,
    }
)


@final
@dataclass(frozen=True)
class FileLayout:
    """The detected layout of one file.

    Attributes:
        convention: Column convention of the file.
        facts: Facts that depend on all its rows.
        style: ``conversational`` for message lists, ``standard`` for strings.
        extra: Names of the columns that go to ``meta``.
    """

    convention: Convention
    facts: Facts
    style: Literal["conversational", "standard"]
    extra: tuple[str, ...]


def detect(rows: Sequence[Row], kind: RecordKind, objectives: Sequence[Objective] | None = None) -> FileLayout:
    """Return the layout of a file from all its rows.

    Args:
        rows: parsed rows.
        kind: kind of record to read.
        objectives: declared objectives; None checks nothing.

    Raises:
        DataError: No convention of ``kind`` has these columns (the message lists all conventions).
    """
    names = frozenset(key for row in rows for key in row)
    declared = None if objectives is None else {objective.name: objective for objective in objectives}
    convention = next((c for c in CONVENTIONS if c.kind == kind and c.required <= names), None)
    if convention is None:
        raise _undetected(names, kind)
    attributes = frozenset[str]()
    if "ratings" not in names and kind == "rating":
        attributes = _attribute_columns(rows, names, declared)
        if not attributes:
            _refuse_quoted(rows, names)
            raise _undetected(names, kind)
    margins = [float(m) for row in rows if is_number(m := row.get("margin")) and 0 < m <= LARGEST]
    texts = (row.get("prompt" if "prompt" in names else "chosen") for row in rows)
    standard = isinstance(next((text for text in texts if text is not None), None), str)
    return FileLayout(
        convention=convention,
        facts=Facts(attributes, median(margins) if margins else 0.0, declared),
        style="standard" if standard else "conversational",
        extra=tuple(sorted(names - convention.required - attributes - _KNOWN)),
    )


def to_record(row: Row, layout: FileLayout) -> Rating | Preference:
    """Return the record of one row of a file.

    Args:
        row: columns of the row, by name.
        layout: layout of the file.

    Raises:
        DataError: The row is bad. The message names the field, value and fix; the caller adds the place.
    """
    rest = dict(row)
    side = _side(rest, strict=layout.convention.strict)
    fields = layout.convention.convert(rest, layout.facts)
    model = Rating if layout.convention.kind == "rating" else Preference
    if layout.convention.strict:
        for key in rest:
            raise DataError(f"unknown column '{key}' ({short(rest[key])})", fix=did_you_mean(key, model.model_fields))
    else:
        fields = _in_context(fields, rest)
    kept = {key: value for key, value in rest.items() if value is not None and value == value}
    meta = as_json(kept) | as_json(side.pop("meta", {}))
    return validate(model, {**side, **fields, "meta": meta})


def to_unlabelled(row: Row) -> Rating | Preference:
    """Return the conversations in one row, without labels and meta, based on the columns in which it has a value.

    Raises:
        DataError: The columns contain no conversation, or a bad one; the caller adds the place.
    """
    filled = as_asked({key: value for key, value in row.items() if value is not None and key not in _LABELS})
    convention = next((c for c in _UNLABELLED if c.required - _LABELS <= filled.keys()), None)
    if convention is None:
        raise _no_conversation(frozenset(filled))
    side = _side(filled, strict=False)
    side.pop("meta", None)
    fields = _in_context(convention.convert(filled, Facts()), filled)
    return validate(Rating if convention.kind == "rating" else Preference, {**side, **fields})


def _in_context(fields: Row, rest: Row) -> Row:
    """Add the turn from a ``system`` column to ``fields``; refuse columns whose content would be ignored."""
    for key in _UNREAD:
        if isinstance(rest.get(key), (list, tuple, dict, bytes)) and rest[key]:
            raise DataError(
                f"'{key}' is {short(rest[key], 60)}, which would be ignored", fix=f"drop '{key}', or the row"
            )
    key = "messages" if "messages" in fields else "prompt"
    said = next((rest.pop(name) for name in ("system", "system_prompt") if isinstance(rest.get(name), str)), "")
    if not said.strip():
        return fields
    turns = fields[key]
    if turns and turns[0].get("role") == "system":
        if turns[0].get("content") == said:
            return fields
        raise DataError(f"two system turns: {short(turns[0].get('content'), 40)}, {short(said, 40)}", fix="give one")
    return {**fields, key: [{"role": "system", "content": said}, *turns]}


def _no_conversation(names: frozenset[str]) -> DataError:
    lone = sorted(names & {"chosen", "rejected", "responses", "prompt", "response", "completion"})
    return DataError(
        f"no conversation in the columns {short(sorted(names))}",
        fix=f"{'beside ' + lone[0] + ' ' if lone else ''}give one of: messages; prompt and response; "
        "prompt, chosen and rejected; chosen and rejected; prompt and responses",
    )


def record_kind(rows: Sequence[Row]) -> RecordKind:
    """Return the kind of record in ``rows``: preferences if the columns compare responses, else ratings."""
    names = frozenset(key for row in rows for key in row)
    kind = next((c.kind for c in _BY_ANSWERS if c.required <= names), None)
    return kind or ("rating" if find_foreign(rows, "preference") is None else "preference")


def _undetected(names: frozenset[str], kind: RecordKind) -> DataError:
    other = next((c for c in CONVENTIONS if c.kind != kind and c.required <= names), None)
    if other is not None and (other.kind == "preference" or "ratings" in names):
        return DataError(
            f"{kind}s were asked for, but the columns {sorted(names)} hold {other.kind}s ({other.name})",
            fix=f"read it as {other.kind}s",
        )
    known = {c.name: c.columns for c in CONVENTIONS if c.kind == kind} | dict(FOREIGN_COLUMNS[kind])
    listed = "\n".join(f"  {columns} [{name}]" for name, columns in known.items())
    problem = f"no {kind} convention has the columns {short(sorted(names), 300)}; it may have\n{listed}"
    return DataError(problem, fix="rename the columns to those of one convention")


def _attribute_columns(
    rows: Sequence[Row], names: frozenset[str], declared: Mapping[str, Objective] | None
) -> frozenset[str]:
    """Return the columns of declared objectives, or, if none are declared, all other columns that contain a number."""
    free = names - _KNOWN - {"messages", "prompt"}
    if declared is not None and free & declared.keys():
        return free & declared.keys()
    found = (key for key in free if any(isinstance(row.get(key), (bool, int, float)) for row in rows))
    return frozenset(
        key for key in found if not (is_no_rating(key) and any(isinstance(row.get(key), str) for row in rows))
    )


def _refuse_quoted(rows: Sequence[Row], names: frozenset[str]) -> None:
    """Refuse a file whose only numbers are written as text."""
    quoted = [n for n in sorted(names - _KNOWN) if any(is_quoted_number(row.get(n)) for row in rows)]
    if quoted:
        raise DataError(f"the numbers in {short(quoted)} are text", fix="write them unquoted: 4, not '4'")


def _side(rest: Row, *, strict: bool) -> Row:
    """Remove the columns that describe the origin of a row from ``rest`` and return them."""
    if not strict and "category" in rest and rest.get("task") is None:
        rest["task"] = rest.pop("category")
    side: Row = {}
    for key in _SIDE:
        value = rest.get(key)
        if strict or isinstance(value, str):
            if rest.pop(key, None) is not None:
                side[key] = value
        elif isinstance(value, int):
            side[key] = str(rest.pop(key))
    meta = rest.get("meta")
    if isinstance(meta, str) and strict:
        try:
            meta = json.loads(meta)
        except json.JSONDecodeError:
            raise DataError(f"'meta' is {short(meta)}", fix="write a JSON object") from None
    if isinstance(meta, dict) or (strict and meta is not None):
        rest.pop("meta")
        side["meta"] = meta
        if not isinstance(meta, dict):
            raise DataError(f"'meta' is {short(meta)}", fix="write an object")
    elif meta is None:
        rest.pop("meta", None)
    return side


_BY_ANSWERS = tuple(sorted(CONVENTIONS, key=lambda convention: convention.kind == "rating"))
_UNLABELLED = tuple(convention for convention in _BY_ANSWERS if convention.name != "facetrm pack")
