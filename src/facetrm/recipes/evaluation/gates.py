"""Exit codes for continuous integration: a figure below a bound, or pairs that another model orders differently.

--fail-under NAME=VALUE              a figure of a system is below VALUE
--against RESULTS --tolerance X      a figure fell by more than X against an earlier result
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias, final

from facetrm.core.errors import ConfigError, DataError
from facetrm.data.read.rows import read_rows
from facetrm.recipes.evaluation.stored_results import RESULTS, ROWS, read_results

_MOST: Final = 200
_SHOWN: Final = 40
"""Number of figures that an error lists."""
_NONE: Final = "an audit has none (its thresholds stand in --thresholds FILE): add --on BENCHMARK"
_ROUNDING: Final = 1e-9
_Key: TypeAlias = tuple[str, str, str]
"""Benchmark, subset and id of a question."""


@final
@dataclass(frozen=True)
class Bound:
    """A bound of ``--fail-under``.

    Attributes:
        name: ``FIGURE`` or ``BENCHMARK/FIGURE``.
        value: Smallest value that passes.
    """

    name: str
    value: float


@final
@dataclass(frozen=True)
class FlippedItem:
    """A question that was right before and is wrong now, or the other way round.

    Attributes:
        benchmark: Name of the benchmark.
        subset: Subset of the question.
        id: Id of the question.
        before: ItemVerdict before.
        now: ItemVerdict now.
        cause: Objective whose contribution to the margin changed most; None if unknown.
        change: Change of that contribution.
    """

    benchmark: str
    subset: str
    id: str
    before: str
    now: str
    cause: str | None
    change: float | None


def read_bounds(given: Sequence[str]) -> list[Bound]:
    """Return the bounds of ``NAME=VALUE`` texts.

    Args:
        given: Texts of the command line.

    Raises:
        ConfigError: A text has another form.
    """
    bounds = []
    for text in given:
        name, _, value = text.rpartition("=")
        try:
            bounds.append(Bound(name.strip(), float(value)))
        except ValueError:
            name = ""
        if not name.strip() or not math.isfinite(bounds[-1].value):
            raise ConfigError(
                f"'{text}' is no bound", place="--fail-under", fix="write FIGURE=VALUE, such as total=0.7"
            )
    return bounds


def check_bounds(bounds: Sequence[Bound], figures: Mapping[str, Collection[str]]) -> None:
    """Refuse a bound that names no figure, before anything is scored.

    Args:
        bounds: The bounds.
        figures: Names of the figures of each benchmark.

    Raises:
        ConfigError: No benchmark has a figure of that name.
    """
    plain = dict.fromkeys(figure for held in figures.values() for figure in held)
    known = [*plain, *(f"{benchmark}/{figure}" for benchmark, held in figures.items() for figure in held)]
    for bound in bounds:
        if bound.name not in known:
            more = f" and {len(plain) - _SHOWN} more" if len(plain) > _SHOWN else ""
            listed = f"the figures are {', '.join(list(plain)[:_SHOWN])}{more}" if plain else _NONE
            near = difflib.get_close_matches(bound.name[:200], known, n=1)
            fix = f"did you mean '{near[0]}'? {listed}" if near else listed
            raise ConfigError(f"no figure '{bound.name}'", place="--fail-under", fix=fix)


def missed_bounds(results: Mapping[str, Any], bounds: Sequence[Bound]) -> list[str]:
    """Return one sentence per figure that is below its bound.

    Args:
        results: Content of ``results.json``.
        bounds: The bounds.
    """
    said = []
    for bound in bounds:
        for name, one in _judged_sets(results).items():
            for figure, row in one["figures"].items():
                if bound.name not in (figure, f"{name}/{figure}"):
                    continue
                for system in one["systems"]:
                    value = row[system]["value"]
                    if value is None or value < bound.value:
                        shown = "nothing" if value is None else f"{value:.4f}"
                        said.append(f"{system}: {name}/{figure} is {shown}, below {bound.value:g}")
    return said


def _judged_sets(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return the benchmarks and the files of ratings of a result, by name."""
    ratings = results.get("ratings") or {}
    return {**results["benchmarks"], **{name: one for name, one in ratings.items() if "figures" in one}}


