"""The looks that a training takes at its held-out prompts, and when it ends.

RUN/training/NAME/looks.json holds loss and accuracy per prompt at every look, so that a training that was killed, or
finished long ago, decides from the same numbers.

Shapes: S looks (the start first), P held-out prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Self, final

import numpy as np
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from facetrm.core.errors import FitError
from facetrm.core.files import read_json, write_json
from facetrm.core.statistics import Floats
from facetrm.fit.experts.held_out import HeldOutFigures

LOOKS: Final = "looks.json"


@final
class Looks:
    """Held-out figures by optimiser step.

    Args:
        found: Figures by step; step 0 is the start.
        path: File to keep them in; None keeps them in memory.
    """

    def __init__(self, found: dict[int, HeldOutFigures], *, path: Path | None = None) -> None:
        self._found, self._path = dict(found), path

    @classmethod
    def read(cls, folder: Path, *, write: bool) -> Self:
        """Return the looks in ``folder``; none if there is no file.

        Args:
            folder: Folder of the training.
            write: Whether this process writes new looks there.

        Raises:
            FitError: The file is damaged.
        """
        path, fix = folder / LOOKS, "delete the folder to train again"
        found: dict[int, HeldOutFigures] = {}
        if path.exists():
            try:
                for step, sides in read_json(path, FitError, fix=fix).items():
                    found[int(step)] = HeldOutFigures(np.array(sides["loss"]), np.array(sides["accuracy"]))
            except (AttributeError, KeyError, TypeError, ValueError) as exc:
                raise FitError(f"not a file of looks ({exc})", place=path, fix=fix) from None
        return cls(found, path=path if write else None)

    @classmethod
    def joined(cls, parts: Sequence[Looks]) -> Self:
        """Return the looks that all folds took, with the prompts of all folds side by side.

        Args:
            parts: Looks of each fold.
        """
        steps = set.intersection(*(set(part.steps) for part in parts))
        return cls(
            {
                step: HeldOutFigures(
                    np.concatenate([part.at(step).loss_P for part in parts]),
                    np.concatenate([part.at(step).accuracy_P for part in parts]),
                )
                for step in steps
            }
        )

    @property
    def steps(self) -> list[int]:
        """Optimiser steps of the looks, ascending."""
        return sorted(self._found)

    @property
    def prompts(self) -> int:
        """Number of held-out prompts."""
        return len(self.at(self.steps[0]).loss_P)

    def at(self, step: int) -> HeldOutFigures:
        """Return the figures at ``step``."""
        return self._found[step]

    def values(self, select: Literal["loss", "accuracy"]) -> Floats:
        """Return what is to be minimised, the loss or 1 - accuracy, per look and prompt, [S, P]."""
        found = [self.at(step) for step in self.steps]
        return np.stack([f.loss_P if select == "loss" else 1.0 - f.accuracy_P for f in found])

    def add(self, step: int, figures: HeldOutFigures) -> None:
        """Keep the figures of one look; those of an earlier look at the same step are replaced.

        Args:
            step: Optimiser step.
            figures: Loss and accuracy per prompt.
        """
        self._found[step] = figures
        if self._path is not None:
            kept: dict[str, Any] = {
                str(n): {"loss": self.at(n).loss_P.tolist(), "accuracy": self.at(n).accuracy_P.tolist()}
                for n in self.steps
            }
            write_json(self._path, kept)

    def best(self, select: Literal["loss", "accuracy"], *, up_to: int) -> int:
        """Return the step of the best look so far, the earliest of equal ones.

        Args:
            select: Figure to go by.
            up_to: Last step to consider.
        """
        steps = [step for step in self.steps if step <= up_to]
        worst = [self.at(s).loss if select == "loss" else 1.0 - self.at(s).accuracy for s in steps]
        return steps[int(np.argmin(worst))]


@dataclass(frozen=True)
class StepBudget:
    """When a training ends.

    Attributes:
        least: Step before which it does not stop early.
        patience: Steps without a new best look before it stops; 0 never stops early.
        until: Step at which it ends, on the schedule of all steps; None for the last one.
    """

    least: int
    patience: int
    until: int | None = None


@final
class TrainingClock(TrainerCallback):
    """Evaluate and save at the last step too, and end the training when its budget says so.

    Args:
        budget: When to end.
        looks: Looks of this training.
        select: Figure by which a look is best.
    """

    def __init__(self, budget: StepBudget, looks: Looks, *, select: Literal["loss", "accuracy"]) -> None:
        self.step = 0
        self._budget, self._looks, self._select = budget, looks, select

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Note the step, and ask for an evaluation and a checkpoint at the last one.

        Args:
            args: Arguments of the Trainer.
            state: State of the Trainer.
            control: What the Trainer does next.
            kwargs: Not used.
        """
        self.step = state.global_step
        last = state.max_steps if self._budget.until is None else self._budget.until
        if self.step >= last:
            control.should_evaluate, control.should_save = self._budget.until is None, True
            control.should_training_stop = True
        return control

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Stop where the looks have not improved for long enough.

        Args:
            args: Arguments of the Trainer.
            state: State of the Trainer.
            control: What the Trainer does next.
            kwargs: Not used.
        """
        step, patience = state.global_step, self._budget.patience
        if patience and step >= self._budget.least:
            control.should_training_stop |= step - self._looks.best(self._select, up_to=step) >= patience
        return control
