"""Turn readings that disagree into findings with a cause. A cause is named only if a test rules out the others.

unstable      if rereading moves rewards, drift up to twice that size needs no other cause; fixing the seed tells
              random numbers from nondeterministic kernels
company       rows of equal length are batched without padding: drift there is not caused by padding
padding       another padding id is used: if rewards change, the mask is ignored; if not, positions count padding
precision     plain Transformers and the engine are compared in float32, so rounding cannot explain a difference
place         the readings of known mistakes: if one gives the same rewards, that mistake is the cause
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from facetrm.doctor import probes
from facetrm.doctor.artefact import Artefact
from facetrm.doctor.drift import spread
from facetrm.doctor.findings import Drift, Finding, Severity, Variant
from facetrm.doctor.probes import Probed, closest, near

FEW: Final = 8  # with fewer rewards, drift relative to their standard deviation says little


@dataclass(frozen=True)
class Rule:
    """The default finding for a fault of one reading.

    Attributes:
        code: the code of the finding.
        severity: the severity of the finding.
        problem: what is wrong.
        culprit: the likely cause if no test narrows it down.
        fix: what to do.
    """

    code: str
    severity: Severity
    problem: str
    culprit: str
    fix: str


_RULES: Final = {
    probes.AGAIN: Rule(
        "unstable",
        "error",
        "scoring the same conversations twice gives different rewards",
        "random numbers in the forward pass or nondeterministic kernels; no test tells which",
        "put the model into evaluation mode; remove random layers; enable PyTorch's deterministic algorithms",
    ),
    probes.PACKED: Rule(
        "packing-drift",
        "error",
        "conversations packed into one forward pass get different rewards than alone",
        "a layer attends across conversations, or to padding",
        "score with --mode exact, and report the architecture",
    ),
    probes.PLAIN: Rule(
        "transformers-drift",
        "error",
        "plain Transformers gives different rewards than facetrm's engine",
        "not rounding (both ran in float32) and none of the known mistakes in the table; probably another head, or a "
        "head that reads another token",
        "train and score with the same code; compare the class's forward with how the model was trained",
    ),
    probes.COMPANY: Rule(
        "batch-drift",
        "error",
        "rewards depend on the other row in the batch, even without padding",
        "a layer mixes the rows of a batch, or its kernels round differently for different batch sizes",
        "score conversations one at a time",
    ),
    probes.RIGHT: Rule(
        "batch-drift",
        "error",
        "rewards change when rows are batched and padded on the right",
        "the padding or the other rows in the batch; no test tells which",
        "score one at a time, or packed; fix pad_token_id",
    ),
    probes.LEFT: Rule(
        "padding-side",
        "warning",
        "rewards change when rows are padded on the left",
        "a layer ignores the attention mask, or positions are counted from the padding; no test tells which",
        "pad on the right, or pass position_ids that count from each row's first token",
    ),
}
_PRECISION: Final = Rule(
    "precision-drift",
    "warning",
    "the backbone gives different rewards in bfloat16 than in float32",
    "only the precision was changed: bfloat16's 3 significant digits are too coarse for these activations or margins",
    "score in float32, or train in the precision that you serve",
)


_FIRST_TOKEN: Final = "the class pools the first token instead of the last one, and with left padding that is padding"


def unexplained(table: Sequence[Variant], probed: Probed) -> list[Variant]:
    """Return the faults of a table that no other fault explains, in order.

    Args:
        table: the table of readings with verdicts.
        probed: the readings and the results of the follow-up tests.
    """
    faults = {line.name: line for line in table if line.verdict == "fault"}
    unstable, company = (_size(faults.get(name)) for name in (probes.AGAIN, probes.COMPANY))
    evidence = probed.evidence
    one_mask = bool(evidence.get(probes.RIGHT_ID_COUNTS) and evidence.get(probes.LEFT_ID_COUNTS))
    found = []
    for name, line in faults.items():
        if name != probes.AGAIN and _size(line) <= 2 * unstable:
            continue
        if name in (probes.RIGHT, probes.LEFT) and _size(line) <= 2 * company:
            continue
        if name == probes.LEFT and one_mask and probes.RIGHT in faults:
            continue  # the mask is ignored on both sides: one finding is enough
        found.append(line)
    return found


def name_cause(line: Variant, probed: Probed, artefact: Artefact, *, threshold: float) -> Finding:
    """Return the finding for a faulty reading, with the cause that remains after the follow-up tests.

    Args:
        line: the faulty line of the table.
        probed: the readings and the results of the follow-up tests.
        artefact: the model's files.
        threshold: the largest drift that is not a fault, in standard deviations of the rewards.
    """
    rule = _RULES.get(line.name, _PRECISION)
    code, severity, culprit, fix = rule.code, rule.severity, rule.culprit, rule.fix
    said = probed.evidence
    if line.name == probes.AGAIN:
        culprit = _random(said.get(probes.SEED_DECIDES)) or culprit
    elif line.name == probes.PACKED and said.get(probes.PACKS_AGREE_IN_FLOAT32):
        culprit, severity = "rounding: in float32, packed and single conversations agree", "warning"
        fix = "score with --mode exact, or in float32"
    elif line.name == probes.PLAIN:
        culprit = _place_of_head(probed, artefact, threshold=threshold) or culprit
    elif line.name == probes.RIGHT:
        code, culprit = _right(probed, artefact, rule)
    elif line.name == probes.LEFT:
        culprit = _left(probed, artefact) or culprit
        if culprit == _FIRST_TOKEN and getattr(artefact.tokenizer, "padding_side", "right") == "right":
            severity = "note"  # its tokenizer pads on the right
    measured = "" if line.drift is None else show_drift(line.drift)
    if rule is _PRECISION and len(probed.rewards() or ()) < FEW:
        severity, measured = "note", f"{measured}, on few rewards"
    problem = rule.problem if code == rule.code else "rewards change when rows are padded on the right"
    return Finding(code, severity, problem, f"{line.name}: {measured}", culprit, fix)


def show_drift(moved: Drift) -> str:
    """Return a drift in one line."""
    unit = "spreads" if moved.spreads else "times the rewards' size"
    return (
        f"largest {moved.largest:.3g} ({moved.largest_spreads:.2g} {unit}), mean {moved.mean:.3g}; "
        f"{moved.flips} of {moved.pairs} pairs flip, {moved.ties} tie"
    )


def _size(line: Variant | None) -> float:
    return 0.0 if line is None or line.drift is None else line.drift.largest


def _random(seed_decides: bool | None) -> str | None:
    if seed_decides is None:
        return None
    if seed_decides:
        return "the forward pass draws random numbers: with a fixed seed the rewards are equal"
    return "nondeterministic kernels: a fixed seed does not make the rewards equal"


def _right(probed: Probed, artefact: Artefact, rule: Rule) -> tuple[str, str]:
    """Return the code and the culprit for rewards that change under right padding."""
    said = probed.evidence
    if said.get(probes.STATED_PAD_AGREES):
        tokenizer = artefact.tokenizer
        own, stated = None if tokenizer is None else tokenizer.pad_token_id, artefact.config.get("pad_token_id")
        culprit = f"the tokenizer pads with {own}, but the head looks for {stated}; padded with {stated}, rewards agree"
        return "padding-drift", culprit
    if probed.rewards(probes.COMPANY) is None:
        return rule.code, rule.culprit
    alone = "rows of equal length without padding agree"
    if said.get(probes.RIGHT_ID_COUNTS) is None:
        return "padding-drift", f"the padding: {alone}"
    if said[probes.RIGHT_ID_COUNTS]:
        return "padding-drift", f"padding is attended to: another padding id changes rewards, and {alone}"
    return "padding-drift", f"padding shifts the positions or the token that is read: its id has no effect, and {alone}"


def _left(probed: Probed, artefact: Artefact) -> str | None:
    """Return why rewards change under left padding, or None if no test tells."""
    if artefact.kind == "classifier" and artefact.expected is not None and not artefact.expected.reads_last:
        return _FIRST_TOKEN
    counts = probed.evidence.get(probes.LEFT_ID_COUNTS)
    if counts is None:
        return None
    if counts:
        return "the attention mask is ignored: another padding id changes rewards"
    kind = "absolute positions" if probed.absolute_positions else "positions"
    return f"{kind}: without position_ids they also count padding; its id has no effect, so the mask is respected"


def _place_of_head(probed: Probed, artefact: Artefact, *, threshold: float) -> str | None:
    """Return the known mistake that gives the same rewards as plain Transformers, or None."""
    plain = probed.rewards(probes.PLAIN)
    reading = probed.readings.get(probes.PLAIN)
    reference = None if reading is None else probed.rewards(reading.against)
    if plain is None or reference is None:
        return None
    candidates = {
        r.name: r.rewards for r in probed.readings.values() if r.expected == "moves" and r.rewards is not None
    }
    within = threshold * spread(reference)
    name = closest(plain, candidates, within=within)
    if name is None:
        return None
    others = [key for key, rewards in candidates.items() if key != name and near(plain, rewards, within=within)]
    if others:
        return f"it gives the same rewards as the readings {', '.join(map(repr, (name, *others)))}; no test tells which"
    expected = artefact.expected
    last = artefact.kind == "classifier" and (expected is None or expected.reads_last)
    if name == "no end of turn" and probed.evidence.get(probes.ENDS_WITH_PAD) and last:
        return "pad = end of turn: Transformers' head skips the end token as padding and reads the token before it"
    return f"it gives the same rewards as the reading '{name}'"
