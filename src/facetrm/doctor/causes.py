"""From readings that disagree to findings with a cause: a cause is named when a test excludes the others.

unstable      explains what moves no more than twice as far; one seed tells random numbers from kernels
company       rows of one length without padding: what moves then is no padding
padding       another padding id: a mask that is followed hides it; else positions count from the padding
precision     plain Transformers and the engine are compared in float32, so that what differs is no rounding
place         the readings of known mistakes: one that gives the same rewards is what happened
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

FEW: Final = 8  # rewards, below which drift in spreads says little


@dataclass(frozen=True)
class Rule:
    """What a fault of one reading is called; ``culprit`` is said where no test tells the causes apart."""

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
        "random numbers in the forward pass, or kernels that sum in no fixed order; not told apart",
        "put the model into evaluation mode; take random layers out; ask PyTorch for deterministic algorithms",
    ),
    probes.PACKED: Rule(
        "packing-drift",
        "error",
        "conversations that share a pass get other rewards than alone",
        "a layer looks across conversations, or at padding",
        "score with --mode exact, and report the architecture",
    ),
    probes.PLAIN: Rule(
        "transformers-drift",
        "error",
        "plain Transformers gives other rewards than the engine",
        "none of what was tested: both were read in float32, so it is no rounding, and no mistake of the table gives "
        "these rewards; what is left is another head, or another place that it reads",
        "train and score through one path; compare the class's forward with how the model was trained",
    ),
    probes.COMPANY: Rule(
        "batch-drift",
        "error",
        "rewards depend on the row beside, without any padding",
        "a layer looks across the rows of a batch, or its kernels round by the size of the batch",
        "score one by one",
    ),
    probes.RIGHT: Rule(
        "batch-drift",
        "error",
        "rewards change when rows are batched and padded on the right",
        "the padding, or the rows beside; not told apart",
        "score one by one, or in packs; fix pad_token_id",
    ),
    probes.LEFT: Rule(
        "padding-side",
        "warning",
        "rewards change when rows are padded on the left",
        "the attention mask is not followed in some layer, or positions count from the padding; not told apart",
        "pad on the right, or pass position_ids that count from each row's first token",
    ),
}
_PRECISION: Final = Rule(
    "precision-drift",
    "warning",
    "the trunk in bfloat16 gives other rewards than in float32",
    "activations or margins are small against bfloat16's 3 significant digits: nothing but the precision was changed",
    "score in float32, or train in the precision that is served",
)


_FIRST_TOKEN: Final = "the class does not look for the last token: it pools the first one, which is padding there"


def unexplained(table: Sequence[Variant], probed: Probed) -> list[Variant]:
    """Return the faults of a table that no other fault explains, in order.

    Args:
        table: the readings with verdicts.
        probed: the readings.
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
            continue  # the mask is not followed, on either side
        found.append(line)
    return found


def name_cause(line: Variant, probed: Probed, artefact: Artefact, *, threshold: float) -> Finding:
    """Return the finding of a reading that is a fault, with the cause that the tests leave.

    Args:
        line: of the table.
        probed: the readings and what the second tests said.
        artefact: the model's files.
        threshold: largest drift, in spreads, that is no fault.
    """
    rule = _RULES.get(line.name, _PRECISION)
    code, severity, culprit, fix = rule.code, rule.severity, rule.culprit, rule.fix
    said = probed.evidence
    if line.name == probes.AGAIN:
        culprit = _random(said.get(probes.SEED_DECIDES)) or culprit
    elif line.name == probes.PACKED and said.get(probes.PACKS_AGREE_IN_FLOAT32):
        culprit, severity = "rounding: in float32, conversations in packs and alone agree", "warning"
        fix = "score with --mode exact, or in float32"
    elif line.name == probes.PLAIN:
        culprit = _place_of_head(probed, artefact, threshold=threshold) or culprit
    elif line.name == probes.RIGHT:
        code, culprit = _right(probed, artefact, rule)
    elif line.name == probes.LEFT:
        culprit = _left(probed, artefact) or culprit
        if culprit == _FIRST_TOKEN and getattr(artefact.tokenizer, "padding_side", "right") == "right":
            severity = "note"  # nobody pads it there
    measured = "" if line.drift is None else show_drift(line.drift)
    if rule is _PRECISION and len(probed.rewards() or ()) < FEW:
        severity, measured = "note", f"{measured}, of few rewards"
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
        return "the forward pass draws random numbers: with one seed the rewards are equal"
    return "kernels that sum in no fixed order: one seed does not make the rewards equal"


def _right(probed: Probed, artefact: Artefact, rule: Rule) -> tuple[str, str]:
    """Return the code and the culprit of rows that padding on the right moves."""
    said = probed.evidence
    if said.get(probes.STATED_PAD_AGREES):
        tokenizer = artefact.tokenizer
        own, stated = None if tokenizer is None else tokenizer.pad_token_id, artefact.config.get("pad_token_id")
        culprit = f"the tokenizer pads with {own}, the head looks for {stated}: padded with {stated}, rows agree"
        return "padding-drift", culprit
    if probed.rewards(probes.COMPANY) is None:
        return rule.code, rule.culprit
    alone = "rows of one length without padding agree"
    if said.get(probes.RIGHT_ID_COUNTS) is None:
        return "padding-drift", f"the padding: {alone}"
    if said[probes.RIGHT_ID_COUNTS]:
        return "padding-drift", f"the padding is read: another padding id gives other rewards, and {alone}"
    return "padding-drift", f"positions or places move with the padding: its id does not matter, and {alone}"


def _left(probed: Probed, artefact: Artefact) -> str | None:
    """Return what moves rows that are padded on the left, None where no test tells."""
    if artefact.kind == "classifier" and artefact.expected is not None and not artefact.expected.reads_last:
        return _FIRST_TOKEN
    counts = probed.evidence.get(probes.LEFT_ID_COUNTS)
    if counts is None:
        return None
    if counts:
        return "the attention mask is not followed: another padding id gives other rewards"
    kind = "absolute positions" if probed.absolute_positions else "positions"
    return f"{kind}: without position_ids they count from the padding; its id does not matter, so the mask is followed"


def _place_of_head(probed: Probed, artefact: Artefact, *, threshold: float) -> str | None:
    """Return which mistake gives the rewards of plain Transformers."""
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
        return f"it gives what {', '.join(map(repr, (name, *others)))} give; not told apart"
    expected = artefact.expected
    last = artefact.kind == "classifier" and (expected is None or expected.reads_last)
    if name == "no end of turn" and probed.evidence.get(probes.ENDS_WITH_PAD) and last:
        return "pad = end of turn: Transformers' head takes the end for padding and reads the token before it"
    return f"it gives what '{name}' gives"
