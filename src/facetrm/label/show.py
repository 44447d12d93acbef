"""Estimate and report as text for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def estimate_text(estimate: Mapping[str, Any]) -> str:
    """Return the lines of an ``estimate`` of :meth:`facetrm.label.plan.Plan.estimate`."""
    lines = [
        f"{estimate['pairs']} pairs, {estimate['judgements']} judgements (a pair in a capability), "
        f"{estimate['questions']} questions (both orders)",
        f"answered before: {estimate['answered_before']}; to ask: {estimate['requests']}, "
        f"about {estimate['tokens_in']:,} tokens in and {estimate['tokens_out']:,} out",
    ]
    if estimate["cost"] is None:
        lines.append("cost: unknown; give the prices of a million tokens: --set price_in=... --set price_out=...")
    else:
        lines.append(f"cost: about {estimate['cost']:,.4g}, at the very most {estimate['largest_cost']:,.4g}")
    lines += [f"skipped: {count} pairs whose {reason}" for reason, count in estimate["skipped"].items()]
    return "\n".join(lines)


def report_text(report: Mapping[str, Any], out: Path) -> str:
    """Return the lines of a ``report`` of :func:`facetrm.label.run.label_pairs`, which lies in folder ``out``."""
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
    if report["failed"]:
        lines.append(f"{report['failed']} questions have no answer: {out / 'failures.jsonl'}; run again to ask them")
    if report["stopped"]:
        lines.append(f"stopped: {report['stopped']}")
    lines.append(f"{report['all']['kept']} preferences in {out / 'preferences.jsonl'}")
    return "\n".join(lines)


def _percent(rate: float | None) -> str:
    return "-" if rate is None else f"{100 * rate:.0f}%"
