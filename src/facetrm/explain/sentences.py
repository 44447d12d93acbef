"""Sentences about an explained answer or pair: who is ahead and why, what the label says, what is edited or unsure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Protocol

from facetrm.core.shown import show_digits, show_fixed
from facetrm.explain.lines import ExpertLine


class _Answer(Protocol):
    @property
    def task(self) -> str: ...
    @property
    def truncated(self) -> bool: ...
    @property
    def unedited(self) -> float | None: ...
    @property
    def edits(self) -> Sequence[object]: ...
    @property
    def lines(self) -> Sequence[ExpertLine]: ...


class _Difference(Protocol):
    @property
    def objective(self) -> str: ...
    @property
    def difference(self) -> float: ...
    @property
    def share(self) -> float: ...
    @property
    def a(self) -> ExpertLine | None: ...
    @property
    def b(self) -> ExpertLine | None: ...
    @property
    def favours(self) -> str: ...


class _Pair(Protocol):
    @property
    def a(self) -> _Answer: ...
    @property
    def b(self) -> _Answer: ...
    @property
    def margin(self) -> float: ...
    @property
    def base_difference(self) -> float: ...
    @property
    def same_prompt(self) -> bool: ...
    @property
    def lines(self) -> Sequence[_Difference]: ...
    @property
    def probability(self) -> float | None: ...
    @property
    def preferred(self) -> str | None: ...
    @property
    def winner(self) -> str: ...
    @property
    def decided_by(self) -> str | None: ...


_NOTED: Final = 10.0
"""Share in percent from which a sentence names an objective without measurable validity."""


def answer_facts(answer: _Answer) -> tuple[str, ...]:
    """Return sentences about edits and unproven objectives; none if there is nothing to say.

    Args:
        answer: the explained answer.
    """
    doubts = unproven_facts((line, line.share, "contributions") for line in answer.lines)
    if answer.unedited is None:
        return tuple(doubts)
    return (*_edit_facts(answer), f"Without the edits the reward is {show_fixed(answer.unedited)}.", *doubts)


def pair_facts(pair: _Pair) -> tuple[str, ...]:
    """Return sentences about which answer is ahead, what the label says, and which objectives decide.

    Args:
        pair: the explained pair.
    """
    sure = "" if pair.probability is None else f"; P(A > B) = {pair.probability:.2f}"
    if pair.winner == "neither":
        facts = [f"The two answers are tied{sure}."]
    else:
        facts = [f"{pair.winner} is ahead by {abs(pair.margin):.4g}{sure}."]
    facts += label_facts(pair)
    if pair.a.task != pair.b.task:
        facts.append(
            f"Two mixtures scored them ({pair.a.task}, {pair.b.task}), so their rewards are on different scales."
        )
    if not pair.same_prompt and pair.base_difference:
        apart = show_digits(pair.base_difference, 4)
        facts.append(f"The prompts differ, so the bases differ by {apart} and the answers are not directly comparable.")
    elif not pair.same_prompt:
        facts.append("The prompts differ, so the answers are not directly comparable.")
    for side in ("A", "B"):
        names = [f"{line.objective} ({show_digits(line.difference)})" for line in pair.lines if line.favours == side]
        if names:
            more = f" and {len(names) - 4} more" if len(names) > 4 else ""
            facts.append(f"For {side}: {', '.join(names[:4])}{more}.")
    if pair.decided_by is not None:
        facts.append(f"{pair.decided_by} alone makes up {pair.lines[0].share:.0f}% of all differences.")
    facts += unproven_facts((line.a or line.b, line.share, "differences") for line in pair.lines)
    facts += dict.fromkeys([*_edit_facts(pair.a), *_edit_facts(pair.b)])
    if pair.a.unedited is not None and pair.b.unedited is not None:
        before = show_fixed(pair.a.unedited - pair.b.unedited, signed=True)
        facts.append(f"Without the edits the margin is {before}.")
    for side, answer in (("A", pair.a), ("B", pair.b)):
        if answer.truncated:
            facts.append(f"Answer {side} was truncated before it was scored.")
    return tuple(facts)


def label_facts(pair: _Pair) -> list[str]:
    """Return a sentence about the answer that the data prefer, and whether the model agrees; none without a label.

    Args:
        pair: the explained pair.
    """
    if pair.preferred is None:
        return []
    if pair.winner == "neither":
        return [f"The label prefers {pair.preferred}; the model does not decide."]
    agrees = "and so does the model" if pair.winner == pair.preferred else f"but the model prefers {pair.winner}"
    return [f"The label prefers {pair.preferred}, {agrees}."]


def unproven_facts(shares: Iterable[tuple[ExpertLine | None, float, str]]) -> list[str]:
    """Return a sentence about the objectives with a large share but without measurable validity; none without them.

    Args:
        shares: line of each objective, its share in percent, and what it is a share of.
    """
    found = [(line, share, what) for line, share, what in shares if line is not None and line.unproven]
    noted = [f"{line.objective} ({share:.0f}%)" for line, share, _ in found if share >= _NOTED]
    if not noted:
        return []
    return [
        f"Not reliable: {', '.join(noted)} of the {found[0][2]} come from objectives whose ratings are not predicted "
        "on held-out prompts."
    ]


def _edit_facts(answer: _Answer) -> list[str]:
    return [f"Edited: {edited}." for edited in answer.edits]
