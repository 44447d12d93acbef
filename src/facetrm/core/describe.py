"""Help text for the settings of a section: name, type, default and description from the docstring."""

from __future__ import annotations

import inspect
import re
import textwrap
import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, Union, final, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from facetrm.core.config import Section

_ENTRY: Final = re.compile(r"(?:^|(?<=[.;] ))([a-z_][a-z0-9_]*(?:, [a-z_][a-z0-9_]*)*): ")
_SENTENCE: Final = re.compile(r"(?<=[^.])\.(?=\s)")
_NAMES: Final = {"str": "text", "int": "integer", "float": "number", "bool": "true or false", "NoneType": "null"}


@final
@dataclass(frozen=True)
class SettingHelp:
    """One setting.

    Attributes:
        name: Name as written after ``--set``, with dots for nested sections.
        kind: Type in words, such as ``integer or null``.
        default: Default value as YAML, or ``required`` if there is none.
        about: First sentence of the description; empty if the docstring has none.
    """

    name: str
    kind: str
    default: str
    about: str


def describe_settings(section: type[Section], *, skip: tuple[str, ...] = ()) -> list[SettingHelp]:
    """Return every setting of a section and its nested sections, in the order of the code.

    Args:
        section: section class.
        skip: names to leave out, such as settings that have their own command-line option.
    """
    return _describe(section, "", skip)


def settings_text(section: type[Section], *, skip: tuple[str, ...] = (), width: int = 100) -> str:
    """Return :func:`describe_settings` as lines for a terminal: ``name  kind, default: about``.

    Args:
        section: section class.
        skip: names to leave out.
        width: maximum line length in characters.
    """
    rows = describe_settings(section, skip=skip)
    indent = max((len(row.name) for row in rows), default=0) + 2
    lines = []
    for row in rows:
        known = row.kind if row.default == "required" else f"{row.kind}, default {row.default}"
        text = f"{known}{': ' if row.about else ''}{row.about}"
        lines += textwrap.wrap(
            f"{row.name:{indent}}{text}", width, subsequent_indent=" " * indent, break_long_words=False
        )
    return "\n".join(lines)


def _describe(section: type[BaseModel], prefix: str, skip: tuple[str, ...]) -> list[SettingHelp]:
    about, found = _descriptions(section), []
    for name, field in section.model_fields.items():
        if prefix + name in skip:
            continue
        inner = _inner_section(field.annotation)
        if inner is not None:
            found += _describe(inner, f"{prefix}{name}.", skip)
        else:
            found.append(SettingHelp(prefix + name, _kind(field.annotation), _default(field), about.get(name, "")))
    return found


def _inner_section(kind: Any) -> type[BaseModel] | None:
    """Return the section class of a field, or None unless the field allows exactly one."""
    held = [part for part in (get_args(kind) or (kind,)) if isinstance(part, type) and issubclass(part, BaseModel)]
    return held[0] if len(held) == 1 and get_origin(kind) in (None, Union, types.UnionType, Annotated) else None


def _kind(kind: Any) -> str:
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _kind(parts[0])
    if origin is Literal:
        return " | ".join(str(part) for part in parts)
    if origin in (Union, types.UnionType):
        return " or ".join(_kind(part) for part in parts)
    if isinstance(origin, type):
        if issubclass(origin, Mapping):
            return "mapping"
        return f"list of {_kind(parts[0])}" if parts else "list"
    name = getattr(kind, "__name__", "any value")
    return _NAMES.get(name, {"Any": "any value", "Path": "path"}.get(name, name))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True) if field.default is PydanticUndefined else field.default
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, BaseModel):
        return "as below"
    return str(list(value) if isinstance(value, tuple | set | frozenset) else value) or "''"


def _descriptions(section: type[BaseModel]) -> dict[str, str]:
    """Return the first sentence about each attribute, from the docstrings of a section and its base classes."""
    found: dict[str, str] = {}
    for kind in reversed(section.__mro__):
        if not (isinstance(kind, type) and issubclass(kind, BaseModel) and kind.__doc__):
            continue
        _, _, below = inspect.cleandoc(kind.__doc__).partition("Attributes:\n")
        for entry in re.split(r"\n(?=    \S)", "\n" + below.split("\n\n")[0]):
            # One line may describe several attributes: "path: The folder. seed: The random seed."
            line = " ".join(entry.replace("``", "").split())
            marks = [mark for mark in _ENTRY.finditer(line) if {*mark[1].split(", ")} <= section.model_fields.keys()]
            for n, mark in enumerate(marks):
                text = line[mark.end() : marks[n + 1].start() if n + 1 < len(marks) else None]
                sentence = _SENTENCE.split(text, maxsplit=1)[0].strip(".; ")
                found |= dict.fromkeys(mark[1].split(", "), sentence)
    return found
