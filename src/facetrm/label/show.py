"""The estimate and the report as text for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

_FEWEST_PAIRS: Final = 2


def estimate_text(estimate: Mapping[str, Any]) -> str:
    """Format an estimate for the terminal.

    Args:
        estimate: the result of :meth:`facetrm.label.plan.Plan.estimate`.
    """
    lines = [
        f"{estimate['pairs']} pairs, {estimate['judgements']} judgements (one per pair and capability), "
        f"{estimate['questions']} questions (both orders)",
        f"already answered: {estimate['answered_before']}; to ask: {estimate['requests']}, "
        f"about {estimate['tokens_in']:,} tokens in and {estimate['tokens_out']:,} out",
    ]
    if estimate["cost"] is None:
        lines.append("cost: unknown; give the prices per million tokens: --set price_in=... --set price_out=...")
    else:
        lines.append(f"cost: about {estimate['cost']:,.4g}, at most {estimate['largest_cost']:,.4g}")
    lines += [f"skipped: {count} pairs whose {reason}" for reason, count in estimate["skipped"].items()]
    return "\n".join(lines)


def report_text(report: Mapping[str, Any], out: Path) -> str:
    """Format a report for the terminal.

    Args:
        report: the report from :func:`facetrm.label.run.label_pairs`.
        out: the folder that it was written to.
    """
    names = report["capabilities"]
    wide = max([len("all"), *map(len, names)])
    lines = [f"{'':{wide}}  judged    kept  keep rate  same place  ties  cannot say"]
    for name, row in {**names, "all": report["all"]}.items():
        counts = row["outcomes"]
        lines.append(
            f"{name:{wide}}  {row['answered']:6}  {row['kept']:6}  {_percent(row['keep_rate']):>9}  "
            f"{_percent(row['position_bias_rate']):>10}  {counts['tie'] + counts['half_tie']:4}  "
            f"{counts['cannot_say']:10}"
        )
    folder, cost = report["folder"], report["folder"]["cost"]
    paid = f"{folder['tokens_in']:,} tokens in, {folder['tokens_out']:,} out"
    lines.append(f"{folder['requests']} requests so far, {paid}" + ("" if cost is None else f", cost {cost:,.2f}"))
    lines += _failures_text(report, out)
    lines += _alike_text(report["between_capabilities"])
    lines += [f"skipped: {count} pairs whose {reason}" for reason, count in report["skipped"].items()]
    if report["stopped"]:
        lines.append(f"stopped: {report['stopped']}")
    lines.append(f"{report['all']['kept']} preferences in {out / 'preferences.jsonl'}")
    return "\n".join(lines)


def _failures_text(report: Mapping[str, Any], out: Path) -> list[str]:
    failed, refused, file = report["failed"], report["refused"], out / "failures.jsonl"
    lines = []
    if failed > refused:
        lines.append(f"{failed - refused} questions have no answer (see {file}); run again to ask them")
    if refused:
        lines.append(f"{refused} questions are refused by the server (see {file}); asking them again will not help")
    if failed:
        lines.append(f"the most common reason: {report['commonest_reason']}")
    return lines


def _alike_text(between: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a warning for each group of capabilities that got the same labels on all pairs."""
    by_task: dict[str, list[Mapping[str, Any]]] = {}
    for row in between:
        by_task.setdefault(row["capabilities"][0].partition("/")[0], []).append(row)
    lines = []
    for task, rows in by_task.items():
        alike = [row for row in rows if row["agreement"] == 1.0 and row["pairs"] >= _FEWEST_PAIRS]
        if len(alike) == len(rows):
            pairs = max(row["pairs"] for row in rows)
            told = "the judge does not distinguish them, or the pairs differ in all of them at once"
            lines.append(f"warning: all capabilities of '{task}' got the same labels on all {pairs} pairs: {told}")
        else:
            for row in alike:
                names = " and ".join(row["capabilities"])
                told = f"got the same labels on all {row['pairs']} pairs"
                lines.append(f"warning: {names} {told}: the judge does not distinguish them")
    return lines


def _percent(rate: float | None) -> str:
    return "-" if rate is None else f"{100 * rate:.0f}%"
