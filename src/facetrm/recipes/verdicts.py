"""The verdict of a run: which systems a model has to beat, and what limits the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from facetrm.core.statistics import Floats, Interval, paired_difference
from facetrm.evaluate.verdict import Verdict, judge_verdict

NO_MODEL: Final = ("longer", "bag_of_words")
"""Systems that need no reward model; a usable model clearly beats each of them."""

RIVALS: Final = {
    "longer": "the longer answer",
    "bag_of_words": "the same pipeline on a bag of words",
    "best_objective": "the best single objective",
    "uniform": "the uniform average of all objectives",
    "unconditional": "weights that do not depend on the prompt",
    "linear_bt": "a linear Bradley-Terry head",
    "routed_linear": "a linear head for each task",
    "single_rm": "a single reward model with one adapter",
    "ensemble_mean": "an ensemble of single reward models",
    "frozen_preference": "a linear head on the frozen trunk",
}
"""Rivals of a model, as they are named in a sentence. Parts of the model itself and the known truth are no rivals."""


def run_verdict(
    accuracy: Interval, leads: Mapping[str, Interval], *, pairs: int, warnings: Sequence[str] = ()
) -> Verdict:
    """Return the verdict on the model of a run.

    Args:
        accuracy: Accuracy on the held-out pairs.
        leads: Accuracy minus that of other systems on the same pairs, by name; those that are no rivals are left out.
        pairs: Number of held-out pairs.
        warnings: Sentences about what limits the verdict.
    """
    rivals = {name: leads[name] for name in RIVALS if name in leads}
    return judge_verdict(accuracy, rivals, pairs=pairs, plain=NO_MODEL, titles=RIVALS, warnings=warnings)


def leads_over_rivals(
    margins: Mapping[str, Floats], groups: Sequence[str], *, model: str, samples: int, seed: int
) -> dict[str, Interval]:
    """Return the accuracy of the run's model minus that of each rival on the same pairs, by name.

    Args:
        margins: Reward margins of each system, chosen minus rejected, [N] by name.
        groups: Prompt of each pair, [N].
        model: Name of the run's model in ``margins``.
        samples: Number of resamples of the bootstrap over prompts.
        seed: Random seed of the bootstrap.
    """
    return {
        name: paired_difference(margins[model], margins[name], groups, samples=samples, seed=seed)
        for name in RIVALS
        if name in margins
    }
