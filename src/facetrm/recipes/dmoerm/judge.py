"""Measure a DMoERM on its test pairs: against simpler models, and what each expert contributes.

Shapes: N pairs, K experts of one task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from facetrm.backbone.encoder import Features
from facetrm.backbone.transformer import TransformerEncoder
from facetrm.core.statistics import Floats, Interval, pair_accuracy, paired_difference, win_credit
from facetrm.data.records import Preference
from facetrm.data.views import as_pairs
from facetrm.evaluate.compare import UNLABELLED, Pairs, by_stratum
from facetrm.evaluate.truth import true_signs
from facetrm.evaluate.verdict import Verdict, unproven, weight_warnings
from facetrm.fit.experts.adapters import ExpertFit
from facetrm.model.mixture import Mixture
from facetrm.model.reward_model import RewardModel
from facetrm.model.validity import validity_of
from facetrm.recipes.dmoerm.config import DmoermConfig
from facetrm.recipes.dmoerm.inner import InnerFit, encode_pairs
from facetrm.recipes.dmoerm.rivals import Rivals, rival_margins
from facetrm.recipes.dmoerm.rows import DmoermRows
from facetrm.recipes.verdicts import run_verdict
from facetrm.report.task_parts import CapabilityRow


@dataclass(frozen=True)
class TaskJudgement:
    """Figures of a run on its test pairs.

    Attributes:
        pairs: The N test pairs, two responses each.
        margins: Margin of each pair, chosen minus rejected, [N] by system.
        used: Name of the mixture that scored each pair.
        noisy: Accuracy by system, against the labels.
        true: Accuracy by system, against the true order; empty outside the world.
        by_task: Accuracy by task and system, against the labels.
        gained: Paired difference in accuracy, the model minus each other system.
        experts: Figures of each expert.
        verdict: What the test pairs say about the model.
    """

    pairs: list[Preference]
    margins: dict[str, Floats]
    used: list[str]
    noisy: dict[str, Interval]
    true: dict[str, Interval]
    by_task: dict[str, dict[str, Interval]]
    gained: dict[str, Interval]
    experts: tuple[CapabilityRow, ...]
    verdict: Verdict

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-ready figures."""
        tables = {"noisy": self.noisy, "true": self.true, "model_minus": self.gained}
        return {
            "pair_accuracy": {
                **{name: {s: asdict(i) for s, i in table.items()} for name, table in tables.items()},
                "by_task": {task: {s: asdict(i) for s, i in table.items()} for task, table in self.by_task.items()},
            },
            "used": {task: self.used.count(task) for task in dict.fromkeys(self.used)},
            "experts": [expert.model_dump() for expert in self.experts],
        }


def judge_tasks(
    config: DmoermConfig,
    rows: DmoermRows,
    model: RewardModel,
    inner: Mapping[str, InnerFit],
    encoder: TransformerEncoder,
    *,
    rivals: Rivals,
    limits: Sequence[str] = (),
) -> TaskJudgement:
    """Measure the model and simpler ones on the test pairs.

    Args:
        config: Settings of the run.
        rows: Data of the run.
        model: Model of the run.
        inner: Fit of each task's mixture.
        encoder: Encoder with all adapters.
        rivals: Simpler reward models on the same labels.
        limits: Sentences about labels that train no expert.
    """
    pairs = [pair for p in rows.test for pair in as_pairs(p)]
    used = model.tasks_of([p.chosen for p in pairs])
    found: dict[str, Floats] = {}
    experts: list[CapabilityRow] = []
    for task in dict.fromkeys(used):
        here = [n for n, name in enumerate(used) if name == task]
        margins, figures = _of_task(rows, model.mixture(task), inner.get(task), [pairs[n] for n in here], encoder)
        experts += figures
        for name, margin_N in margins.items():
            found.setdefault(name, np.zeros(len(pairs)))[here] = margin_N
    found |= rival_margins(encoder, rivals, pairs, used)
    unread = [fit for task, fit in inner.items() if task not in used]
    experts += [_unseen(fit, name) for fit in unread for name in fit.mixture.names]
    lengths = [[encoder.tokenize(c).length for c in (p.chosen, p.rejected)] for p in pairs]
    found["longer"] = np.array([float(a - b) for a, b in lengths])
    for margin_N in found.values():  # two passes of one text may differ in the last digits
        margin_N[list(() if rows.reading is None else rows.reading.equal_test)] = 0.0
    groups = [p.prompt_key for p in pairs]
    drawn: dict[str, Any] = {"samples": config.samples, "seed": config.seed}
    signs = None if rows.world is None else true_signs(rows.world, pairs)
    names = [p.task or UNLABELLED for p in pairs]
    noisy = {s: pair_accuracy(m, groups, **drawn) for s, m in found.items()}
    gained = {s: paired_difference(found["model"], m, groups, **drawn) for s, m in found.items() if s != "model"}
    return TaskJudgement(
        pairs=pairs,
        margins=found,
        used=used,
        noisy=noisy,
        true={} if signs is None else {s: pair_accuracy(m * signs, groups, **drawn) for s, m in found.items()},
        by_task=by_stratum(found, names, groups, **drawn),
        gained=gained,
        experts=tuple(experts),
        verdict=run_verdict(noisy["model"], gained, pairs=len(pairs), warnings=[*_unproven(model, experts), *limits]),
    )


