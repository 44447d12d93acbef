"""Turn readings into a table with verdicts, and into findings with the likely cause.

in float32    a fault if the largest drift is above the threshold
in bfloat16   a fault if the mean drift is above ten times the threshold: at 0.1 spreads, about 4 pairs in 100 flip
              (plain Transformers always runs in float32, so rounding cannot explain its drift)
bf16-crowded  one bfloat16 step at the rewards' size is above 1/20 of their spread: about 14 pairs in 1000 tie
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from numpy import int64
from numpy.typing import NDArray

from facetrm.doctor import probes
from facetrm.doctor.artefact import Artefact
from facetrm.doctor.causes import name_cause, unexplained
from facetrm.doctor.drift import bf16_step, drift, equal_rewards, spread
from facetrm.doctor.findings import Drift, DriftVerdict, Finding, Variant
from facetrm.doctor.probes import Probed

PRECISION_FACTOR: Final = 10.0
CROWDED: Final = 0.05


def tabulate(probed: Probed, *, pairs_P2: NDArray[int64], threshold: float) -> tuple[Variant, ...]:
    """Return the table of readings with verdicts.

    Args:
        probed: the readings.
        pairs_P2: the pairs of rows to compare, from :func:`facetrm.doctor.drift.answer_pairs`.
        threshold: the largest drift that is not a fault, in standard deviations of the rewards.
    """
    table = []
    for reading in probed.readings.values():
        compared = probed.rewards(reading.against) if reading.against else None
        if not reading.against:
            continue
        if reading.rewards is None or compared is None:
            note = reading.note or "the reading that it is compared with was not run"
            table.append(Variant(reading.name, reading.against, reading.expected, None, "not run", note))
            continue
        moved = drift(reading.rewards, compared, pairs_P2=pairs_P2)
        verdict: DriftVerdict = "moves"
        if reading.expected == "agree":
            finite = all(map(math.isfinite, (*reading.rewards, *compared)))
            wrong = not finite or _is_fault(reading.name, moved, probed, threshold=threshold)
            verdict = "fault" if wrong else "agrees"
        table.append(Variant(reading.name, reading.against, reading.expected, moved, verdict))
    return tuple(table)


def judge_readings(probed: Probed, table: Sequence[Variant], *, artefact: Artefact, threshold: float) -> list[Finding]:
    """Return the findings from the readings.

    Args:
        probed: the readings.
        table: the table of the readings, from :func:`tabulate`.
        artefact: the model's files, which may explain a fault.
        threshold: the largest drift that is not a fault, in standard deviations of the rewards.
    """
    rewards = probed.rewards()
    if rewards is None:
        return []
    if not all(map(math.isfinite, rewards)):
        return [_not_finite(rewards)]
    if equal := equal_rewards(rewards):
        return [_constant(equal)]
    found = [name_cause(line, probed, artefact, threshold=threshold) for line in unexplained(table, probed)]
    step, unit = bf16_step(rewards), spread(rewards)
    if artefact.kind != "native" and len(rewards) > 1 and step > CROWDED * unit:
        found.append(_crowded(table, step=step, unit=unit))
    return found


def _is_fault(name: str, moved: Drift, probed: Probed, *, threshold: float) -> bool:
    coarse = name in (probes.BF16, probes.FP32)
    if not probed.full_precision and name in (probes.AGAIN, probes.PACKED):
        coarse = True  # these readings run in the trunk's precision
    if coarse:
        return moved.mean_spreads > PRECISION_FACTOR * threshold
    return moved.largest_spreads > threshold


def _not_finite(rewards: Sequence[float]) -> Finding:
    return Finding(
        "scores-not-finite",
        "error",
        "rewards are not finite",
        f"{sum(not math.isfinite(r) for r in rewards)} of {len(rewards)}",
        "a weight or an activation is NaN or infinite",
        "score in float32 or bfloat16 instead of float16; use an earlier checkpoint",
    )


def _constant(measured: str) -> Finding:
    return Finding(
        "scores-constant",
        "error",
        "all rewards are equal",
        measured,
        "the head is zero, it reads the same token in every conversation, or all conversations become the same tokens",
        "see the other findings; if there are none, check the head's weights",
    )


def _crowded(table: Sequence[Variant], *, step: float, unit: float) -> Finding:
    line = next((v for v in table if v.name == probes.ROUNDED and v.drift is not None), None)
    ties = "" if line is None or line.drift is None else f"; {line.drift.ties} of {line.drift.pairs} pairs tie"
    return Finding(
        "bf16-crowded",
        "warning",
        "rewards are too close together for bfloat16",
        f"standard deviation {unit:.3g}, one bfloat16 step {step:.3g}{ties}",
        "a head served in bfloat16 rounds rewards to steps that are coarse compared with their standard deviation",
        "compute the head in float32 (as facetrm does), or shift the head so that rewards lie around zero",
    )
