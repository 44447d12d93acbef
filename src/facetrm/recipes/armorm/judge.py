"""Measure a run on its test pairs: against its baselines, against length and, in the world, against the truth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypedDict

import torch
from torch import Tensor

from facetrm.backbone.encoder import LAST
from facetrm.backbone.words import BagOfWords
from facetrm.core.errors import FitError
from facetrm.core.progress import log
from facetrm.core.statistics import Floats, Interval, pair_accuracy, win_credit
from facetrm.data.synthetic.known import KnownTruth
from facetrm.evaluate.compare import (
    POOLED,
    UNLABELLED,
    by_source,
    by_stratum,
    difference,
    fit_baselines,
    margins,
    strata,
)
from facetrm.evaluate.length_audit import within_prompt_rank_correlation
from facetrm.evaluate.truth import Cell, fit_on_true_levels, recover_weights, true_pairs, true_signs
from facetrm.evaluate.verdict import Verdict, unproven, weight_warnings
from facetrm.fit.debias import CorrelationRow, Debias, correlation_table
from facetrm.model.mixture import Mixture
from facetrm.recipes.armorm.config import ArmormConfig
from facetrm.recipes.armorm.cross_validated import cross_validated
from facetrm.recipes.armorm.fit import ArmormFit, Stopwatch, fit_mixture, fit_parts, stream_of
from facetrm.recipes.armorm.routed import RoutedFit
from facetrm.recipes.armorm.rows import Rows, lost_lines
from facetrm.recipes.verdicts import leads_over_rivals, run_verdict

CEILING = "ceiling"


@dataclass(frozen=True)
class LengthCost:
    """Rank correlation of the reward with length within prompts, and pair accuracy, before and after debiasing.

    Attributes:
        before: Mean rank correlation of a model fitted without debiasing.
        after: Mean rank correlation of the run's model.
        accuracy_before: Pair accuracy of the model fitted without debiasing.
        accuracy_after: Pair accuracy of the run's model.
    """

    before: Interval
    after: Interval
    accuracy_before: float
    accuracy_after: float


@dataclass(frozen=True)
class RunJudgement:
    """Figures of a run on its test pairs.

    Attributes:
        best_objective: Name of the best single objective.
        noisy: Accuracy by system, against the labels.
        true: Accuracy by system, against the true order; empty outside the world.
        sources: Accuracy by source and system, against the labels; small sources are pooled, and ``macro`` is the mean
            over sources.
        by_task: Accuracy by task and system, against the labels; pairs without a task are ``unlabelled``, small tasks
            are pooled. Empty if there is only one such name.
        true_by_task: The same against the true order; empty outside a generator with a known truth.
        against_linear: Accuracy of the gate minus that of the linear head: over all pairs (``micro``), and as a mean
            over sources (``macro``).
        held_out: Correlation of each expert with the debiasing target on the test pairs; empty without debiasing.
        length: Correlation with length and accuracy, before and after debiasing; None without debiasing.
        recovery: Rank correlation of learned and true weights; None outside the world.
        cells: Learned and true weight per task and latent quality; empty outside the world.
        verdict: What the test pairs say about the run's model.
        margins: Margin of each test pair, chosen minus rejected, [N] by system.
    """

    best_objective: str
    noisy: dict[str, Interval]
    true: dict[str, Interval]
    sources: dict[str, dict[str, Interval]]
    by_task: dict[str, dict[str, Interval]]
    true_by_task: dict[str, dict[str, Interval]]
    against_linear: dict[str, Interval]
    held_out: tuple[CorrelationRow, ...]
    length: LengthCost | None
    recovery: float | None
    cells: tuple[Cell, ...]
    verdict: Verdict
    margins: Mapping[str, Floats] = field(default_factory=dict)


def judge_run(
    config: ArmormConfig, rows: Rows, fit: ArmormFit, watch: Stopwatch, *, routed: RoutedFit | None = None
) -> RunJudgement:
    """Fit every baseline on the gate's training pairs, and measure all systems on the test pairs.

    Args:
        config: Settings of the run.
        rows: Data of the run.
        fit: Fitted parts of the run's model.
        watch: Stopwatch that receives the time of each stage.
        routed: The model with a router, if the run has one; the verdict is then about it.
    """
    with watch("baselines"):
        by_system, best = _systems(config, rows, fit, routed)
    known: _Known | None = None
    if rows.world is not None:
        with watch("truth"):
            known = _measure_truth(config, rows, fit, rows.world)
            by_system |= known.margins
    beside: tuple[Interval, int] | None = None
    if routed is None:
        with watch("cross-validation"):
            beside = cross_validated(config, rows, fit)
    with watch("statistics"):
        groups, names = fit.test_pairs.groups, strata(rows.test, least=config.compare.least)
        drawn = _Drawn(samples=config.compare.samples, seed=config.seed)
        tasks = _tasks(rows, least=max(config.compare.least // 10, 1))
        noisy, by_task = _accuracies(by_system, groups, tasks, drawn)
        true: dict[str, Interval] = {}
        true_by_task: dict[str, dict[str, Interval]] = {}
        if known is not None:
            right = {name: margin_N * known.margins[CEILING] for name, margin_N in by_system.items()}
            true, true_by_task = _accuracies(right, groups, tasks, drawn)
        with torch.no_grad():
            output = fit.mixture(fit.test_pairs.both())
        model = "gate" if routed is None else "routed"
        weights_NK = output.weights_NK if routed is None else routed.weights_NK
        verdict = run_verdict(
            noisy[model],
            leads_over_rivals(by_system, groups, model=model, **drawn),
            pairs=len(groups),
            warnings=[
                *lost_lines(rows.counts),
                *weight_warnings(_shares(fit.mixture, weights_NK), unproven(fit.validity)),
            ],
        )
        if beside is not None:
            verdict = replace(verdict, cross_validated=beside[0], cross_pairs=beside[1])
        return RunJudgement(
            best_objective=best,
            noisy=noisy,
            true=true,
            sources=by_source(by_system, names, groups, **drawn),
            by_task=by_task,
            true_by_task=true_by_task,
            against_linear=difference(by_system["gate"], by_system["linear_bt"], names, groups, **drawn),
            held_out=() if fit.debias.target is None else correlation_table(output.scores_NK, fit.debias),
            length=_length_cost(config, rows, fit, by_system),
            recovery=None if known is None else known.recovery,
            cells=() if known is None else known.cells,
            verdict=verdict,
            margins=by_system,
        )


class _Drawn(TypedDict):
    """The bootstrap of every interval."""

    samples: int
    seed: int


@dataclass(frozen=True)
class _Known:
    """What the known truth of a generator adds.

    Attributes:
        margins: Margin of each test pair by a gate on the true levels, and its true order, [N] by system.
        recovery: Rank correlation of learned and true weights.
        cells: Learned and true weight per task and quality.
    """

    margins: dict[str, Floats]
    recovery: float
    cells: tuple[Cell, ...]


def baselines_of(config: ArmormConfig, fit: ArmormFit) -> tuple[dict[str, Mixture], str]:
    """Fit every baseline on what the run's gate learned from.

    Args:
        config: Settings of the run.
        fit: Fitted parts of the run's model.

    Returns:
        The baselines by name, and the name of the best single objective.
    """
    return fit_baselines(
        fit.gate_pairs,
        fit.mixture,
        fit.gate,
        groups=fit.gate_pairs.groups,
        config=config.compare.linear,
        weights=fit.weights,
        scores=fit.scores,
        folder=fit.folder,
    )


def _systems(
    config: ArmormConfig, rows: Rows, fit: ArmormFit, routed: RoutedFit | None
) -> tuple[dict[str, Floats], str]:
    """Return the margins of the model and of what it has to beat, and the name of the best single objective."""
    systems, best = baselines_of(config, fit)
    by_system = margins({"gate": fit.mixture, **systems}, fit.test_pairs)
    if routed is not None:
        by_system["routed"] = routed.margins
    if config.compare.bag_of_words:
        by_system["bag_of_words"] = _bag_of_words(config, rows)
    return by_system, best


def _tasks(rows: Rows, *, least: int) -> list[str]:
    """Return the task of each test pair; tasks with fewer than ``least`` pairs are pooled."""
    named = [pair.task or UNLABELLED for pair in rows.test]
    sizes = Counter(named)
    return [name if sizes[name] >= least else POOLED for name in named]


def _measure_truth(config: ArmormConfig, rows: Rows, fit: ArmormFit, world: KnownTruth[Any]) -> _Known:
    """Fit a gate on the true levels, and compare the learned weights with the true ones."""
    tasks = [p.task for p in rows.gate]
    taught = true_pairs(world, fit.gate_pairs.whole(), rows.gate)
    known = fit_on_true_levels(world, taught, config=config.gate.settings, weights=fit.weights, tasks=tasks)
    asked = true_pairs(world, fit.test_pairs, rows.test)
    recovery, cells = recover_weights(world, fit.mixture, fit.test_pairs, [p.task or "" for p in rows.test])
    found = {"gate_on_true_levels": margins({"x": known}, asked)["x"], CEILING: true_signs(world, rows.test)}
    return _Known(found, recovery, tuple(cells))


def _accuracies(
    by_system: Mapping[str, Floats], groups: Sequence[str], tasks: Sequence[str], drawn: _Drawn
) -> tuple[dict[str, Interval], dict[str, dict[str, Interval]]]:
    """Return the accuracy by system, and by task and system; the second is empty for fewer than two tasks."""
    whole = {name: pair_accuracy(margin_N, groups, **drawn) for name, margin_N in by_system.items()}
    return whole, by_stratum(by_system, tasks, groups, **drawn) if len(set(tasks)) > 1 else {}


def _shares(mixture: Mixture, weights_NK: Tensor | None) -> dict[str, float]:
    """Return the share of each objective in the gate's weight, on average over the test pairs."""
    if weights_NK is None:
        return {}
    mean_K = weights_NK.double().abs().mean(dim=0)
    return dict(zip(mixture.names, (mean_K / mean_K.sum().clamp_min(1e-12)).tolist(), strict=True))