def _unproven(model: RewardModel, experts: Sequence[CapabilityRow]) -> list[str]:
    """Return sentences about tasks whose margins depend on experts without measurable validity."""
    without = unproven(validity_of(model.provenance))
    found = []
    for task in dict.fromkeys(expert.task for expert in experts):
        shares = {e.name: e.share for e in experts if e.task == task and e.share is not None}
        found += weight_warnings(shares, without, of=f"contributions in {task}")
    return found


def _of_task(
    rows: DmoermRows,
    mixture: Mixture,
    inner: InnerFit | None,
    pairs: Sequence[Preference],
    encoder: TransformerEncoder,
) -> tuple[dict[str, Floats], list[CapabilityRow]]:
    """Return the margins of one task's systems on the pairs routed to it, and its experts' figures."""
    if inner is None:  # the fall-back on all tasks has one adapter
        read = encode_pairs(encoder, pairs, adapters=mixture.adapters)
        margin_N = mixture.margins(read.chosen, read.rejected).numpy()
        return {"model": margin_N, "task_rm": margin_N, "mean_of_experts": margin_N}, []
    adapters = inner.adapters
    read = encode_pairs(encoder, pairs, adapters=adapters)
    whole = _columns(read, range(len(mixture.names)))
    with torch.no_grad():
        outputs = [mixture(side) for side in (whole.chosen, whole.rejected)]
    gap_NK = (outputs[0].scores_NK.double() - outputs[1].scores_NK.double()).numpy()
    moved_NK = (outputs[0].contributions_NK.double() - outputs[1].contributions_NK.double()).abs().numpy()
    own = adapters.index(inner.base.name)
    vectors = [side.response_NAD[:, own].double() for side in (read.chosen, read.rejected)]
    task_N = ((vectors[0] - vectors[1]) @ inner.base.head_D.double()).numpy()
    total = max(float(moved_NK.sum()), 1e-12)
    figures = [
        CapabilityRow(
            task=inner.task,
            name=name,
            **_training_of(inner.experts[name]),
            agrees=float(win_credit(gap_NK[:, k]).mean()),
            share=float(moved_NK[:, k].sum() / total),
            true=_true_accuracy(rows, name, pairs, gap_NK[:, k]),
        )
        for k, name in enumerate(mixture.names)
    ]
    margin_N = mixture.margins(whole.chosen, whole.rejected).numpy()
    return {"model": margin_N, "task_rm": task_N, "mean_of_experts": gap_NK.mean(axis=1)}, figures


def _unseen(fit: InnerFit, name: str) -> CapabilityRow:
    """Return the figures of an expert whose task has no test pairs."""
    return CapabilityRow(task=fit.task, name=name, **_training_of(fit.experts[name]))


def _training_of(fit: ExpertFit) -> dict[str, Any]:
    names = ("start", "loss", "start_loss", "steps", "change", "kept")
    known = {"preferences": fit.counts["train"], "held_out": fit.accuracy, "measurable": fit.validity.measurable}
    return {**known, **{n: getattr(fit, n) for n in names}}


def _columns(pairs: Pairs, columns: range) -> Pairs:
    """Return the pairs with the vectors of some adapters only."""

    def some(features: Features) -> Features:
        return replace(features, response_NAD=features.response_NAD[:, list(columns)])

    return replace(pairs, chosen=some(pairs.chosen), rejected=some(pairs.rejected))


def _true_accuracy(rows: DmoermRows, name: str, pairs: Sequence[Preference], gap_N: Floats) -> float | None:
    """Return the share of pairs that an expert orders as the true levels of its latent do, among unequal levels."""
    latent = name.split("/")[-1]
    if rows.world is None or latent == "overall":
        return None
    levels = [[rows.world.levels(c)[latent] for c in (p.chosen, p.rejected)] for p in pairs]
    sign_N = np.sign([a - b for a, b in levels])
    return float(win_credit((gap_N * sign_N)[sign_N != 0]).mean()) if sign_N.any() else None
