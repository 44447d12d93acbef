"""The doctor's results: one :class:`Finding` per fault, one :class:`Variant` per reading, and the :class:`Diagnosis`.

The exit code is 3 if there is an error or a warning whose code is not allowed, and 0 otherwise. Notes never count.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

Severity = Literal["error", "warning", "note"]
DriftVerdict = Literal["agrees", "fault", "moves", "not run"]

THRESHOLD: Final = 0.01
"""The default threshold of a fault: a drift of one hundredth of the rewards' standard deviation."""

CODES: Final[Mapping[str, str]] = {
    # the folder
    "does-not-load": "the model cannot be loaded",
    "weights-missing": "tensors of the architecture, or files of the index, are missing",
    "weights-not-finite": "a tensor of the backbone holds NaN or infinity",
    "weights-unread": "tensors have a dtype that PyTorch cannot read as numbers",
    "remote-code": "the folder comes with Python code",
    "conversion": "the backbone was converted from a GGUF file, and something in it is doubtful",
    # the head
    "head-missing": "the weights have no reward head: loaders initialise one at random",
    "head-shape": "the head's shape does not match the configuration",
    "head-untrained": "the head is zero or constant",
    "head-not-finite": "the head holds NaN or infinity",
    "gated-head": "plain loaders would load this gated reward model as a classifier",
    "adapter-head": "the adapter comes without its trained reward head",
    "num-labels": "the classifier does not have exactly one output",
    "activation": "servers will apply a sigmoid or softmax to the reward",
    # the padding
    "pad-is-eos": "the padding token is the end token",
    "pad-missing": "there is no padding token",
    "pad-mismatch": "the tokenizer and the model have different padding tokens",
    # the tokenizer
    "tokenizer-missing": "the tokenizer cannot be loaded",
    "vocabulary": "the tokenizer's ids do not fit the model's embedding",
    "max-length": "the tokenizer allows more tokens than the model has positions",
    "double-bos": "the beginning-of-text token is written twice",
    "no-bos": "the beginning-of-text token is never written",
    "unknown-words": "the tokenizer does not know more than a tenth of the text",
    # the template
    "template-missing": "there is no chat template",
    "template-fails": "the chat template raises an error on an ordinary conversation",
    "template-drops": "the chat template leaves out the content of a turn",
    "template-date": "the chat template writes today's date",
    "template-think": "the chat template adds a thinking block that is not in the conversation",
    "template-rewrites": "the chat template renders a turn differently when later turns follow",
    "no-end-of-turn": "no end-of-turn token follows the last answer",
    # the readings
    "scores-not-finite": "a reward is NaN or infinite",
    "scores-constant": "all rewards are equal",
    "answers-equal": "different answers become the same tokens or get the same reward",
    "unstable": "scoring the same conversations twice gives different rewards",
    "packing-drift": "packed conversations get different rewards than single ones",
    "transformers-drift": "plain Transformers gives different rewards than facetrm's engine",
    "batch-drift": "a reward depends on the other rows in the batch",
    "padding-drift": "a reward changes when its row is padded on the right",
    "padding-side": "a reward changes when its row is padded on the left",
    "precision-drift": "bfloat16 and float32 give different rewards",
    "bf16-crowded": "rewards are so close that bfloat16 ties them",
    # a server
    "server-fails": "the server fails on a request of the doctor",
    "server-labels": "the server returns several numbers for one conversation",
    "server-constant": "the server gives every conversation the same reward",
    "server-unstable": "the server gives the same conversation different rewards",
    "server-order": "a reward depends on earlier requests",
    "server-batch": "a reward depends on concurrent requests",
    "server-activation": "the server applies a sigmoid to the rewards",
    "server-truncates": "the server truncates long conversations silently",
    "server-drift": "the server gives different rewards than the local copy",
}
"""Every code and its meaning; the fixes are in ``docs/doctor.md``."""


@dataclass(frozen=True)
class Finding:
    """One fault.

    Attributes:
        code: one of :data:`CODES`.
        severity: ``error`` (scores are wrong), ``warning`` (scores are wrong in a common use), or ``note``.
        problem: what is wrong, with the offending value.
        measured: the numbers or values that show it.
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
    """How far rewards moved from the rewards that they are compared with.

    Attributes:
        largest: the largest absolute difference, in reward.
        mean: the mean absolute difference, in reward.
        spread: the standard deviation of the compared rewards; their size if they are all equal.
        largest_spreads: the largest difference divided by ``spread``.
        mean_spreads: the mean difference divided by ``spread``.
        pairs: the number of pairs of answers compared.
        flips: the number of pairs whose order is reversed.
        ties: the number of pairs that became equal.
        spreads: whether the compared rewards differ by more than rounding.
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
    """One reading (one way to compute the rewards), compared with another.

    Attributes:
        name: the name of the reading.
        against: the name of the reading that it is compared with.
        expected: ``agree`` if the two should agree; ``moves`` if this reading is a known mistake whose effect is shown.
        drift: the measured drift, or None if the reading was not run.
        verdict: ``agrees`` or ``fault``; ``moves`` for a known mistake; ``not run``.
        note: why the reading was not run.
    """

    name: str
    against: str
    expected: Literal["agree", "moves"]
    drift: Drift | None
    verdict: DriftVerdict
    note: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """The diagnosis of one model or server.

    Attributes:
        model: the folder, hub id or URL.
        kind: the kind of model folder, or the API of the server.
        conversations: the number of conversations scored; 0 without data.
        threshold: the drift that counts as a fault, in standard deviations of the rewards.
        findings: the findings, worst first.
        variants: the table of readings.
        skipped: the checks that were skipped, with the reasons.
        allowed: the codes that do not affect the exit code.
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
        """The exit code: 3 if any finding counts, else 0."""
        return 3 if self.counted else 0

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return {**_finite(asdict(self)), "healthy": not self.counted, "exit_code": self.exit_code}


def worst_first(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Return errors, then warnings, then notes, without duplicates and otherwise in the given order."""
    rank = {"error": 0, "warning": 1, "note": 2}
    return tuple(sorted(dict.fromkeys(findings), key=lambda f: rank[f.severity]))


def _finite(value: Any) -> Any:
    """Return the value with NaN and infinity replaced by None, since JSON has neither."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
