"""The edited objectives of a model, with their weights and contributions before and after the edit."""

from __future__ import annotations

from dataclasses import dataclass

from facetrm.model.edits import WeightEdit
from facetrm.model.output import Score
from facetrm.model.reward_model import RewardModel


@dataclass(frozen=True)
class EditedObjective:
    """The effect of an edit on one objective of one answer.

    Attributes:
        objective: name of the expert.
        change: the edit in words: ``dropped``, ``weight times 2`` or ``weight pinned at 1``.
        weight_before: gate weight without the edits; None if the reward is not a weighted sum.
        weight_after: gate weight with the edits; None if the reward is not a weighted sum.
        contribution_before: contribution to the reward without the edits.
        contribution_after: contribution to the reward with the edits.
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
    """Describe the edits of one task's mixture.

    Args:
        model: the model, edited or not.
        task: task of the mixture.

    Returns:
        The change of each edited objective in words, such as ``weight times 2``, by name; empty without edits.
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
    """Return the model without its edits; a model without edits is returned as it is.

    Args:
        model: the model, edited or not.
    """
    for task, mixture in model.mixtures.items():
        if mixture.aggregator.edit != WeightEdit():
            model = model.with_mixture(mixture.with_edit(WeightEdit()), task=task, provenance={"edits": []})
    return model


def edited_objectives(model: RewardModel, before: Score, after: Score) -> tuple[EditedObjective, ...]:
    """Return the edited objectives of the mixture that scored an answer, each with its values before and after.

    Args:
        model: the edited model.
        before: score of the answer without the edits.
        after: score of the answer by ``model``.
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
