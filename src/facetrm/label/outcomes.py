"""Combine the two verdicts on a pair into one outcome, and turn outcomes into preference records.

Each pair is judged twice, in both orders. A preference is kept only if the judge picks the same reply both times. Every
other outcome has a name and is counted: ``tie`` (both times), ``cannot_say`` (at least once), ``first_twice`` and
``second_twice`` (the judge picked the same position both times), ``half_tie`` (one tie, one winner), ``unanswered``.
Reference: DMoERM (arXiv 2403.01197), the labelling of capability points: ask twice with swapped order, keep consistent
labels. Ours differs in two ways: a verdict is JSON, not the first digit of a text, and dropped pairs are recorded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, final

from facetrm.data.records import Preference
from facetrm.label.plan import PairInCapability
from facetrm.label.verdicts import JudgeVerdict

Outcome = Literal["first", "second", "tie", "cannot_say", "first_twice", "second_twice", "half_tie", "unanswered"]
KEPT: frozenset[Outcome] = frozenset({"first", "second"})


@final
@dataclass(frozen=True)
class Judged:
    """One pair in one capability, with the judge's verdicts.

    Attributes:
        judgement: the pair and the capability.
        verdicts: the verdict on the pair as it stands and the one with the replies swapped; None if unanswered.
    """

    judgement: PairInCapability
    verdicts: tuple[JudgeVerdict | None, JudgeVerdict | None]

    @property
    def outcome(self) -> Outcome:
        """The combined outcome. ``first`` and ``second`` refer to the order of the replies in the file."""
        return decide(*self.verdicts)

    def record(self, *, model: str, rubric: str) -> Preference:
        """Return a kept outcome as a preference, with the better reply first and ``task/capability`` as its aspect.

        Args:
            model: the name of the judge, written to ``meta``.
            rubric: the name of the rubric, written to ``meta``.
        """
        pair = self.judgement.pair
        return Preference(
            id=f"{pair.id}#{self.judgement.aspect}",
            source=pair.source,
            subset=pair.subset,
            task=self.judgement.task.name,
            split=pair.split,
            prompt=pair.prompt,
            responses=pair.replies if self.outcome == "first" else pair.replies[::-1],
            aspect=self.judgement.aspect,
            meta={"judge": model, "rubric": rubric},
        )


def decide(straight: JudgeVerdict | None, swapped: JudgeVerdict | None) -> Outcome:
    """Combine the two verdicts on one pair into one outcome.

    Args:
        straight: the verdict on the pair as it stands; None if unanswered.
        swapped: the verdict with the second reply shown first; None if unanswered.
    """
    if straight is None or swapped is None:
        return "unanswered"
    if "cannot_say" in (straight, swapped):
        return "cannot_say"
    if straight == swapped:
        return {"tie": "tie", "reply_1": "first_twice", "reply_2": "second_twice"}[straight]  # type: ignore[return-value]
    if "tie" in (straight, swapped):
        return "half_tie"
    return "first" if straight == "reply_1" else "second"


def judge_all(judgements: Iterable[PairInCapability], verdicts: Mapping[str, JudgeVerdict]) -> Iterator[Judged]:
    """Yield each judgement together with its two verdicts.

    Args:
        judgements: the pairs in their capabilities.
        verdicts: the verdicts so far, by question key. A missing key means that the question is unanswered.
    """
    for judgement in judgements:
        first, second = (verdicts.get(key) for key in judgement.keys)
        yield Judged(judgement, (first, second))
