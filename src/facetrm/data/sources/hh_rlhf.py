"""Anthropic HH-RLHF: pairs of dialogues, ranked by helpfulness or by harmlessness (red-teaming prompts)."""

from __future__ import annotations

from facetrm.data.read.columns import Row
from facetrm.data.read.transcripts import human_assistant
from facetrm.data.sources.raw import same_but_last, text
from facetrm.data.sources.registry import Records, source

_HUB = "Anthropic/hh-rlhf"
_LICENCE = "MIT"
_CITATION = "Bai et al. 2022, Training a Helpful and Harmless Assistant with RLHF (arXiv 2204.05862)"
_HELPFUL = ("helpful-base", "helpful-online", "helpful-rejection-sampled")


def _pair(row: Row) -> Records:
    yield same_but_last(human_assistant(text(row, "chosen")), human_assistant(text(row, "rejected")))


@source(
    "hh-rlhf-helpful",
    hub=_HUB,
    kind="preference",
    licence=_LICENCE,
    citation=_CITATION,
    files=[f"{folder}/{{split}}.jsonl.gz" for folder in _HELPFUL],
)
def hh_rlhf_helpful(row: Row) -> Records:
    r"""``\n\nHuman:`` / ``\n\nAssistant:`` transcripts that differ in the last turn; others are dropped."""
    yield from _pair(row)


@source(
    "hh-rlhf-harmless",
    hub=_HUB,
    kind="preference",
    licence=_LICENCE,
    citation=_CITATION,
    task="safety",
    files=["harmless-base/{split}.jsonl.gz"],
)
def hh_rlhf_harmless(row: Row) -> Records:
    r"""``\n\nHuman:`` / ``\n\nAssistant:`` transcripts that differ in the last turn; others are dropped."""
    yield from _pair(row)
