"""Readings to a table with verdicts, and to findings with the likely culprit.

in float32    a fault when the largest drift is above the threshold
in bfloat16   a fault when the mean drift is above ten thresholds: at 0.1 spreads, some 4 pairs in 100 turn
bf16-crowded  one step of bfloat16 at the rewards' size is above 1/20 of their spread: some 14 pairs in 1000 tie
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from numpy import int64
from numpy.typing import NDArray

from facetrm.doctor import probes
from facetrm.doctor.artefact import Artefact
from facetrm.doctor.drift import bf16_step, drift, spread
from facetrm.doctor.findings import Drift, DriftVerdict, Finding, Severity, Variant
from facetrm.doctor.probes import Probed, closest

PRECISION_FACTOR: Final = 10.0
CROWDED: Final = 0.05


@dataclass(frozen=True)
class Rule:
    """What a fault of one reading is called."""

    code: str
    severity: Severity
    problem: str
    culprit: str
    fix: str


_RULES: Final = {
    probes.AGAIN: Rule(
        "unstable",
        "error",
        "the same reading twice gives different rewards",
        "dropout or sampling in the forward pass, or kernels that sum in no fixed order",
        "put the model into evaluation mode; take random layers out; ask PyTorch for deterministic algorithms",
    ),
    probes.PACKED: Rule(
        "packing-drift",
        "error",
        "conversations that share a pass get other rewards than alone",
        "a layer looks across conversations",
        "score with --mode exact, and report the architecture",
    ),
    probes.PLAIN: Rule(
        "transformers-drift",
        "error",
        "plain Transformers gives other rewards than the engine",
        "the two read the head at different places, or from other weights",
        "train and score through one path; see the culprit",
    ),
    probes.RIGHT: Rule(
        "batch-drift",
        "error",
        "rewards change when rows are padded on the right",
        "the attention mask is not followed, or the head finds the last token by the padding id",
        "score one by one, or in packs; mend pad_token_id",
    ),
    probes.LEFT: Rule(
        "padding-side",
        "warning",
        "rewards change when rows are padded on the left",
        "the attention mask is not followed in some layer",
        "pad on the right, or pass position_ids that count from each row's first token",
    ),
}
_PRECISION: Final = Rule(
    "precision-drift",
    "warning",
    "the trunk in bfloat16 gives other rewards than in float32",
    "activations or margins are small against bfloat16's 3 significant digits",
    "score in float32, or train in the precision that is served",
)


FEW: Final = 8  # rewards, below which drift in spreads says little


def tabulate(probed: Probed, *, pairs_P2: NDArray[int64], threshold: float) -> tuple[Variant, ...]:
    """Return the table of readings with verdicts.

    Args:
        probed: the readings.
        pairs_P2: which answers compete.
        threshold: largest drift, in spreads, that is no fault.
    """
    table = []
    for reading in probed.readings.values():
        compared = probed.rewards(reading.against) if reading.against else None
        if not reading.against:
            continue
        if reading.rewards is None or compared is None:
            note = reading.note or "what it is compared with was not run"
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
    """Return the findings of the readings.

    Args:
        probed: the readings. table: of them, as :func:`tabulate` made it.
        artefact: the model's files, which may explain a fault.
        threshold: as in the table.
    """
    rewards = probed.rewards()
    if rewards is None:
        return []
    if not all(map(math.isfinite, rewards)):
        return [_not_finite(rewards)]
    if len(rewards) > 1 and max(rewards) == min(rewards):
        return [_constant(rewards)]
    found = [_drifted(line, probed, artefact, threshold=threshold) for line in table if line.verdict == "fault"]
    step, unit = bf16_step(rewards), spread(rewards)
    if artefact.kind != "native" and len(rewards) > 1 and step > CROWDED * unit:
        found.append(_crowded(table, step=step, unit=unit))
    return found


def show_drift(moved: Drift) -> str:
    """Return a drift in one line."""
    return (
        f"largest {moved.largest:.3g} ({moved.largest_spreads:.2g} spreads), mean {moved.mean:.3g}; "
        f"{moved.flips} of {moved.pairs} pairs flip, {moved.ties} tie"
    )


def _is_fault(name: str, moved: Drift, probed: Probed, *, threshold: float) -> bool:
    if name in (probes.BF16, probes.FP32) or not probed.full_precision:
        return moved.mean_spreads > PRECISION_FACTOR * threshold
    return moved.largest_spreads > threshold


def _drifted(line: Variant, probed: Probed, artefact: Artefact, *, threshold: float) -> Finding:
    rule = _RULES.get(line.name, _PRECISION)
    culprit = rule.culprit
    if line.name == probes.PLAIN:
        culprit = _place_of_head(probed, artefact, threshold=threshold) or culprit
    if line.name == probes.LEFT and probed.absolute_positions:
        culprit = "absolute positions: without position_ids they count from the padding, not from the first token"
    if line.name in (probes.RIGHT, probes.LEFT) and artefact.kind == "classifier":
        tokenizer = artefact.tokenizer
        own, stated = None if tokenizer is None else tokenizer.pad_token_id, artefact.config.get("pad_token_id")
        if own is not None and own != stated:
            culprit = f"the tokenizer pads with {own}, the head looks for {stated}: it reads padding as the last token"
    measured = "" if line.drift is None else show_drift(line.drift)
    if rule is _PRECISION and len(probed.rewards() or ()) < FEW:
        return Finding(rule.code, "note", rule.problem, f"{line.name}: {measured}, of few rewards", culprit, rule.fix)
    return Finding(rule.code, rule.severity, rule.problem, f"{line.name}: {measured}", culprit, rule.fix)


def _place_of_head(probed: Probed, artefact: Artefact, *, threshold: float) -> str | None:
    """Return which mistake gives the rewards of plain Transformers."""
    plain, reference = probed.rewards(probes.PLAIN), probed.rewards()
    if plain is None or reference is None:
        return None
    candidates = {
        r.name: r.rewards for r in probed.readings.values() if r.expected == "moves" and r.rewards is not None
    }
    name = closest(plain, candidates, within=threshold * spread(reference))
    if name is None:
        return None
    if name == "no end of turn" and artefact.config.get("pad_token_id") is not None:
        return "pad = end of turn: Transformers' head takes the end for padding and reads the token before it"
    return f"it gives what '{name}' gives"


def _not_finite(rewards: Sequence[float]) -> Finding:
    return Finding(
        "scores-not-finite",
        "error",
        "rewards are not finite",
        f"{sum(not math.isfinite(r) for r in rewards)} of {len(rewards)}",
        "a weight or an activation is NaN or infinite",
        "score in float32 or bfloat16 instead of float16; take an earlier checkpoint",
    )


def _constant(rewards: Sequence[float]) -> Finding:
    return Finding(
        "scores-constant",
        "error",
        "all rewards are equal",
        f"{len(rewards)} conversations, each {rewards[0]:g}",
        "the head is zero, or reads a token that is the same in all",
        "check the head's weights and what is read: facetrm encode shows the features",
    )


def _crowded(table: Sequence[Variant], *, step: float, unit: float) -> Finding:
    line = next((v for v in table if v.name == probes.ROUNDED and v.drift is not None), None)
    ties = "" if line is None or line.drift is None else f"; {line.drift.ties} of {line.drift.pairs} pairs tie"
    return Finding(
        "bf16-crowded",
        "warning",
        "rewards are close together for bfloat16",
        f"spread {unit:.3g}, one step of bfloat16 {step:.3g}{ties}",
        "a head that is served in bfloat16 rounds rewards to steps that are coarse against their spread",
        "compute the head in float32 (facetrm does), or shift and scale the head so that rewards lie around zero",
    )
