"""The report of evaluations as Markdown: the answer, and a table to paste into a model card."""

from __future__ import annotations

import re
from collections.abc import Sequence

from facetrm.report.evaluated.answer import answer_sentences, percent, systems_of
from facetrm.report.evaluated.measured import BenchmarkPart, EvaluationReport, MeasuredFigure


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
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cell(one: MeasuredFigure | None) -> str:
    return "–" if one is None else f"{percent(one.value)} ({percent(one.low)} to {percent(one.high)})"
