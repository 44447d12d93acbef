"""The results of ``facetrm eval`` in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from facetrm.core.errors import printable
from facetrm.evaluate.benchmarks.benchmark import missing_text
from facetrm.evaluate.benchmarks.result import other_baselines

_MOST: Final = 40
_WIDTH: Final = 26
_SYSTEM: Final = 25
"""Width of a system's column: two spaces and the longest cell, ``100.0 (100.0 to 100.0)``."""
_BASELINE: Final = 10


def evaluation_text(results: Mapping[str, Any]) -> str:
    """Return the tables of all benchmarks, one figure per line.

    Args:
        results: Content of ``results.json``.
    """
    baselines = other_baselines([name for name, one in results["models"].items() if one["kind"] == "baseline"])
    parts = [_benchmark(name, one, baselines) for name, one in results["benchmarks"].items()]
    parts += [_ratings(name, one) for name, one in results.get("ratings", {}).items()]
    costs = [_cost(name, one["cost"]) for name, one in results["models"].items() if one["cost"]]
    if costs:
        parts.append("\n".join(costs))
    if results.get("against"):
        parts.append(_against(results["against"]))
    return "\n\n".join(parts)


def _benchmark(name: str, one: Mapping[str, Any], baselines: Sequence[str]) -> str:
    systems = list(one["systems"])
    head = f"{one['title']}: {one['rows']:,} questions, {one['prompts']:,} prompts"
    lines = [head if name == one["benchmark"] else f"{name} ({head})"]
    names = [*systems, *baselines]
    columns = [*(_cell(s, _SYSTEM) for s in systems), *(_cell(b, _BASELINE) for b in baselines)]
    lines.append(" " * _WIDTH + "".join(columns))
    figures = list(one["figures"].items())
    for figure, row in figures[:_MOST]:
        indent = {"total": "", "section": "  ", "subset": "    "}[one["levels"][figure]]
        cells = [_interval(row[s]) if s in systems else _percent(row[s]["value"], _BASELINE) for s in names]
        lines.append(_cell(indent + figure, _WIDTH, left=True) + "".join(cells))
    if len(figures) > _MOST:
        lines.append(f"    and {len(figures) - _MOST} more in results.json")
    for figure, row in one["slices"].items():
        cells = [_interval(row[s]) if s in systems else _percent(row[s]["value"], _BASELINE) for s in names]
        lines.append(_cell("  " + figure, _WIDTH, left=True) + "".join(cells))
    for system, counts in one["systems"].items():
        said = [f"{counts['ties']:,} of {counts['comparisons']:,} comparisons tied"]
        said += [f"{_count(counts[key], 'question')} {key}" for key in ("failed", "truncated") if counts[key]]
        lines.append(f"{printable(system, 60)}: {', '.join(said)}.")
        if counts["first_problem"]:
            lines.append(f"  first problem: {printable(counts['first_problem'], 500)}")
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
        lines.append(f"Not the published number of questions: {shown}.")
    if one["missing"]:
        lines.append(missing_text(one["missing"]))
    return "\n".join(lines)


def _ratings(name: str, one: Mapping[str, Any]) -> str:
    lines = [f"{name}: {one['rows']:,} rated answers; Spearman by objective (95% interval)"]
    for system, table in one["systems"].items():
        lines.append(printable(system, 60))
        if not table:
            lines.append("    no objective has enough rated rows")
        elif len(table) > 1:
            lines.append(_cell("    mean", 40, left=True) + f"{_rho(one['figures']['spearman'][system])}")
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


def _cost(name: str, cost: Mapping[str, Any]) -> str:
    """Return what a judge has cost in this folder, and what was asked now."""
    known = cost["cost"] is not None
    money = f"cost {cost['cost']:.4g}" if known else "no cost without --judge-set price_in=... and price_out=..."
    now = _count(cost["requests_now"], "request")
    return (
        f"{printable(name, 60)}: {now} now; in this folder {cost['requests']:,} requests, "
        f"{cost['tokens_in']:,} tokens in and {cost['tokens_out']:,} out, {money}."
    )


def _against(one: Mapping[str, Any]) -> str:
    flipped = one["flipped"]
    lines = [
        f"Against {printable(one['earlier'], 60)}: {flipped['to_wrong']} questions are wrong now, "
        f"{flipped['to_right']} are right now."
    ]
    if one["other_rows"]:
        lines.append(f"    not the same files as then: {', '.join(one['other_rows'])}")
    for objective, count in list(flipped["by_objective"].items())[:5]:
        lines.append(f"    {printable(objective, 60)} moved most in {count} of them")
    for row in sorted(one["figures"], key=lambda row: row["change"])[:5]:
        if row["change"]:
            lines.append(
                f"    {row['benchmark']}/{row['name']}: {100 * row['before']:.1f} to {100 * row['now']:.1f}"
                + ("  below the tolerance" if row["failed"] else "")
            )
    return "\n".join(lines)


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def _cell(text: str, width: int, *, left: bool = False) -> str:
    shown = printable(text, width - 2)
    return shown.ljust(width) if left else shown.rjust(width)


def _percent(value: float | None, width: int) -> str:
    return ("-" if value is None else f"{100 * value:.1f}").rjust(width)


def _interval(one: Mapping[str, float | None]) -> str:
    if one["value"] is None:
        return "-".rjust(_SYSTEM)
    low, high = (100 * (one[key] or 0.0) for key in ("low", "high"))
    return f"{100 * one['value']:.1f} ({low:.1f} to {high:.1f})".rjust(_SYSTEM)


def _points(one: Mapping[str, float | None]) -> str:
    value, low, high = (100 * (one[key] or 0.0) for key in ("value", "low", "high"))
    return f"{value:+.1f} points ({low:+.1f} to {high:+.1f})"


def _rho(one: Mapping[str, float | None]) -> str:
    if one["value"] is None:
        return "-"
    low, high = (one[key] for key in ("low", "high"))
    ends = "" if low is None or high is None else f" ({low:+.2f} to {high:+.2f})"
    return f"{one['value']:+.2f}{ends}"
