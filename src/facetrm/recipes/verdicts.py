"""The verdict of a run: which systems a model has to beat, and what limits the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from facetrm.core.statistics import Floats
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
    margins: Mapping[str, Floats],
    groups: Sequence[str],
    *,
    model: str,
    warnings: Sequence[str] = (),
    samples: int,
    seed: int,
) -> Verdict:
    """Return the verdict on the model of a run.

    Args:
        margins: Reward margins of each system, chosen minus rejected, [N] by name.
        groups: Prompt of each pair, [N].
        model: Name of the run's model in ``margins``.
        warnings: Sentences about what limits the verdict.
        samples: Number of resamples of the bootstrap over prompts.
        seed: Random seed of the bootstrap.
    """
    return judge_verdict(
        margins,
        groups,
        model=model,
        plain=NO_MODEL,
        others=[name for name in RIVALS if name not in NO_MODEL],
        titles=RIVALS,
        warnings=warnings,
        samples=samples,
        seed=seed,
    )
