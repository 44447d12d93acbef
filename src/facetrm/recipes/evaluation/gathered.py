"""Gather what evaluations and training runs wrote into the content of one report.

Benchmarks of several folders are compared only if their rows are the same: the sha256 of their files, their counts and
the totals of the longest and the shortest answer must agree. Otherwise they stand apart, with a note.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from facetrm.core.errors import DataError
from facetrm.data.read.rows import read_rows
from facetrm.evaluate.benchmarks.benchmark import missing_text
from facetrm.recipes.evaluation.audit_files import read_audits
from facetrm.recipes.evaluation.audited import AUDIT_FILE
from facetrm.recipes.evaluation.calibrated import calibrated
from facetrm.recipes.evaluation.exports import file_name
from facetrm.recipes.evaluation.run_files import METRICS, read_run
from facetrm.recipes.evaluation.stored_results import (
    ABOUT,
    FIX,
    MADE,
    RESULTS,
    ROWS,
    mapping,
    measured_figure,
    read_results,
)
from facetrm.report.evaluated.audit_part import AuditPart
from facetrm.report.evaluated.content import EvaluationReport
from facetrm.report.evaluated.measured import (
    BenchmarkPart,
    JudgedQuestion,
    MeasuredFigure,
    RankFigure,
    RatedPart,
    RunPart,
    Texts,
)


def gather_results(places: Sequence[Path]) -> EvaluationReport:
    """Return the content of the report of evaluations and runs.

    Args:
        places: Folders that ``facetrm eval`` or ``facetrm run`` wrote, or files ``results.json``, ``metrics.json`` or
            ``audit.json`` of them.

    Raises:
        DataError: A place is none of these, or a file in it is broken.
    """
    parts: list[BenchmarkPart] = []
    runs: list[RunPart] = []
    models: dict[str, Mapping[str, Any]] = {}
    made: list[Mapping[str, Any]] = []
    notes: list[str] = []
    rated: list[RatedPart] = []
    audits: list[AuditPart] = []
    for folder in dict.fromkeys(_folder(place) for place in places):
        if folder.is_file() and folder.suffix == ".json":
            audits += _renamed(read_audits(folder), audits, folder.parent)
        elif (folder / RESULTS).is_file():
            results = read_results(folder / RESULTS)
            names = _distinct(results["models"], models, folder)
            models |= {names[name]: about for name, about in results["models"].items()}
            made.append({"folder": folder.name, **{k: results[k] for k in MADE}})
            plain = {names[name] for name, about in results["models"].items() if about.get("kind") == "baseline"}
            for name, one in results["benchmarks"].items():
                part = _part(folder, name, one, names)
                _add(parts, replace(part, plain=frozenset(plain.intersection(part.models))), folder, notes)
            for name, one in mapping(results.get("ratings") or {}, folder / RESULTS, "ratings").items():
                _add_rated(rated, _rated(name, one, names, folder / RESULTS), folder)
            audit = results.get("audit")
            if audit is not None and (folder / AUDIT_FILE).is_file():
                data = str(mapping(audit, folder / RESULTS, "audit").get("data", ""))
                order = [name for name in results["models"] if names[name] not in plain]
                found = read_audits(folder / AUDIT_FILE, data=Path(data).name, order=[*order, *results["models"]])
                audits += _renamed(found, audits, folder)
        elif (folder / METRICS).is_file():
            runs.append(read_run(folder))
        else:
            raise DataError(
                f"neither {RESULTS} nor {METRICS}",
                place=folder,
                fix="give a folder that 'facetrm eval' or 'facetrm run' wrote, or an audit.json",
            )
    fitted = {
        (part.name, model): one
        for part in parts
        for model in part.models
        if (one := calibrated(part, model)) is not None
    }
    return EvaluationReport(
        models, tuple(parts), tuple(runs), tuple(made), fitted, tuple(rated), tuple(audits), tuple(notes)
    )


def _folder(place: Path) -> Path:
    """Return the folder of a result or of a run; an audit of its own stays a file."""
    if place.is_file() and place.name in (RESULTS, METRICS):
        return place.parent
    return place


def _renamed(found: Sequence[AuditPart], taken: Sequence[AuditPart], folder: Path) -> list[AuditPart]:
    """Return the audits; one of a model whose name is taken gets its folder's name."""
    names = {one.model for one in taken}
    return [replace(one, model=f"{one.model} ({folder.name})") if one.model in names else one for one in found]


