"""What the doctor says: a :class:`Finding` per fault, a :class:`Variant` per way of reading, the :class:`Diagnosis`.

exit code 3   when an error or a warning was found that is not allowed;  0 otherwise (notes never count)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

Severity = Literal["error", "warning", "note"]
DriftVerdict = Literal["agrees", "fault", "moves", "not run"]

THRESHOLD: Final = 0.01
"""Drift that is a fault by default: a hundredth of the rewards' standard deviation."""

CODES: Final[Mapping[str, str]] = {
    # the folder
    "does-not-load": "the model cannot be loaded",
    "weights-missing": "tensors of the architecture, or files of the index, are not there",
    "weights-not-finite": "a tensor of the trunk holds NaN or infinity",
    "weights-unread": "tensors of a type that PyTorch cannot read as numbers",
    "remote-code": "the folder needs code of its own",
    # the head
    "head-missing": "no reward head in the weights: loaders draw one at random",
    "head-shape": "the head's shape is not that of the configuration",
    "head-untrained": "the head is zero or constant",
    "head-not-finite": "the head holds NaN or infinity",
    "gated-head": "a gated reward model that plain loaders take for a classifier",
    "adapter-head": "an adapter without the head that was trained with it",
    "num-labels": "the classifier has another number of outputs than one",
    "activation": "servers will squash the reward through a sigmoid or softmax",
    # the padding
    "pad-is-eos": "the padding token is the end token",
    "pad-missing": "there is no padding token",
    "pad-mismatch": "tokenizer and model name different padding tokens",
    # the tokenizer
    "tokenizer-missing": "the tokenizer cannot be loaded",
    "vocabulary": "the tokenizer makes ids that the model does not have",
    "max-length": "the tokenizer lets through more tokens than the model has positions",
    "double-bos": "the beginning-of-text token is written twice",
    "no-bos": "the beginning-of-text token is never written",
    "unknown-words": "the tokenizer does not know more than a tenth of the text",
    # the template
    "template-missing": "there is no chat template",
    "template-fails": "the chat template refuses an ordinary conversation",
    "template-drops": "the chat template leaves out what a turn says",
    "template-date": "the chat template writes today's date",
    "template-think": "the chat template writes a thinking block that nobody wrote",
    "template-rewrites": "the chat template renders a turn otherwise when later turns follow",
    "no-end-of-turn": "nothing closes the last answer",
    # the readings
    "scores-not-finite": "a reward is NaN or infinite",
    "scores-constant": "all rewards are equal: they have no spread",
    "answers-equal": "answers that differ are read as one, or get one reward",
    "unstable": "the same reading twice gives different rewards",
    "packing-drift": "prompts shared in packs give other rewards than conversations alone",
    "transformers-drift": "plain Transformers gives other rewards than the engine",
    "batch-drift": "a reward depends on the rows beside it",
    "padding-drift": "a reward changes when its row is padded on the right",
    "padding-side": "a reward depends on the side of the padding",
    "precision-drift": "bfloat16 and float32 give different rewards",
    "bf16-crowded": "rewards are so close that bfloat16 ties them",
    # a server
    "server-fails": "the server fails on a request of the probes",
    "server-labels": "the server gives several numbers for one conversation",
    "server-constant": "the server gives every conversation the same number",
    "server-unstable": "the server gives the same conversation different numbers",
    "server-order": "a reward depends on what was asked before",
    "server-batch": "a reward depends on what is asked at the same time",
    "server-activation": "the server squashes rewards",
    "server-truncates": "the server cuts long conversations without a word",
    "server-drift": "the server gives other rewards than the local copy",
}
"""Every code and what it means; ``docs/doctor.md`` has the fixes."""


@dataclass(frozen=True)
class Finding:
    """One fault.

    Attributes:
        code: one of :data:`CODES`.
        severity: ``error`` (scores are wrong), ``warning`` (they are wrong in a common use), ``note``.
        problem: what is wrong, with the offending value.
        measured: the figures or the value that show it.
        culprit: the likely cause.
        fix: what to do.
    """

    code: str
    severity: Severity
    problem: str
    measured: str
    culprit: str
    fix: str

    def __post_init__(self) -> None:
        if self.code not in CODES:
            raise ValueError(f"unknown code '{self.code}'")


@dataclass(frozen=True)
class Drift:
    """How far rewards moved from those they are compared with.

    Attributes:
        largest: largest |difference|, in reward.
        mean: mean |difference|, in reward.
        spread: standard deviation of the compared rewards, the unit of the next two; their size where they have none.
        largest_spreads: the largest in units of the spread.
        mean_spreads: the mean in units of the spread.
        pairs: number of pairs of answers compared.
        flips: number of pairs whose order is reversed.
        ties: number of pairs that became equal.
        spreads: whether the compared rewards have a spread: they differ by more than rounding.
    """

    largest: float
    mean: float
    spread: float
    largest_spreads: float
    mean_spreads: float
    pairs: int
    flips: int
    ties: int
    spreads: bool = True


@dataclass(frozen=True)
class Variant:
    """One way of reading the conversations, compared with another.

    Attributes:
        name: name of the reading.
        against: the way it is compared with.
        expected: whether the two should ``agree``, or one is a mistake whose cost is shown (``moves``).
        drift: what was measured, None where it was not run.
        verdict: ``agrees`` or ``fault``; ``moves`` for a mistake; ``not run``.
        note: why it was not run.
    """

    name: str
    against: str
    expected: Literal["agree", "moves"]
    drift: Drift | None
    verdict: DriftVerdict
    note: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """Everything that was found about one model.

    Attributes:
        model: folder, hub id or URL.
        kind: what it was taken for.
        conversations: how many were read, 0 without data.
        threshold: drift that counts as a fault, in spreads.
        findings: worst first.
        variants: the table of readings.
        skipped: what was not looked at, and why.
        allowed: codes that do not count.
    """

    model: str
    kind: str
    conversations: int
    threshold: float
    findings: tuple[Finding, ...]
    variants: tuple[Variant, ...] = ()
    skipped: tuple[str, ...] = ()
    allowed: tuple[str, ...] = ()

    @property
    def counted(self) -> tuple[Finding, ...]:
        """The errors and warnings that are not allowed."""
        return tuple(f for f in self.findings if f.severity != "note" and f.code not in self.allowed)

    @property
    def exit_code(self) -> int:
        """3 with a counted finding, else 0."""
        return 3 if self.counted else 0

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return {**_finite(asdict(self)), "healthy": not self.counted, "exit_code": self.exit_code}


def worst_first(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Return errors, then warnings, then notes, each once and otherwise in order."""
    rank = {"error": 0, "warning": 1, "note": 2}
    return tuple(sorted(dict.fromkeys(findings), key=lambda f: rank[f.severity]))


def _finite(value: Any) -> Any:
    """Return the value with None for numbers that JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
