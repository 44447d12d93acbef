"""The report of evaluations as Markdown: the answer, and a table to paste into a model card."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from facetrm.report.evaluated.answer import answer_sentences, percent, signed, systems_of
from facetrm.report.evaluated.audit_part import AuditPart, Moved
from facetrm.report.evaluated.content import EvaluationReport
from facetrm.report.evaluated.measured import BenchmarkPart, MeasuredFigure, RatedPart


def report_markdown(report: EvaluationReport) -> str:
    """Return the report as Markdown.

    Args:
        report: Content of the report.
    """
    blocks = [f"- {escaped(sentence)}" for sentence in answer_sentences(report)]
    lines = ["\n".join(blocks)]
    for part in report.benchmarks:
        lines.append(f"## {escaped(part.title)} ({_code(part.name)})")
        if part.note:
            lines.append(escaped(part.note))
        lines.append(_table(part))
        lines.append(f"{part.about['rows']:,} questions. {escaped(str(part.about['tie_rule']))} 95% intervals.")
    for rated in report.rated:
        lines += [f"## Ratings of {_code(rated.name)}", _rated_table(rated)]
        lines.append(f"{rated.rows:,} rated answers. Spearman's correlation. 95% intervals.")
    for audit in report.audits:
        lines += [f"## Audit of {_code(audit.model)}", *(_audit_tables(audit))]
    for run in report.runs:
        named = (("Mean gate weight by task", run.gates), ("Share of the contributions to margins by task", run.shares))
        tables = [block for title, table in named if table for block in (title, _by_task(table))]
        lines += [f"## Training run {_code(run.name)}", *tables] if tables else []
    for made in report.made:
        lines.append(f"Made on {escaped(str(made['date']))} by {_code(str(made['command']))}, seed {made['seed']}.")
    lines += [escaped(note) for note in report.notes]
    return "\n\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """Return text of a user so that Markdown shows it as it is, on one line.

    Args:
        text: The text.
    """
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(text.split()))


def _code(text: str) -> str:
    return "`" + " ".join(text.replace("`", "'").split()) + "`"


def _table(part: BenchmarkPart) -> str:
    systems = systems_of(part)
    rows: list[Sequence[str]] = [["figure", *map(escaped, systems)], ["---", *("---:" for _ in systems)]]
    order = sorted(part.figures, key=lambda name: name != "total")
    rows += [[escaped(name), *(_cell(part.figures[name].get(system)) for system in systems)] for name in order]
    return _lines(rows)


def _by_task(table: Mapping[str, Mapping[str, float]]) -> str:
    rows = [["", *map(escaped, table)], ["---", *("---:" for _ in table)]]
    for name in dict.fromkeys(name for row in table.values() for name in row):
        rows.append([escaped(name), *(percent(row[name]) if name in row else "–" for row in table.values())])
    return _lines(rows)


def _rated_table(part: RatedPart) -> str:
    rows = [["objective", *map(escaped, part.models)], ["---", *("---:" for _ in part.models)]]
    for objective, row in part.figures.items():
        held = [row.get(model) for model in part.models]
        rows.append([escaped(objective), *(signed(None if one is None else one.spearman) for one in held)])
    if len(part.figures) > 1:
        rows.append(["mean", *(signed(part.means.get(model)) for model in part.models)])
    return _lines(rows)


def _audit_tables(audit: AuditPart) -> list[str]:
    biases = [["feature", "correlation", "moved most"], ["---", "---:", "---"]]
    biases += [[escaped(row.feature), signed(row.correlation), _names(row.moved)] for row in audit.biases]
    edits = [["edit", "expected", "change in standard deviations", "moved most"], ["---", "---", "---:", "---"]]
    edits += [[escaped(row.edit), row.expected, signed(row.change), _names(row.moved)] for row in audit.effects]
    return [_lines(table) for table in (biases, edits) if len(table) > 2]


def _names(moved: Moved) -> str:
    return escaped(", ".join(name for name, _, _ in moved))


def _lines(rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cell(one: MeasuredFigure | None) -> str:
    return "–" if one is None else f"{percent(one.value)} ({percent(one.low)} to {percent(one.high)})"
