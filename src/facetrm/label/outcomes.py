"""From two verdicts to one outcome, and from outcomes to records.

A preference is kept only if the judge names the same reply whichever stands first. Everything else has a name and is
counted: ``tie`` (twice), ``cannot_say`` (at least once), ``first_twice`` and ``second_twice`` (the place decided, not
the reply), ``half_tie`` (a tie one way, a winner the other).
Reference: DMoERM (arXiv 2403.01197), the labelling of capability points: asked twice with swapped order, kept only if
consistent. Ours differs in what a verdict is (JSON, never the first digit of a text), and keeps what was dropped.
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
    """One judgement with its two verdicts (None: no answer) and what they come to."""

    judgement: PairInCapability
    verdicts: tuple[JudgeVerdict | None, JudgeVerdict | None]

    @property
    def outcome(self) -> Outcome:
        """``first`` and ``second`` are replies of the pair as it stands in the file."""
        return decide(*self.verdicts)

    def record(self, *, model: str, rubric: str) -> Preference:
        """Return the preference of a kept outcome: the better reply first, about ``task/capability``.

        Args:
            model: the judge.
            rubric: the name of the rubric; both go to ``meta``.
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
    """Return what two verdicts on one pair come to.

    Args:
        straight: the verdict on the pair as it stands.
        swapped: the verdict with the second reply shown first.
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
    """Yield each of ``judgements`` with what was said: ``verdicts`` maps question key -> verdict."""
    for judgement in judgements:
        first, second = (verdicts.get(key) for key in judgement.keys)
        yield Judged(judgement, (first, second))
