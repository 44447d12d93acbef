"""What an edited model says of itself: each edited objective, before and after."""

from __future__ import annotations

from dataclasses import dataclass

from facetrm.model.edits import WeightEdit
from facetrm.model.output import Score
from facetrm.model.reward_model import RewardModel


@dataclass(frozen=True)
class EditedObjective:
    """One objective whose weight a user changed, in one answer.

    Attributes:
        objective: the expert's name.
        change: in words: ``dropped``, ``weight times 2``, ``weight pinned at 1``.
        weight_before: without the edits, None where the reward is no weighted sum.
        weight_after: with them.
        contribution_before: without the edits.
        contribution_after: with them.
    """

    objective: str
    change: str
    weight_before: float | None
    weight_after: float | None
    contribution_before: float
    contribution_after: float

    def __str__(self) -> str:
        if self.weight_before is None or self.weight_after is None:
            moved = f"contribution {self.contribution_before:.3g} before, {self.contribution_after:.3g} now"
        else:
            moved = f"weight {self.weight_before:.1%} before, {self.weight_after:.1%} now"
        return f"{self.objective} {self.change} ({moved})"


def changes_of(model: RewardModel, task: str) -> dict[str, str]:
    """Return what was changed in one task's mixture, in words, by objective; nothing in a model without edits.

    Args:
        model: edited or not.
        task: whose mixture.
    """
    mixture = model.mixture(task)
    made = mixture.aggregator.edit
    words: dict[int, list[str]] = {}
    for k, factor in made.scale:
        words.setdefault(k, []).append(f"weight times {factor:g}")
    for k in made.drop:
        words.setdefault(k, []).append("dropped")
    for k, weight in made.pin:
        words.setdefault(k, []).append(f"weight pinned at {weight:g}")
    return {mixture.names[k]: " and ".join(said) for k, said in sorted(words.items())}


def unedited(model: RewardModel) -> RewardModel:
    """Return the model without its edits; the same model where it has none.

    Args:
        model: edited or not.
    """
    for task, mixture in model.mixtures.items():
        if mixture.aggregator.edit != WeightEdit():
            model = model.with_mixture(mixture.with_edit(WeightEdit()), task=task, provenance={"edits": []})
    return model


def edited_objectives(model: RewardModel, before: Score, after: Score) -> tuple[EditedObjective, ...]:
    """Return what was edited in the mixture that scored an answer, before and after.

    Args:
        model: edited.
        before: the answer's score without the edits.
        after: its score by ``model``.
    """
    return tuple(
        EditedObjective(
            objective=name,
            change=change,
            weight_before=before.weights.get(name),
            weight_after=after.weights.get(name),
            contribution_before=before.contributions[name],
            contribution_after=after.contributions[name],
        )
        for name, change in changes_of(model, after.task).items()
    )
