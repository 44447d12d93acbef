"""The results of ``facetrm eval`` in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from facetrm.core.errors import printable
from facetrm.evaluate.benchmarks.result import BASELINES

_MOST: Final = 40
_WIDTH: Final = 26


def evaluation_text(results: Mapping[str, Any]) -> str:
    """Return the tables of all benchmarks, one figure per line.

    Args:
        results: Content of ``results.json``.
    """
    parts = [_benchmark(name, one) for name, one in results["benchmarks"].items()]
    parts += [_ratings(name, one) for name, one in results.get("ratings", {}).items()]
    if results.get("against"):
        parts.append(_against(results["against"]))
    return "\n\n".join(parts)


def _benchmark(name: str, one: Mapping[str, Any]) -> str:
    systems = list(one["systems"])
    head = f"{one['title']}: {one['rows']:,} questions, {one['prompts']:,} prompts"
    lines = [head if name == one["benchmark"] else f"{name} ({head})"]
    names = [*systems, *BASELINES]
    lines.append(" " * _WIDTH + "".join(_cell(s, 22) for s in systems) + "".join(_cell(b, 10) for b in BASELINES))
    figures = list(one["figures"].items())
    for figure, row in figures[:_MOST]:
        indent = {"total": "", "section": "  ", "subset": "    "}[one["levels"][figure]]
        cells = [_interval(row[s]) if s in systems else _percent(row[s]["value"], 10) for s in names]
        lines.append(_cell(indent + figure, _WIDTH, left=True) + "".join(cells))
    if len(figures) > _MOST:
        lines.append(f"    and {len(figures) - _MOST} more in results.json")
    for figure, row in one["slices"].items():
        cells = [_interval(row[s]) if s in systems else _percent(row[s]["value"], 10) for s in names]
        lines.append(_cell("  " + figure, _WIDTH, left=True) + "".join(cells))
    for system, counts in one["systems"].items():
        said = [f"{counts['ties']} of {counts['comparisons']:,} comparisons tied"]
        said += [f"{counts[key]} rows {key}" for key in ("failed", "truncated") if counts[key]]
        lines.append(f"{printable(system, 60)}: {', '.join(said)}.")
        if counts["first_problem"]:
            lines.append(f"  first problem: {printable(counts['first_problem'], 200)}")
    lines.append(one["tie_rule"])
    for pair, gap in one["differences"].items():
        total = gap["figures"]["total"]
        test = gap["mcnemar"]
        lines.append(
            f"{printable(pair, 80)}: {_points(total)}; right alone on {test['only_first']} and "
            f"{test['only_second']} questions (McNemar p = {test['p']:.3g})"
        )
    published = {key: n for key, n in one["published_counts"].items() if one["counts"].get(key, 0) not in (0, n)}
    if published:
        shown = ", ".join(f"{key} {one['counts'][key]} of {n}" for key, n in published.items())
        lines.append(f"Not the published number of rows: {shown}.")
    return "\n".join(lines)


def _ratings(name: str, one: Mapping[str, Any]) -> str:
    lines = [f"{name}: {one['rows']:,} rated answers; Spearman by objective (95% interval)"]
    for system, table in one["systems"].items():
        lines.append(printable(system, 60))
        if not table:
            lines.append("    no objective has enough rated rows")
        for objective, found in table.items():
            cells = [
                f"{'its own rating' if key == 'own' else key} {_rho(found[key]['spearman'])}"
                for key in ("own", "reward")
                if key in found
            ]
            failed = f", {found['failed']} failed" if found["failed"] else ""
            lines.append(
                _cell("    " + objective, 40, left=True) + f"{found['rows']:7,} rows{failed}  " + "  ".join(cells)
            )
    return "\n".join(lines)


def _against(one: Mapping[str, Any]) -> str:
    flipped = one["flipped"]
    lines = [
        f"Against {printable(one['earlier'], 60)}: {flipped['to_wrong']} questions are wrong now, "
        f"{flipped['to_right']} are right now."
    ]
    for objective, count in list(flipped["by_objective"].items())[:5]:
        lines.append(f"    {printable(objective, 60)} moved most in {count} of them")
    for row in sorted(one["figures"], key=lambda row: row["change"])[:5]:
        if row["change"]:
            lines.append(
                f"    {row['benchmark']}/{row['name']}: {100 * row['before']:.1f} to {100 * row['now']:.1f}"
                + ("  below the tolerance" if row["failed"] else "")
            )
    return "\n".join(lines)


def _cell(text: str, width: int, *, left: bool = False) -> str:
    shown = printable(text, width - 2)
    return shown.ljust(width) if left else shown.rjust(width)


def _percent(value: float | None, width: int) -> str:
    return ("-" if value is None else f"{100 * value:.1f}").rjust(width)


def _interval(one: Mapping[str, float | None]) -> str:
    if one["value"] is None:
        return "-".rjust(22)
    low, high = (100 * (one[key] or 0.0) for key in ("low", "high"))
    return f"{100 * one['value']:.1f} ({low:.1f} to {high:.1f})".rjust(22)


def _points(one: Mapping[str, float | None]) -> str:
    value, low, high = (100 * (one[key] or 0.0) for key in ("value", "low", "high"))
    return f"{value:+.1f} points ({low:+.1f} to {high:+.1f})"


def _rho(one: Mapping[str, float | None]) -> str:
    if one["value"] is None:
        return "-"
    low, high = (one[key] for key in ("low", "high"))
    ends = "" if low is None or high is None else f" ({low:+.2f} to {high:+.2f})"
    return f"{one['value']:+.2f}{ends}"
