"""Data packs (folders of ratings, preferences and their objectives), and objectives declared in a YAML file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from pydantic import ValidationError

from facetrm.core.config import load_yaml
from facetrm.core.errors import DataError
from facetrm.core.files import read_json
from facetrm.data.objectives import Direction, Objective, RatingKind, check_unique
from facetrm.data.read.columns import short
from facetrm.data.read.files import OnError, read_preferences, read_ratings
from facetrm.data.records import Preference, Rating

_INTEGER = frozenset({"integer", "mean of integers", "mean of 3 integers"})
_DIRECTIONS: dict[str, Direction] = {"higher_is_better": "higher", "lower_is_better": "lower", "unknown": "unknown"}


@final
@dataclass(frozen=True)
class RatingsPack:
    """The content of one data pack. Every rating has a declared objective and is within its range."""

    ratings: list[Rating]
    preferences: list[Preference]
    objectives: list[Objective]


def read_pack(folder: Path | str, *, on_error: OnError = "raise", skipped_to: Path | str | None = None) -> RatingsPack:
    """Read ``sources.json``, ``rated.jsonl.gz`` and ``preferences.jsonl.gz`` (``.gz`` is optional) from a folder.

    Args:
        folder: folder of the pack.
        on_error: ``raise`` at the first bad row, or ``skip`` bad rows, write them to side files and count them.
        skipped_to: folder for the side files; None for the pack's folder.

    Returns:
        The records in file order (``category`` is read as ``task``), the objectives in the order of ``sources.json``.

    Raises:
        DataError: A file is missing, an attribute is not described, or a row is bad.
    """
    folder = Path(folder)
    objectives = pack_objectives(folder / "sources.json")
    ratings = read_ratings(_find(folder, "rated"), objectives=objectives, on_error=on_error, skipped_to=skipped_to)
    preferences = read_preferences(_find(folder, "preferences"), on_error=on_error, skipped_to=skipped_to)
    return RatingsPack(ratings, preferences, objectives)


def pack_objectives(path: Path) -> list[Objective]:
    """Return the objectives that a pack's ``sources.json`` describes.

    The type decides the map to [0, 1]: ``integer`` and means of integers take bin centres, ``binary`` is boolean,
    everything else (half steps, shares, counts, means of 0/1) is continuous.

    Raises:
        DataError: An attribute has no range or no direction.
    """
    described = read_json(path, DataError, fix="give the folder of a pack, with its sources.json")
    objectives = []
    sources = _entry(described, "rated", path) if isinstance(described, dict) else {}
    for source in sources:
        attributes = _entry(_entry(sources, source, f"{path}: rated"), "attributes", f"{path}: {source}")
        for name in attributes:
            attribute = _entry(attributes, name, f"{path}: {source}")
            objectives.append(_pack_objective(name, attribute, source, f"{path}: {source}: {name}"))
    if not objectives:
        raise DataError("no attribute under 'rated'", place=path, fix="give the sources.json of a pack")
    check_unique(objectives)
    return objectives


def _entry(owner: dict[str, Any], key: str, place: object) -> dict[str, Any]:
    value = owner.get(key, {})
    if not isinstance(value, dict):
        raise DataError(f"'{key}' is {short(value)}", place=place, fix="write an object there: {name: ...}")
    return value


def _pack_objective(name: str, attribute: dict[str, Any], source: str, place: str) -> Objective:
    kind: RatingKind = "continuous"
    if str(attribute.get("type")) in _INTEGER:
        kind = "integer"
    elif attribute.get("type") == "binary":
        kind = "boolean"
    direction = attribute.get("direction")
    if not isinstance(direction, str) or direction not in _DIRECTIONS:
        raise DataError(f"'direction' is {direction!r}", place=place, fix=f"write one of {', '.join(_DIRECTIONS)}")
    fields = {
        "name": name,
        "low": attribute.get("min"),
        "high": attribute.get("max"),
        "kind": kind,
        "direction": _DIRECTIONS[direction],
        "meaning": attribute.get("description", ""),
        "rater": attribute.get("rater", ""),
        "source": source,
    }
    return _objective(fields, place)


def read_objectives(path: Path | str) -> list[Objective]:
    """Read objectives from a YAML list with ``name``, ``low``, ``high`` and optional settings.

    ::

        - name: mine-helpfulness
          low: 0
          high: 4
          kind: integer          # or boolean, continuous
          direction: higher      # or lower, unknown
          meaning: does the answer do what was asked

    Raises:
        DataError: An entry is wrong. The message names the entry, the key, the value and the fix.
    """
    path = Path(path)
    value = load_yaml(path, DataError, what="a YAML list of objectives")
    if not isinstance(value, list) or not value:
        raise DataError(f"{short(value)} is not a list of objectives", place=path, fix="start with '- name: ...'")
    objectives = []
    for n, entry in enumerate(value, start=1):
        if not isinstance(entry, dict):
            raise DataError(
                f"entry {n} is {short(entry)}", place=path, fix="write '- name: ...' with low and high below"
            )
        objectives.append(_objective(entry, f"{path}: entry {n} ({entry.get('name', 'no name')})"))
    check_unique(objectives)
    return objectives


def _objective(fields: dict[str, Any], place: str) -> Objective:
    try:
        return Objective.model_validate(fields)
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_context=False)[0]
    key = ".".join(str(part) for part in first["loc"]) or "range"
    if first["type"] == "missing":
        raise DataError(f"'{key}' is missing", place=place, fix=f"add '{key}'")
    if first["type"] == "extra_forbidden":
        raise DataError(f"unknown key '{key}'", place=place, fix=f"known: {', '.join(Objective.model_fields)}")
    message = first["msg"].removeprefix("Value error, ")
    value = short({k: fields[k] for k in ("low", "high", "kind") if k in fields}) if key == "range" else first["input"]
    raise DataError(f"'{key}' is {value!r}" if key != "range" else f"the range is {value}", place=place, fix=message)


def _find(folder: Path, stem: str) -> Path:
    names = [f"{stem}.jsonl.gz", f"{stem}.jsonl", f"{stem}.parquet"]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise DataError(f"no {names[0]}", place=folder, fix=f"put {' or '.join(names)} there")
