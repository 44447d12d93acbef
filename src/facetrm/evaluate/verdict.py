"""One plain statement about a reward model, derived from intervals on held-out pairs.

    accuracy           share of held-out pairs in the labelled order, with its interval over prompts
    lead over a rival  accuracy minus that of the rival on the same pairs, with the interval of the paired difference

    backwards          the interval of the accuracy lies below one half
    chance             it contains one half
    not better         a rival is clearly ahead, or a rival that needs no reward model is not clearly beaten
    usable             everything else

An interval of half width h on N pairs shrinks to half width g with about N (h / g)^2 pairs.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from facetrm.core.statistics import Interval
from facetrm.model.validity import Validity

Status = Literal["usable", "not better", "chance", "backwards"]

WANTED: Final = 0.05
"""Half width of an interval of accuracy that a verdict asks for."""


@dataclass(frozen=True)
class Verdict:
    """What the held-out pairs say about a model.

    Attributes:
        status: ``usable``, ``not better`` (than ``rival``), ``chance`` or ``backwards``.
        statement: The verdict in one or two sentences.
        advice: What would change it, one sentence each.
        warnings: What limits it, one sentence each.
        accuracy: Accuracy on the held-out pairs.
        pairs: Number of held-out pairs.
        enough: Number of held-out pairs for an interval of five points either way; None if there are enough.
        rival: The system that the statement compares with; None if there is none.
        lead: Accuracy minus that of ``rival`` on the same pairs.
        cross_validated: Accuracy on the training pairs, cross-validated by prompt; None if it was not measured.
        cross_pairs: Number of these pairs.
    """

    status: Status
    statement: str
    advice: tuple[str, ...]
    warnings: tuple[str, ...]
    accuracy: Interval
    pairs: int
    enough: int | None
    rival: str | None = None
    lead: Interval | None = None
    cross_validated: Interval | None = None
    cross_pairs: int = 0

    @property
    def evidence(self) -> tuple[str, ...]:
        """What was measured besides the held-out pairs, one sentence each."""
        if self.cross_validated is None:
            return ()
        right = _percent(self.cross_validated)
        return (
            f"Gates fitted without a prompt are right on {right} of its pairs ({self.cross_pairs} training pairs).",
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-ready figures."""
        return {**asdict(self), "evidence": self.evidence}

    def lines(self) -> list[str]:
        """Return the verdict as lines of text, with what else was measured, what limits it and what would change it."""
        more = (*self.evidence, *self.warnings, *self.advice)
        return [f"Verdict: {self.statement}", *(f"  {line}" for line in more)]


def judge_verdict(
    accuracy: Interval,
    leads: Mapping[str, Interval],
    *,
    pairs: int,
    plain: Collection[str],
    titles: Mapping[str, str],
    warnings: Sequence[str] = (),
) -> Verdict:
    """Return the verdict on a model.

    Args:
        accuracy: Accuracy on the held-out pairs.
        leads: Accuracy minus that of each rival on the same pairs, by name.
        pairs: Number of held-out pairs.
        plain: Names of rivals that need no reward model, such as the longer answer. Each must be clearly beaten; the
            others must not be clearly ahead.
        titles: Titles of the rivals in sentences.
        warnings: Sentences about what limits the verdict.
    """
    half = (accuracy.high - accuracy.low) / 2
    enough = math.ceil(pairs * (half / WANTED) ** 2) if half > WANTED else None
    shown = f"{_percent(accuracy)} of {pairs} held-out pairs"

    def found(status: Status, statement: str, advice: Sequence[str], rival: str | None = None) -> Verdict:
        more = [] if enough is None else [f"About {enough} held-out pairs would narrow the interval to 5 points."]
        lead = None if rival is None else leads[rival]
        told = (*advice, *more)
        return Verdict(status, statement, told, tuple(warnings), accuracy, pairs, enough, rival, lead)

    if not accuracy.low > 0.5:
        if accuracy.high < 0.5:
            return found(
                "backwards",
                f"orders pairs against their labels: right on {shown}.",
                ["Check which answer of a pair is the preferred one, and the direction of the objectives."],
            )
        return found(
            "chance",
            f"not distinguishable from chance: right on {shown}.",
            ["If no objective is predicted on held-out prompts either, the backbone or the labels are the limit."],
        )
    ahead = [name for name, lead in leads.items() if lead.high < 0.0]
    level = [name for name, lead in leads.items() if name in plain and not lead.low > 0.0]
    if ahead or level:
        rival = min(ahead or level, key=lambda name: leads[name].value)
        return found(
            "not better", f"not better than {_than(titles, rival, leads[rival])}. Right on {shown}.", [], rival
        )
    if not leads:
        return found("usable", f"usable: right on {shown}. It was compared with no other system.", [])
    rival = min(leads, key=lambda name: leads[name].value)
    if leads[rival].low > 0.0:
        return found("usable", f"usable: right on {shown}, and clearly ahead of all {len(leads)} rivals.", [], rival)
    return found("usable", f"usable: right on {shown}. Level with {_than(titles, rival, leads[rival])}.", [], rival)


def expected_half_width(prompts: int) -> float:
    """Return the half width of the interval of an accuracy near one half, before anything is measured.

    ``1.96 * sqrt(0.25 / prompts)``: the widest that so many independent pairs give.

    Args:
        prompts: Number of held-out prompts with a pair; the pairs of one prompt are not independent.
    """
    return 1.0 if prompts < 1 else min(1.0, 1.96 * math.sqrt(0.25 / prompts))


def prompts_wanted() -> int:
    """Return the number of held-out prompts whose interval is :data:`WANTED` wide either way, by the same rule."""
    return math.ceil(0.25 * (1.96 / WANTED) ** 2)


def unproven(found: Mapping[str, Validity]) -> list[str]:
    """Return the objectives without measurable validity on held-out rows.

    Args:
        found: How well each objective is predicted on held-out rows, by name.
    """
    return [name for name, validity in found.items() if not validity.measurable]


def weight_warnings(weights: Mapping[str, float], without: Sequence[str], *, of: str = "weight") -> list[str]:
    """Return sentences about weight on objectives without measurable validity.

    Args:
        weights: Share of each objective in the reward, summing to 1.
        without: Objectives without measurable validity.
        of: What the shares are shares of.
    """
    share = {name: weights[name] for name in without if weights.get(name, 0.0) > 0.0}
    total = sum(share.values())
    if not share or total < 0.01:
        return []
    most = max(share, key=lambda name: share[name])
    what = "ratings are not predicted on held-out prompts"
    if share[most] > 0.5:
        return [f"{most} holds {100 * share[most]:.0f}% of the {of}, but its {what}."]
    names = ", ".join(sorted(share, key=lambda name: -share[name])[:3]) + (" and others" if len(share) > 3 else "")
    return [f"{100 * total:.0f}% of the {of} is on objectives whose {what}: {names}."]


def _percent(interval: Interval) -> str:
    return f"{100 * interval.value:.1f}% ({100 * interval.low:.1f} to {100 * interval.high:.1f})"


def _than(titles: Mapping[str, str], name: str, lead: Interval) -> str:
    points = f"{100 * lead.value:+.1f} points, {100 * lead.low:+.1f} to {100 * lead.high:+.1f}"
    return f"{titles.get(name, name)} ({points})"
