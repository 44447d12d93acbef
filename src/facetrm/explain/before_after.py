"""An edited answer before and after its edits: every weight and contribution, with sums that add up to the rewards.

sum of the weights (100% before)        base + sum of the contributions = reward        before and after
"""

from __future__ import annotations

from dataclasses import dataclass

from facetrm.explain.local import LocalExplanation


@dataclass(frozen=True)
class BeforeAfterRow:
    """One objective before and after the edits.

    Attributes:
        objective: name of the objective.
        change: its edit in words; empty if it was not edited itself.
        weights: gate weight before and after; None if the reward is not a weighted sum.
        contributions: contribution before and after.
    """

    objective: str
    change: str
    weights: tuple[float, float] | None
    contributions: tuple[float, float]


@dataclass(frozen=True)
class BeforeAfter:
    """One answer before and after the edits of the model. In each pair of numbers, the first is before.

    Attributes:
        rows: one row per objective: edited ones first, then by the change of the contribution.
        weights: sum of the weights; None if the reward is not a weighted sum.
        base: base of the reward.
        reward: the reward.
    """

    rows: tuple[BeforeAfterRow, ...]
    weights: tuple[float, float] | None
    base: tuple[float, float]
    reward: tuple[float, float]

    @property
    def facts(self) -> tuple[str, ...]:
        """A sentence if the weights do not sum to 100% after the edits; none otherwise."""
        if self.weights is None or abs(self.weights[1] - self.weights[0]) < 0.0005:
            return ()
        return (
            f"The weights sum to {self.weights[1]:.1%} after the edits, because scaling a weight does not change the "
            "others.",
        )


def before_after(answer: LocalExplanation) -> BeforeAfter | None:
    """Return an answer before and after the edits; None if the model is not edited.

    Args:
        answer: the explained answer.
    """
    if answer.before is None:
        return None
    old = {line.objective: line for line in answer.before.lines}
    changes = {edited.objective: edited.change for edited in answer.edits}
    rows = [
        BeforeAfterRow(
            objective=line.objective,
            change=changes.get(line.objective, ""),
            weights=None if line.weight is None or (was := old[line.objective].weight) is None else (was, line.weight),
            contributions=(old[line.objective].contribution, line.contribution),
        )
        for line in answer.lines
    ]
    rows.sort(key=lambda r: (not r.change, -abs(r.contributions[1] - r.contributions[0]), r.objective))
    weights = [row.weights for row in rows if row.weights is not None]
    sums = (sum(w[0] for w in weights), sum(w[1] for w in weights)) if weights else None
    return BeforeAfter(tuple(rows), sums, (answer.before.base, answer.base), (answer.before.reward, answer.reward))
