"""Figures of a rival on the held-out pairs: against chance, and against the longer answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from facetrm.core.statistics import Floats, Interval, pair_accuracy, paired_difference
from facetrm.evaluate.truth import true_signs
from facetrm.evaluate.verdict import Verdict
from facetrm.fit.trainer import TrainingCost
from facetrm.recipes.armorm.figures import plain, versions
from facetrm.recipes.armorm.rows import Rows, lost_lines
from facetrm.recipes.baselines.config import MeasuredRecipe, RivalRecipe
from facetrm.recipes.generated import generator_seeds
from facetrm.recipes.reading import Reading
from facetrm.recipes.verdicts import leads_over_rivals, run_verdict


@dataclass(frozen=True)
class RivalRun:
    """A finished run of a rival.

    Attributes:
        folder: Folder of the run.
        metrics: Content of ``metrics.json``.
        noisy: Accuracy on the held-out pairs by system, against the labels.
        true: Accuracy by system, against the true order; empty outside a generator.
        verdict: What the held-out pairs say about the model.
        reading: Counts of truncated conversations and of pairs that read the same.
    """

    folder: Path
    metrics: dict[str, Any]
    noisy: dict[str, Interval]
    true: dict[str, Interval]
    verdict: Verdict
    reading: Reading | None


def rival_run(
    config: MeasuredRecipe,
    rows: Rows,
    margin_N: Floats,
    *,
    folder: Path,
    hash: str,
    seconds: Mapping[str, float],
    spent: TrainingCost | None = None,
    parts: Mapping[str, Floats] | None = None,
    more: Mapping[str, Any] | None = None,
) -> RivalRun:
    """Measure a rival on the held-out pairs.

    Args:
        config: Settings of the run.
        rows: Data of the run.
        margin_N: Score of the chosen answer minus that of the rejected one, for each held-out pair.
        folder: Folder of the run.
        hash: Hash of the scorer.
        seconds: Duration of each stage, in seconds.
        spent: Cost of the training; None without training.
        parts: Margins of the systems that the rival is made of, as ``margin_N``, by name.
        more: Other figures for ``metrics.json``.

    Returns:
        The run, with everything that ``metrics.json`` holds. A pair whose answers read the same is a tie.
    """
    equal = [] if rows.reading is None else list(rows.reading.equal_test)
    margin_N = np.asarray(margin_N, dtype=np.float64).copy()
    margin_N[equal] = 0.0
    longer_N = np.array([len(p.responses[0].content) - len(p.responses[-1].content) for p in rows.test], dtype=float)
    system = config.recipe.replace("-", "_")
    margins, groups = {system: margin_N, "longer": longer_N}, [p.prompt_key for p in rows.test]
    samples, seed = config.samples, config.seed
    noisy = {name: pair_accuracy(m, groups, samples=samples, seed=seed) for name, m in margins.items()}
    true: dict[str, Interval] = {}
    if rows.world is not None:
        signs = true_signs(rows.world, rows.test)
        true = {name: pair_accuracy(m * signs, groups, samples=samples, seed=seed) for name, m in margins.items()}
    leads = leads_over_rivals(margins, groups, model=system, samples=samples, seed=seed)
    verdict = run_verdict(noisy[system], leads, pairs=len(groups), warnings=lost_lines(rows.counts))
    values = {
        "schema": 1,
        "verdict": verdict.to_dict(),
        "recipe": config.recipe,
        "seconds": {**seconds, "total": sum(seconds.values())},
        "rows": {"preferences": len(rows.gate), "preferences_test": len(rows.test), **rows.counts},
        **({} if rows.reading is None else {"reading": rows.reading.to_dict()}),
        **({} if spent is None else {"training": _training(config, spent)}),
        "pair_accuracy": {
            "noisy": {name: asdict(i) for name, i in noisy.items()},
            "true": {name: asdict(i) for name, i in true.items()},
            "leads": {name: asdict(i) for name, i in leads.items()},
        },
        **({} if parts is None else {"parts": _parts(parts, margin_N, groups, samples=samples, seed=seed)}),
        **(more or {}),
        "seeds": {"run": config.seed, **_training_seed(config)} | generator_seeds(config.data),
        "versions": versions(),
        "hashes": {"data": rows.hash, "model": hash},
    }
    return RivalRun(folder, dict(plain(values)), noisy, true, verdict, rows.reading)


def _training(config: MeasuredRecipe, spent: TrainingCost) -> dict[str, Any]:
    """Return the figures of a training."""
    return {
        **({"method": config.training.method} if isinstance(config, RivalRecipe) else {}),
        "steps": spent.steps,
        "seconds": spent.seconds,
        "tokens": spent.tokens,
        "truncated": spent.truncated,
        "history": [dict(entry) for entry in spent.history],
    }


def _training_seed(config: MeasuredRecipe) -> dict[str, int]:
    return {"training": config.training.seed} if isinstance(config, RivalRecipe) else {}


def _parts(
    parts: Mapping[str, Floats], margin_N: Floats, groups: Sequence[str], *, samples: int, seed: int
) -> dict[str, Any]:
    """Return the accuracy of each part, and how much the rival is ahead of it, on the same pairs."""
    return {
        name: {
            "accuracy": asdict(pair_accuracy(found, groups, samples=samples, seed=seed)),
            "lead": asdict(paired_difference(margin_N, found, groups, samples=samples, seed=seed)),
        }
        for name, found in parts.items()
    }
