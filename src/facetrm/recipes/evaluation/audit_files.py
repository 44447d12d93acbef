"""Read ``audit.json`` for the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from facetrm.core.errors import DataError
from facetrm.core.files import read_json
from facetrm.report.evaluated.audit_part import (
    AuditPart,
    BiasRow,
    EffectRow,
    MissedThreshold,
    Moved,
    ObjectiveRows,
)
from facetrm.report.evaluated.measured import CalibrationPart, MeasuredFigure

_FIX: Final = "audit again with 'facetrm eval MODEL --on audit'"
_DECIDED: Final = 5


def read_audits(path: Path, *, data: str = "", order: Sequence[str] = ()) -> list[AuditPart]:
    """Return the audits of a file, by model.

    Args:
        path: The file ``audit.json``.
        data: What the models were audited on.
        order: Names of models that come first, in this order.

    Raises:
        DataError: The file is no audit, or broken.
    """
    held: Any = read_json(path, DataError, fix=_FIX)
    if not isinstance(held, dict) or not held:
        raise DataError("no audit", place=path, fix=_FIX)
    found = []
    first = {model: None for model in order if model in held}
    for model in {**first, **held}:
        try:
            found.append(_audit(model, held[model], data))
        except (KeyError, TypeError, ValueError, AttributeError) as exc:
            reason = f"no key {exc}" if isinstance(exc, KeyError) else str(exc)
            raise DataError(f"the audit of '{model}' is broken ({reason})", place=path, fix=_FIX) from None
    return found


def _audit(model: str, one: Mapping[str, Any], data: str) -> AuditPart:
    c = one["calibration"]
    return AuditPart(
        model=model,
        data=data,
        pairs=int(one["pairs"]),
        prompts=int(one["prompts"]),
        accuracy=_figure(one["accuracy"]),
        missed=tuple(_missed(row) for row in one["findings"]),
        biases=tuple(_bias(row) for row in one["biases"]),
        effects=tuple(_effect(row) for row in one["effects"]),
        order_decides=None if one["position"] is None else _figure(one["position"]["flips"]),
        calibration=None if c is None else _calibration(c),
        noise=None if c is None else float(c["noise"]),
        objectives=tuple(_use(task, use) for task, use in one["objectives"].items()),
        raw=dict(one),
    )


def _figure(held: Mapping[str, Any] | None) -> MeasuredFigure | None:
    if held is None or held["value"] is None or held["low"] is None or held["high"] is None:
        return None
    return MeasuredFigure(float(held["value"]), float(held["low"]), float(held["high"]))


def _missed(row: Mapping[str, Any]) -> MissedThreshold:
    figure = MeasuredFigure(float(row["value"]), float(row["low"]), float(row["high"]))
    return MissedThreshold(str(row["setting"]), figure, float(row["limit"]), bool(row["clear"]), row["objective"])


def _moved(rows: Any) -> Moved:
    return tuple((str(row["objective"]), float(row["change"]), float(row["share"])) for row in rows)


def _bias(row: Mapping[str, Any]) -> BiasRow:
    now, before = row["now"], row["before"]
    return BiasRow(
        feature=str(row["feature"]),
        correlation=_figure(now["correlation"]),
        before=None if before is None else _figure(before["correlation"]),
        matched=_figure(now["matched"]),
        less=_figure(now["less"]),
        more=_figure(now["more"]),
        moved=_moved(row["movers"]),
    )


def _effect(row: Mapping[str, Any]) -> EffectRow:
    return EffectRow(
        edit=str(row["edit"]),
        expected={"none": "no change", "null": "no change (control)"}.get(row["expected"], str(row["expected"])),
        answers=int(row["answers"]),
        change=_figure(row["in_sd"]),
        lifted=_figure(row["lifted"]),
        sunk=_figure(row["sunk"]),
        moved=_moved(row["movers"]),
    )


def _calibration(held: Mapping[str, Any]) -> CalibrationPart:
    bins = tuple((float(b["confidence"]), float(b["accuracy"]), int(b["pairs"])) for b in held["equal_mass"])
    return CalibrationPart(bins, float(held["ece"]["value"]), float(held["beta"]), int(held["pairs"]))


def _use(task: str, held: Mapping[str, Any]) -> ObjectiveRows:
    seen = held["scores"] or held["contributions"]
    decided = sorted(held["decided"].items(), key=lambda item: -item[1])[:_DECIDED]
    rank = seen["effective_rank"]
    return ObjectiveRows(
        task=task,
        decided=tuple((str(name), float(share)) for name, share in decided),
        never=len(held["never"]),
        count=len(seen["names"]),
        rank=None if rank is None else float(rank),
        clusters=tuple(tuple(map(str, cluster)) for cluster in seen["clusters"]),
    )