def _bag_of_words(config: ArmormConfig, rows: Rows) -> Floats:
    """Return the margins of the same pipeline with a bag of words instead of the backbone."""
    encoder = BagOfWords.fit((r.messages for r in rows.heads), size=config.compare.bag_of_words)
    ridge = config.experts.ridge.model_copy(update={"bootstrap": 0, "unfit": "mean"})
    same = config.model_copy(
        update={
            "experts": config.experts.model_copy(
                update={
                    "test": False,
                    "cross_fit": 0,
                    "preference": False,
                    "ridge": ridge,
                    "layers": (LAST,),
                    "uncertainty": False,
                    "quantiles": False,
                }
            ),
            "gate": config.gate.model_copy(update={"seeds": 1}),
        }
    )
    try:
        fit = fit_parts(same, rows, encoder, stream_of(encoder), Stopwatch())
    except FitError as error:  # the target may be constant for a bag of words
        log("bag of words", without_debiasing=str(error))
        off = same.model_copy(update={"debias": config.debias.model_copy(update={"target": None})})
        fit = fit_parts(off, rows, encoder, stream_of(encoder), Stopwatch())
    return margins({"x": fit.mixture}, fit.test_pairs)["x"]


def _length_cost(
    config: ArmormConfig, rows: Rows, fit: ArmormFit, by_system: Mapping[str, Floats]
) -> LengthCost | None:
    """Fit the gate again without debiasing, to measure its effect on the correlation with length and on accuracy."""
    if fit.debias.target is None:
        return None
    experts, off = fit.mixture.linear_experts, Debias.identity(fit.mixture.names)
    before, _ = fit_mixture(
        config, experts, off, fit.gate_pairs, weights=fit.weights, scores=fit.scores, folder=fit.folder
    )
    pairs, samples, seed = fit.test_pairs, config.compare.samples, config.seed
    length_N = pairs.both().length_N.numpy()
    pair_number, prompts = [*range(len(pairs)), *range(len(pairs))], [*pairs.groups, *pairs.groups]
    correlation, credit = {}, {}
    for name, mixture in (("before", before), ("after", fit.mixture)):
        with torch.no_grad():
            reward_N = mixture(pairs.both()).reward_N.double().numpy()
        correlation[name] = within_prompt_rank_correlation(
            reward_N, length_N, pair_number, clusters=prompts, samples=samples, seed=seed
        )
        credit[name] = float(win_credit(margins({"x": mixture}, pairs)["x"]).mean())
    return LengthCost(correlation["before"], correlation["after"], credit["before"], credit["after"])
