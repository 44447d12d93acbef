"""Read the ``metrics.json`` of a training run for the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from facetrm.core.errors import DataError
from facetrm.core.files import read_json
from facetrm.report.evaluated.measured import RunPart

METRICS: Final = "metrics.json"
_RERUN: Final = "run again with 'facetrm run'"
_LABELS: Final = {"noisy": "against the labels", "true": "against the true order"}


def read_run(folder: Path) -> RunPart:
    """Return what a training run measured.

    Args:
        folder: The run folder.

    Raises:
        DataError: Its ``metrics.json`` is broken.
    """
    path = folder / METRICS
    metrics = read_json(path, DataError, fix=_RERUN)
    if not isinstance(metrics, dict) or not isinstance(metrics.get("pair_accuracy"), dict):
        raise DataError("no key 'pair_accuracy'", place=path, fix=_RERUN)
    held = metrics.get("verdict")
    verdict: dict[str, Any] = held if isinstance(held, dict) else {}
    measured = metrics["pair_accuracy"]
    accuracy = {shown: _numbers(measured.get(kind)) for kind, shown in _LABELS.items()}
    for kind in ("by_source", "by_task"):
        table = measured.get(kind)
        for name, row in (table if isinstance(table, dict) else {}).items():
            accuracy.setdefault(str(name), _numbers(row))
    weights = metrics.get("gate_weights")
    return RunPart(
        folder.name,
        str(verdict.get("statement", "")),
        verdict.get("status") == "usable",
        {name: row for name, row in accuracy.items() if row},
        {str(task): _numbers(row) for task, row in (weights if isinstance(weights, dict) else {}).items()},
        _shares(metrics.get("experts"), path),
    )


def _shares(experts: Any, path: Path) -> dict[str, dict[str, float]]:
    """Return the share of each capability by task, from the experts of a DMoERM run; those without pairs have none."""
    found: dict[str, dict[str, float]] = {}
    try:
        for one in experts if isinstance(experts, list) else ():
            if one["share"] is not None:
                task = str(one["task"])
                found.setdefault(task, {})[str(one["name"]).removeprefix(f"{task}/")] = float(one["share"])
    except (KeyError, TypeError, ValueError) as exc:
        raise DataError(f"key 'experts' is broken ({exc})", place=path, fix=_RERUN) from None
    return found


def _numbers(row: Any) -> dict[str, float]:
    """Return the numbers of a table; a figure with an interval gives its value."""
    found = {}
    for name, held in (row if isinstance(row, dict) else {}).items():
        value = held.get("value") if isinstance(held, dict) else held
        if isinstance(value, int | float) and not isinstance(value, bool):
            found[str(name)] = float(value)
    return found
