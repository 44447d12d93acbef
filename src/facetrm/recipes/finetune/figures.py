"""Figures of a fine-tuning run: the trained heads against closed-form heads on the frozen trunk, on held-out rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from facetrm.backbone.encoder import Features
from facetrm.core.statistics import Floats, Interval, pair_accuracy, paired_difference
from facetrm.data.objectives import label_matrix
from facetrm.evaluate.compare import Pairs
from facetrm.evaluate.truth import true_signs
from facetrm.evaluate.verdict import Verdict
from facetrm.fit.finetune.model import TrainableHeads
from facetrm.fit.heads.objective_report import ObjectiveReport, mean_spearman
from facetrm.fit.heads.ridge import evaluate_experts
from facetrm.fit.trainer import TrainingCost
from facetrm.model.experts import LinearExperts
from facetrm.model.mixture import Mixture
from facetrm.model.reward_model import RewardModel
from facetrm.recipes.armorm.figures import plain, versions
from facetrm.recipes.armorm.rows import Rows
from facetrm.recipes.finetune.config import FineTuneRecipe
from facetrm.recipes.generated import generator_seeds
from facetrm.recipes.verdicts import leads_over_rivals, run_verdict

Encoded = tuple[Pairs, Features]
"""Features of the test pairs and of the held-out rated rows, from one encoder."""


@dataclass(frozen=True)
class FineTuneFigures:
    """Held-out figures of the trained heads, and of those on the frozen trunk.

    Attributes:
        objectives: One report per trained objective head; empty if none was trained.
        frozen: One report per objective head on the frozen trunk; empty if none was fitted.
        noisy: Accuracy on the test pairs by system, against the labels.
        true: Accuracy on the test pairs by system, against the true order; empty outside the world.
        gained: Paired difference in accuracy, trained minus frozen, by head.
        verdict: What the test pairs say about the saved model.
    """

    objectives: tuple[ObjectiveReport, ...]
    frozen: tuple[ObjectiveReport, ...]
    noisy: dict[str, Interval]
    true: dict[str, Interval]
    gained: dict[str, Interval]
    verdict: Verdict


def judge_heads(
    config: FineTuneRecipe,
    rows: Rows,
    mixture: Mixture,
    heads: TrainableHeads,
    *,
    after: Encoded,
    before: tuple[TrainableHeads, Pairs, Features] | None,
) -> FineTuneFigures:
    """Measure the heads on the held-out rows.

    Args:
        config: Settings of the run.
        rows: Data of the run.
        mixture: Mixture of the saved model.
        heads: Trained heads.
        after: Features of the held-out rows from the trained trunk.
        before: Heads on the frozen trunk, and features of the test pairs and the held-out rated rows from that trunk;
            None if no such heads were fitted.
    """
    test, rated = after
    margins: dict[str, Floats] = {"reward": mixture.margins(test.chosen, test.rejected).numpy()}
    margins |= _margins(rows, heads, test)
    frozen: tuple[ObjectiveReport, ...] = ()
    if before is not None:
        margins |= {f"frozen_{name}": margin for name, margin in _margins(rows, before[0], before[1]).items()}
        frozen = _reports(config, rows, before[0], before[2])
    groups, samples, seed = test.groups, config.samples, config.seed
    truth: dict[str, Interval] = {}
    if rows.world is not None:
        signs = true_signs(rows.world, rows.test)
        truth = {s: pair_accuracy(m * signs, groups, samples=samples, seed=seed) for s, m in margins.items()}
    noisy = {s: pair_accuracy(m, groups, samples=samples, seed=seed) for s, m in margins.items()}
    leads = leads_over_rivals(margins, groups, model="reward", samples=samples, seed=seed)
    return FineTuneFigures(
        objectives=_reports(config, rows, heads, rated),
        frozen=frozen,
        noisy=noisy,
        true=truth,
        gained={
            name: paired_difference(margins[name], margins[f"frozen_{name}"], groups, samples=samples, seed=seed)
            for name in ("preference", "objectives")
            if f"frozen_{name}" in margins
        },
        verdict=run_verdict(noisy["reward"], leads, pairs=len(groups)),
    )


def training_figures(
    config: FineTuneRecipe,
    rows: Rows,
    model: RewardModel,
    figures: FineTuneFigures,
    *,
    spent: TrainingCost,
    merged: float | None,
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """Return the content of ``metrics.json``. Undefined numbers are null.

    Args:
        config: Settings of the run.
        rows: Data of the run.
        model: The saved model.
        figures: Figures of the heads on the held-out rows.
        spent: Steps, time and tokens of the training.
        merged: Largest change of a unit score by merging the adapter; None if nothing was merged.
        seconds: Duration of each stage, in seconds.
    """
    values = {
        "schema": 1,
        "verdict": figures.verdict.to_dict(),
        "recipe": config.recipe,
        "seconds": {**seconds, "total": sum(seconds.values())},
        "rows": {
            "ratings": len(rows.heads),
            "ratings_test": len(rows.heads_test),
            "preferences": len(rows.gate),
            "preferences_test": len(rows.test),
            **rows.counts,
        },
        **({} if rows.reading is None else {"reading": rows.reading.to_dict()}),
        "training": {
            "method": config.finetune.method,
            "steps": spent.steps,
            "seconds": spent.seconds,
            "tokens": spent.tokens,
            "truncated": spent.truncated,
            "history": [dict(entry) for entry in spent.history],
            "merged_largest_change": merged,
        },
        "objectives_test": {r.name: r.to_dict() for r in figures.objectives},
        "objectives_test_frozen": {r.name: r.to_dict() for r in figures.frozen},
        "mean_spearman": mean_spearman(figures.objectives),
        "mean_spearman_frozen": mean_spearman(figures.frozen),
        "pair_accuracy": {
            "noisy": {name: asdict(i) for name, i in figures.noisy.items()},
            "true": {name: asdict(i) for name, i in figures.true.items()},
            "gained": {name: asdict(i) for name, i in figures.gained.items()},
        },
        "seeds": {"run": config.seed, "finetune": config.finetune.seed} | generator_seeds(config.data),
        "versions": versions(),
        "hashes": {"data": rows.hash, "model": model.hash, "encoder": model.encoder.fingerprint},
    }
    return dict(plain(values))


def _margins(rows: Rows, heads: TrainableHeads, pairs: Pairs) -> dict[str, Floats]:
    """Return the margins of the preference head and of the mean objective of known direction, if the heads exist."""
    found: dict[str, Floats] = {}
    with torch.no_grad():
        gap_ND = pairs.chosen.response_NAD[:, 0].double() - pairs.rejected.response_NAD[:, 0].double()
        if heads.has_preference:
            found["preference"] = (gap_ND @ heads.preference_D.double().cpu()).numpy()
        gated = [k for k, objective in enumerate(rows.objectives) if objective.gated]
        if len(heads.bias_K) and gated:
            found["objectives"] = (gap_ND @ heads.weight_KD.double().cpu()[gated].mean(dim=0)).numpy()
    return found


def _reports(config: FineTuneRecipe, rows: Rows, heads: TrainableHeads, rated: Features) -> tuple[ObjectiveReport, ...]:
    if not len(heads.bias_K) or not rows.heads_test:
        return ()
    experts = LinearExperts(rows.objectives, heads.weight_KD.detach().cpu(), heads.bias_K.detach().cpu())
    return evaluate_experts(
        experts,
        rated,
        label_matrix(rows.heads_test, rows.objectives),
        groups=[r.prompt_key for r in rows.heads_test],
        bootstrap=min(config.samples, 200),
        seed=config.seed,
    )
