"""The report of evaluations as HTML, Markdown and JSON. A section without data is left out."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, final

from facetrm.core.files import write_text
from facetrm.evaluate.benchmarks.benchmark import TOTAL
from facetrm.evaluate.benchmarks.result import BASELINES
from facetrm.report.axes import Axis
from facetrm.report.charts import Chart, curves, heat_map
from facetrm.report.evaluated.answer import answer_sentences, systems_of
from facetrm.report.evaluated.audit_part import AuditPart
from facetrm.report.evaluated.content import EvaluationReport
from facetrm.report.evaluated.contrast import Contrast, contrasts, largest_rows, shares_by_task
from facetrm.report.evaluated.markdown import report_markdown
from facetrm.report.evaluated.measured import BenchmarkPart, MeasuredFigure, RunPart
from facetrm.report.page import environment

LENGTHS: Final = ("right answer shorter", "right answer longer", "equal length")
_CURVES: Final = 4
_BINS: Final = 6
_LEAST: Final = 60
"""Smallest number of pairs for a curve over length."""


@final
@dataclass(frozen=True)
class PartView:
    """What the template reads of one benchmark.

    Attributes:
        part: Models on the benchmark.
        systems: Models, the best first, then baselines.
        axis: Axis of the totals.
        figures: Name and level of each figure below the total.
        lengths: Slices by length.
        tasks: Slices by task.
        by_length: Chart of accuracy by difference of length.
        reliability: Chart of accuracy by confidence.
        gates: Model, and chart of what decides by task.
        contrast: Where models differ, or what the only model gets wrong.
    """

    part: BenchmarkPart
    systems: tuple[str, ...]
    axis: Axis
    figures: tuple[tuple[str, str], ...]
    lengths: tuple[str, ...]
    tasks: tuple[str, ...]
    by_length: Chart | None
    reliability: Chart | None
    gates: tuple[tuple[str, Chart], ...]
    contrast: tuple[Contrast, ...]


@final
@dataclass(frozen=True)
class AuditView:
    """What the template reads of one audit.

    Attributes:
        part: The audit.
        correlations: Axis of the correlations with features.
        changes: Axis of the changes by edits.
        reliability: Chart of accuracy by confidence.
    """

    part: AuditPart
    correlations: Axis
    changes: Axis
    reliability: Chart | None


@final
@dataclass(frozen=True)
class TrainingRunView:
    """What the template reads of one training run.

    Attributes:
        part: The run.
        gates: Chart of the mean weight of each objective by task.
        shares: Chart of the share of each capability by task.
    """

    part: RunPart
    gates: Chart | None
    shares: Chart | None


def write_evaluation_report(report: EvaluationReport, folder: Path) -> tuple[Path, Path, Path]:
    """Write ``report.html``, ``report.md`` and ``report.json`` and return their paths.

    Args:
        report: Content of the report.
        folder: Folder of the three files.

    Raises:
        ConfigError: Matplotlib is not installed.
    """
    texts = {
        "report.html": render_evaluation(report),
        "report.md": report_markdown(report),
        "report.json": json.dumps(report_json(report), ensure_ascii=False, indent=2) + "\n",
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        write_text(folder / name, text)
    return folder / "report.html", folder / "report.md", folder / "report.json"


def render_evaluation(report: EvaluationReport) -> str:
    """Return the report of evaluations as HTML.

    Args:
        report: Content of the report.

    Raises:
        ConfigError: Matplotlib is not installed.
    """
    views = [_view(part, report) for part in report.benchmarks]
    systems = list(dict.fromkeys(name for view in views for name in view.systems))
    systems.sort(key=lambda name: name in BASELINES and name not in report.models)
    answer = answer_sentences(report)
    trained = {name for view in views for name in view.part.models if name not in view.part.plain}
    plain = {name for view in views for name in view.part.plain} if trained else set()
    names = [*report.models, *(one.model for one in report.audits), *(run.name for run in report.runs)]
    return (
        environment()
        .get_template("evaluated.html.j2")
        .render(
            title="Report: " + ", ".join(name for name in dict.fromkeys(names) if name not in plain),
            report=report,
            views=views,
            systems=systems,
            answer=answer,
            baselines=[*(name for name in BASELINES if name not in report.models), *plain],
            audits=[_audit_view(part) for part in report.audits],
            runs=[_run_view(part) for part in report.runs],
            contents=_contents(report, views),
            total=TOTAL,
        )
    )


def report_json(report: EvaluationReport) -> dict[str, Any]:
    """Return the report as plain data.

    Args:
        report: Content of the report.
    """
    return {
        "kind": "facetrm report",
        "answer": answer_sentences(report),
        "models": {name: dict(about) for name, about in report.models.items()},
        "benchmarks": {
            part.name: {
                "title": part.title,
                "models": list(part.models),
                "figures": _plain(part.figures),
                "slices": _plain(part.slices),
                "about": dict(part.about),
                "note": part.note,
                "calibration": {
                    model: {
                        "beta": one.beta,
                        "error": one.error,
                        "pairs": one.pairs,
                        "bins": [{"confidence": c, "accuracy": a, "count": n} for c, a, n in one.bins],
                    }
                    for model in part.models
                    if (one := report.calibration.get((part.name, model))) is not None
                },
            }
            for part in report.benchmarks
        },
        "ratings": {
            part.name: {
                "rows": part.rows,
                "models": list(part.models),
                "figures": {
                    name: {model: asdict(one) for model, one in row.items()} for name, row in part.figures.items()
                },
                "means": {model: asdict(one) for model, one in part.means.items()},
            }
            for part in report.rated
        },
        "audits": {one.model: dict(one.raw) for one in report.audits},
        "runs": {
            run.name: {
                "statement": run.statement,
                "accuracy": run.accuracy,
                "gate_weights": run.gates,
                "shares": run.shares,
            }
            for run in report.runs
        },
        "made": [dict(one) for one in report.made],
        "notes": list(report.notes),
    }


def _plain(table: Mapping[str, Mapping[str, MeasuredFigure | None]]) -> dict[str, Any]:
    return {
        figure: {name: None if one is None else vars(one) for name, one in row.items()} for figure, row in table.items()
    }


def _view(part: BenchmarkPart, report: EvaluationReport) -> PartView:
    systems = systems_of(part)
    totals = [one for name in systems if (one := part.total(name)) is not None]
    gates = [
        (model, heat_map(rows, columns, values, name=f"gate:{part.name}:{model}"))
        for model in part.models
        if (shares := shares_by_task(part, model)) is not None
        for rows, columns, values in [shares]
    ]
    lengths = tuple(name for name in LENGTHS if name in part.slices)
    return PartView(
        part,
        tuple(systems),
        _axis(totals),
        tuple((name, str(part.about.get("levels", {}).get(name, ""))) for name in part.figures if name != TOTAL),
        lengths,
        tuple(name for name in part.slices if name not in lengths),
        _by_length(part),
        _reliability(part, report),
        tuple(gates),
        contrasts(part),
    )


def _audit_view(part: AuditPart) -> AuditView:
    correlations = [one for row in part.biases for one in (row.correlation, row.before) if one is not None]
    changes = [row.change for row in part.effects if row.change is not None]
    chart = None
    if part.calibration is not None:
        line = [(confidence, accuracy) for confidence, accuracy, _ in part.calibration.bins]
        chart = _reliability_chart([(part.model, line)], name=f"audit:{part.model}")
    return AuditView(
        part,
        Axis.over(x for one in correlations for x in (one.low, one.high)),
        Axis.over(x for one in changes for x in (one.low, one.high)),
        chart,
    )


def _run_view(part: RunPart) -> TrainingRunView:
    charts = []
    for name, table in (("weights", part.gates), ("shares", part.shares)):
        rows, values = largest_rows(table, absent=0.0 if table is part.gates else math.nan)
        charts.append(heat_map(rows, list(table), values, name=f"{name}:{part.name}") if table else None)
    return TrainingRunView(part, *charts)


def _axis(totals: Iterable[MeasuredFigure]) -> Axis:
    held = [x for one in totals for x in (one.low, one.high)]
    low, high = min([0.4, *held]), max([0.7, *held])
    return Axis(max(0.0, int(10 * low) / 10), min(1.0, (int(10 * high) + 1) / 10), 0.5)


def _by_length(part: BenchmarkPart) -> Chart | None:
    lines = []
    for model in systems_of(part):
        pairs = sorted(
            (one.longer_by, {"right": 1.0, "wrong": 0.0}.get(one.verdict, 0.5))
            for one in part.answered.get(model, {}).values()
            if one.longer_by is not None and one.margin is not None
        )
        if len(pairs) >= _LEAST:
            lines.append((model, [_mean(chunk) for chunk in _chunks(pairs)]))
    if not lines:
        return None
    label = "tokens, right answer minus wrong answer"
    return curves(lines[:_CURVES], name=f"length:{part.name}", x_label=label, y_label="share right")


def _chunks(pairs: Sequence[tuple[int, float]]) -> list[Sequence[tuple[int, float]]]:
    ends = [round(n * len(pairs) / _BINS) for n in range(_BINS + 1)]
    return [pairs[a:b] for a, b in pairwise(ends)]


def _mean(chunk: Sequence[tuple[int, float]]) -> tuple[float, float]:
    return sum(x for x, _ in chunk) / len(chunk), sum(y for _, y in chunk) / len(chunk)


def _reliability(part: BenchmarkPart, report: EvaluationReport) -> Chart | None:
    lines = [
        (model, [(confidence, accuracy) for confidence, accuracy, _ in one.bins])
        for model in systems_of(part)
        if (one := report.calibration.get((part.name, model))) is not None
    ][: _CURVES - 1]
    if not lines:
        return None
    return _reliability_chart(lines, name=f"reliability:{part.name}")


def _reliability_chart(lines: Sequence[tuple[str, Sequence[tuple[float, float]]]], *, name: str) -> Chart:
    ends = [
        (x, x) for x in (min(c for _, line in lines for c, _ in line), max(c for _, line in lines for c, _ in line))
    ]
    return curves(
        [*lines, ("perfect", ends)],
        name=name,
        x_label="confidence that the preferred answer is right",
        y_label="share right",
    )


def _contents(report: EvaluationReport, views: Sequence[PartView]) -> list[tuple[str, str]]:
    parts: Mapping[str, tuple[str, object]] = {
        "answer": ("The answer", True),
        "figures": ("By subset", any(view.figures for view in views)),
        "length": ("Length", any(view.lengths for view in views)),
        "reliability": ("Reliability", any(view.reliability for view in views)),
        "gate": ("What decides", any(view.gates for view in views)),
        "contrast": ("Where they differ", any(view.contrast for view in views)),
        "rated": ("Ratings", report.rated),
        "audit": ("Audits", report.audits),
        "runs": ("Training runs", report.runs),
        "made": ("How it was made", report.made),
    }
    return [(anchor, title) for anchor, (title, there) in parts.items() if there]