def read_earlier(earlier: Path, *, out: Path, benchmarks: Collection[str]) -> dict[str, Any]:
    """Return the earlier result that the new one is compared with.

    Args:
        earlier: Folder of the earlier result, or its ``results.json``.
        out: Folder of the new result.
        benchmarks: Names of the benchmarks and files of ratings of the new result.

    Raises:
        DataError: The earlier result is missing or broken, or has no benchmark in common.
        ConfigError: It is in the folder of the new result, which replaces it.
    """
    if not earlier.exists():
        raise DataError("no such folder", place=f"--against {earlier}", fix="give the folder that 'facetrm eval' wrote")
    path = (earlier if earlier.is_dir() else earlier.parent) / RESULTS
    if path.parent.resolve() == out.resolve():
        raise ConfigError(
            f"'{earlier}' is the folder of the new result", place="--against", fix="give another folder with --out"
        )
    found = read_results(path)
    held = _judged_sets(found)
    if not set(held).intersection(benchmarks):
        raise DataError("no benchmark in common", place=path, fix=f"it has {', '.join(held) or 'none'}")
    return found


def compare_results(
    results: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    earlier: Path,
    before: Mapping[str, Any],
    *,
    tolerance: float,
) -> dict[str, Any]:
    """Return what changed against an earlier result: figures, slices, flipped questions and their causes.

    The first system of both results is compared.

    Args:
        results: Content of ``results.json``.
        rows: Rows of ``rows.jsonl``.
        earlier: Folder of the earlier result, or its ``results.json``.
        before: Content of the earlier ``results.json``.
        tolerance: A figure or slice that fell by more than this has failed.

    Raises:
        DataError: Its rows are broken.
    """
    folder = earlier if earlier.is_dir() else earlier.parent
    earlier_sets, sets = _judged_sets(before), _judged_sets(results)
    common = [name for name in sets if name in earlier_sets]
    old, new = next(iter(before["models"])), next(iter(results["models"]))
    figures = []
    for name in common:
        for part in ("figures", "slices"):
            then, now = earlier_sets[name].get(part, {}), sets[name].get(part, {})
            for figure in now:
                values = [then.get(figure, {}).get(old, {}).get("value"), now[figure][new]["value"]]
                if None not in values:
                    change = values[1] - values[0]
                    fallen = change < -tolerance - _ROUNDING
                    figures.append(
                        {
                            "benchmark": name,
                            "part": part,
                            "name": figure,
                            "before": values[0],
                            "now": values[1],
                            "change": change,
                            "failed": fallen,
                        }
                    )
    flips = _flips(_rows_of(folder / ROWS, old), {_key(row): row for row in rows if row["model"] == new})
    causes: dict[str, int] = {}
    for flip in flips:
        if flip.cause is not None:
            causes[flip.cause] = causes.get(flip.cause, 0) + 1
    return {
        "earlier": old,
        "model": new,
        "tolerance": tolerance,
        "other_rows": [name for name in common if _sums(earlier_sets[name]) != _sums(sets[name])],
        "figures": figures,
        "failed": [one for one in figures if one["failed"]],
        "flipped": {
            "to_wrong": sum(flip.before == "right" for flip in flips),
            "to_right": sum(flip.now == "right" for flip in flips),
            "by_objective": dict(sorted(causes.items(), key=lambda item: -item[1])),
            "questions": [asdict(flip) for flip in flips[:_MOST]],
        },
    }


def _sums(one: Mapping[str, Any]) -> list[str]:
    return sorted(str(file["sha256"]) for file in one["files"])


def _key(row: Mapping[str, Any]) -> _Key:
    return str(row["benchmark"]), str(row["subset"]), str(row["id"])


def _rows_of(path: Path, model: str) -> dict[_Key, Mapping[str, Any]]:
    rows: dict[_Key, Mapping[str, Any]] = {}
    for raw in read_rows(path):
        row = raw.value
        if row is None or not {"benchmark", "subset", "id", "model", "verdict"} <= row.keys() or not _parts(row):
            raise DataError("no row of 'facetrm eval'", place=f"{path}:{raw.number}", fix="evaluate again")
        if row["model"] == model:
            rows[_key(row)] = row
    return rows


def _parts(row: Mapping[str, Any]) -> bool:
    """Return whether the contributions to the margin, if any, are numbers by name."""
    held = row.get("differences") or {}
    return isinstance(held, dict) and all(isinstance(value, int | float) for value in held.values())


def _flips(before: Mapping[_Key, Mapping[str, Any]], now: Mapping[_Key, Mapping[str, Any]]) -> list[FlippedItem]:
    flips = []
    for key, row in now.items():
        old = before.get(key)
        if old is None or (old["verdict"] == "right") == (row["verdict"] == "right"):
            continue
        then, new = old.get("differences") or {}, row.get("differences") or {}
        changes = {name: new.get(name, 0.0) - then.get(name, 0.0) for name in {*then, *new}} if then and new else {}
        cause = max(sorted(changes), key=lambda name: abs(changes[name]), default=None)
        change = None if cause is None else changes[cause]
        benchmark, subset, name = key
        flips.append(FlippedItem(benchmark, subset, name, str(old["verdict"]), str(row["verdict"]), cause, change))
    return flips