def _distinct(names: Mapping[str, Any], taken: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """Return the name of each model in the report: that of another model with the same name gets its folder's."""
    found: dict[str, str] = {}
    for name, about in names.items():
        shown, n = name, 2
        if name in taken and taken[name].get("hash") != about.get("hash"):
            shown = f"{name} ({folder.name})"
            while shown in taken:
                shown, n = f"{name} ({folder.name}, {n})", n + 1
        found[name] = shown
    return found


def _part(folder: Path, name: str, one: Mapping[str, Any], names: Mapping[str, str]) -> BenchmarkPart:
    path, where = folder / RESULTS, f"benchmarks.{name}"
    differences: dict[tuple[str, str], dict[str, MeasuredFigure | None]] = {}
    systems = list(one["systems"])
    for other in systems[1:]:
        key = f"{systems[0]} - {other}"
        held = mapping(mapping(one["differences"], path, f"{where}.differences").get(key, {}), path, key)
        figures = mapping(held.get("figures", {}), path, f"{where}.differences.{key}.figures")
        differences[names[systems[0]], names[other]] = {
            figure: measured_figure(row, path, f"{where}.differences.{key}.figures.{figure}")
            for figure, row in figures.items()
        }
    missing = [str(subset) for subset in one.get("missing", ())]
    return BenchmarkPart(
        name,
        str(one["title"]),
        tuple(names[system] for system in systems),
        _table(one["figures"], names, path, f"{where}.figures"),
        _table(one["slices"], names, path, f"{where}.slices"),
        differences,
        _answered(folder / ROWS, name, names),
        _texts(folder, name, systems),
        {
            **{key: one[key] for key in ABOUT},
            "missing": missing,
            "systems": {names[s]: row for s, row in one["systems"].items()},
        },
        note=missing_text(missing),
    )


def _table(held: Any, names: Mapping[str, str], path: Path, where: str) -> dict[str, dict[str, MeasuredFigure | None]]:
    return {
        figure: {
            names.get(system, system): measured_figure(value, path, f"{where}.{figure}.{system}")
            for system, value in mapping(row, path, f"{where}.{figure}").items()
        }
        for figure, row in mapping(held, path, where).items()
    }


def _answered(path: Path, benchmark: str, names: Mapping[str, str]) -> dict[str, dict[tuple[str, str], JudgedQuestion]]:
    found: dict[str, dict[tuple[str, str], JudgedQuestion]] = {}
    for raw in read_rows(path) if path.exists() else ():
        try:
            row: dict[str, Any] = raw.value or {}
            if row["benchmark"] != benchmark:
                continue
            one = _one_answered(row)
            found.setdefault(names[row["model"]], {})[one.subset, one.id] = one
        except (KeyError, TypeError, ValueError, AttributeError) as exc:
            raise DataError(f"no row of 'facetrm eval' ({exc})", place=f"{path}:{raw.number}", fix=FIX) from None
    return found


def _one_answered(row: Mapping[str, Any]) -> JudgedQuestion:
    scores, right, tokens = row["scores"], int(row["right"]), row["tokens"]
    margin, longer_by = None, None
    if 0 < right < len(scores) and None not in scores:
        margin = float(max(scores[:right]) - max(scores[right:]))
    if len(tokens) == 2 and right == 1 and all(tokens):
        longer_by = int(tokens[0] - tokens[1])
    parts = {str(name): float(value) for name, value in (row.get("differences") or {}).items()}
    return JudgedQuestion(
        str(row["id"]), str(row["subset"]), row["task"], str(row["verdict"]), margin, len(scores), longer_by, parts
    )


def _texts(folder: Path, benchmark: str, systems: Sequence[str]) -> dict[tuple[str, str], Texts]:
    for system in systems:
        path = folder / "every_eval_ever" / f"{file_name(benchmark)}-{file_name(system)}_samples.jsonl"
        if not path.is_file():
            continue
        found: dict[tuple[str, str], Texts] = {}
        for raw in read_rows(path):
            try:
                row: dict[str, Any] = raw.value or {}
                subset = str(row["metadata"]["subset"])
                given, right = row["input"], len(row["input"]["reference"])
                choices = tuple(str(choice) for choice in given["choices"])
                key = subset, str(row["sample_id"]).removeprefix(f"{subset}/")
                found[key] = Texts(str(given["raw"]), choices[:right], choices[right:])
            except (KeyError, TypeError, AttributeError) as exc:
                raise DataError(f"no sample of 'facetrm eval' ({exc})", place=f"{path}:{raw.number}", fix=FIX) from None
        return found
    return {}


def _add(parts: list[BenchmarkPart], part: BenchmarkPart, folder: Path, notes: list[str]) -> None:
    """Add a benchmark to the one with the same rows, or by itself."""
    same_name = [n for n, other in enumerate(parts) if other.name == part.name]
    for n, other in enumerate(parts):
        if other.name == part.name and _rows_of(other) == _rows_of(part):
            new = [model for model in part.models if model not in other.models]
            if len(new) < len(part.models):
                again = [model for model in part.models if model in other.models]
                notes.append(f"{', '.join(again)} on {part.name} is in two folders; the first one counts.")
            parts[n] = _merged(other, part, new)
            return
    if same_name:
        note = f"These are other rows than those of the first '{part.name}', so the two are not compared."
        notes.append(f"{part.name} in {folder.name} has other rows, so it stands apart.")
        name, said = f"{part.name} ({folder.name}, {len(same_name) + 1})", f"{part.note} {note}".strip()
        part = replace(part, name=name, note=said)
    parts.append(part)


def _rows_of(part: BenchmarkPart) -> tuple[Any, ...]:
    files = tuple(sorted(str(one["sha256"]) for one in part.about["files"]))
    return files, part.about["rows"], part.about["counts"], part.total("longest"), part.total("shortest")


def _merged(old: BenchmarkPart, part: BenchmarkPart, new: Sequence[str]) -> BenchmarkPart:
    def tables(a: Any, b: Any) -> dict[str, dict[str, MeasuredFigure | None]]:
        return {
            figure: {**a.get(figure, {}), **{model: row[model] for model in new if model in row}}
            for figure, row in {**a, **b}.items()
        }

    kept = {model: part.about["systems"][model] for model in new}
    return replace(
        old,
        plain=old.plain | part.plain.intersection(new),
        models=(*old.models, *new),
        figures=tables(old.figures, part.figures),
        slices=tables(old.slices, part.slices),
        differences={**part.differences, **old.differences},
        answered={**{model: part.answered[model] for model in new if model in part.answered}, **old.answered},
        texts=old.texts or part.texts,
        about={**old.about, "systems": {**old.about["systems"], **kept}},
    )


def _rated(name: str, one: Any, names: Mapping[str, str], path: Path) -> RatedPart:
    """Return the rank correlations of the models on a file of ratings."""
    figures: dict[str, dict[str, RankFigure]] = {}
    try:
        for model, table in one["systems"].items():
            for objective, held in table.items():
                own = "own" in held
                found = held["own" if own else "reward"]
                figures.setdefault(objective, {})[names[model]] = RankFigure(
                    own,
                    measured_figure(found["spearman"], path, f"ratings.{name}.{objective}"),
                    None if found["kendall"]["value"] is None else float(found["kendall"]["value"]),
                    int(held["rows"]),
                    int(held["failed"]),
                )
        models = tuple(names[model] for model in one["systems"])
        held = (one["figures"].get("spearman", {}).get(model) for model in one["systems"])
        means = {
            names[model]: mean
            for model, found in zip(one["systems"], held, strict=True)
            if found and (mean := measured_figure(found, path, f"ratings.{name}.figures.spearman")) is not None
        }
        return RatedPart(name, int(one["rows"]), models, tuple(x["sha256"] for x in one["files"]), figures, means)
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        raise DataError(f"key 'ratings.{name}' is broken ({exc})", place=path, fix=FIX) from None


def _add_rated(parts: list[RatedPart], part: RatedPart, folder: Path) -> None:
    """Add a file of ratings to the same file of another folder, or by itself."""
    for n, other in enumerate(parts):
        if (other.name, other.files, other.rows) == (part.name, part.files, part.rows):
            new = tuple(model for model in part.models if model not in other.models)
            figures = {
                objective: {**part.figures.get(objective, {}), **other.figures.get(objective, {})}
                for objective in {**other.figures, **part.figures}
            }
            means = {**part.means, **other.means}
            parts[n] = replace(other, models=(*other.models, *new), figures=figures, means=means)
            return
    taken = any(other.name == part.name for other in parts)
    parts.append(replace(part, name=f"{part.name} ({folder.name})") if taken else part)
