"""The merged set of ArmoRM: messages and its 19 objectives, in the order of the published checkpoint.

Its values are already mapped to [0, 1]. ``armorm`` maps them back to the scales of the sources, so that predictions are
on those scales; ``armorm-unit`` keeps the values unchanged. Only the maps of HelpSteer, of the UltraFeedback overall
score and of BeaverTails are published. The others are inferred (bin centres), and ``armorm`` refuses a value that does
not fit.
Reference: ArmoRM (arXiv 2406.12845), section 3.1.
"""

from __future__ import annotations

from facetrm.core.errors import DataError
from facetrm.data.objectives import Objective
from facetrm.data.read.columns import Row
from facetrm.data.sources import (
    argilla_capybara,
    argilla_openorca,
    beavertails,
    codeultrafeedback,
    helpsteer,
    prometheus,
    ultrafeedback,
)
from facetrm.data.sources.raw import chat_turns, number, rated, same_but_last
from facetrm.data.sources.registry import Dropped, Records, source

_HUB = "RLHFlow/ArmoRM-Multi-Objective-Data-v0.1"
_LICENCE = "that of each of the eight data sets it merges"
_CITATION = (
    "Wang et al. 2024, Interpretable Preferences via Multi-Objective Reward Modeling and Mixture-of-Experts "
    "(arXiv 2406.12845)"
)

ARMORM_OBJECTIVES: tuple[Objective, ...] = (
    *helpsteer.OBJECTIVES,
    *ultrafeedback.OBJECTIVES,
    *beavertails.OBJECTIVES,
    *prometheus.OBJECTIVES,
    *argilla_capybara.OBJECTIVES,
    *argilla_openorca.OBJECTIVES,
    *codeultrafeedback.OBJECTIVES,
)

UNIT_OBJECTIVES: tuple[Objective, ...] = tuple(
    Objective(
        name=objective.name,
        low=0,
        high=1,
        kind="boolean" if objective.kind == "boolean" else "continuous",
        meaning=objective.meaning,
        rater=objective.rater,
        source=objective.source,
    )
    for objective in ARMORM_OBJECTIVES
)


def _to_source_scale(objective: Objective, unit: float | None) -> float | None:
    """Map a rating in [0, 1] back to the source's scale, and remove rounding noise below 1e-6."""
    if unit is None:
        return None
    raw = round(objective.from_unit(unit), 6)
    if not objective.low <= raw <= objective.high:
        raise DataError(
            f"'{objective.name}' is {unit:g}, which is {raw:g} on the scale {objective.low:g}..{objective.high:g}",
            fix="load 'armorm-unit', which keeps the values unchanged",
        )
    return raw


def _read(row: Row, *, keep_unit: bool) -> Records:
    messages = chat_turns(row, "messages")
    if not messages or messages[-1]["role"] != "assistant":
        yield Dropped("the last turn is not from the assistant")
        return
    ratings = {o.name: number(row, o.name) for o in ARMORM_OBJECTIVES}
    if not keep_unit:
        ratings = {o.name: _to_source_scale(o, ratings[o.name]) for o in ARMORM_OBJECTIVES}
    origin = row.get("dataset", row.get("source"))
    yield rated(
        messages[:-1],
        messages[-1]["content"],
        ratings,
        UNIT_OBJECTIVES if keep_unit else ARMORM_OBJECTIVES,
        subset=origin if isinstance(origin, str) else None,
    )


@source("armorm", hub=_HUB, kind="rating", objectives=ARMORM_OBJECTIVES, licence=_LICENCE, citation=_CITATION)
def armorm(row: Row) -> Records:
    """Columns ``messages`` and the 19 names, null if not rated; values are mapped back to the sources' scales."""
    yield from _read(row, keep_unit=False)


@source("armorm-unit", hub=_HUB, kind="rating", objectives=UNIT_OBJECTIVES, licence=_LICENCE, citation=_CITATION)
def armorm_unit(row: Row) -> Records:
    """Columns ``messages`` and the 19 names, null if not rated; values stay in [0, 1]."""
    yield from _read(row, keep_unit=True)


@source(
    "rlhflow-pairs",
    hub="RLHFlow/pair_data_v2_80K_wsafety",
    kind="preference",
    licence="that of each of the data sets it merges",
    citation="Dong et al. 2024, RLHF Workflow: From Reward Modeling to Online RLHF (arXiv 2405.07863)",
)
def rlhflow_pairs(row: Row) -> Records:
    """Whole conversations ``chosen`` and ``rejected`` that differ in the last turn: RLHFlow's standard format."""
    yield same_but_last(chat_turns(row, "chosen"), chat_turns(row, "rejected"))
