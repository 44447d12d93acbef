"""``metrics.json`` and the report of a DMoERM run. docs/metrics.md describes ``metrics.json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from facetrm.core.config import dump_yaml
from facetrm.core.statistics import Interval
from facetrm.data.records import Preference
from facetrm.fit.experts.adapters import ExpertFit
from facetrm.fit.router.assign import AssignmentCounts
from facetrm.fit.router.fit import RouterFit
from facetrm.model.reward_model import RewardModel
from facetrm.recipes.armorm.figures import METRICS_SCHEMA, backbone_name, explain_preference, plain, versions
from facetrm.recipes.dmoerm.config import DmoermConfig
from facetrm.recipes.dmoerm.inner import InnerFit
from facetrm.recipes.dmoerm.judge import TaskJudgement
from facetrm.recipes.dmoerm.labels_used import UnusedLabels
from facetrm.recipes.dmoerm.names import OVERALL
from facetrm.recipes.dmoerm.rivals import Rivals
from facetrm.recipes.dmoerm.rows import DmoermRows
from facetrm.recipes.generated import generator_seeds
from facetrm.recipes.notable import notable_pairs
from facetrm.recipes.router_figures import router_part
from facetrm.report.run_report import RunReport, VerdictPart
from facetrm.report.task_parts import Accuracy


@dataclass(frozen=True)
class DmoermFit:
    """The fitted parts of a DMoERM.

    Attributes:
        model: The reward model, ready to score.
        router: Fitted router; None for a single task.
        assigned: Number of rows whose task was given, and whose task the router chose; None for a single task.
        inner: Fit of each task's mixture, by task.
        every: Fit of the fall-back on all tasks; None without such a fall-back.
        tasks: Task of each overall preference, given or routed.
        unused: Capability labels that train no expert.
    """

    model: RewardModel
    router: RouterFit | None
    assigned: AssignmentCounts | None
    inner: dict[str, InnerFit]
    every: ExpertFit | None
    tasks: list[str]
    unused: UnusedLabels

    @property
    def trained(self) -> dict[str, ExpertFit]:
        """Fit of every expert and of every task's own adapter, by objective."""
        return self.trained_of(self.inner)

    @staticmethod
    def trained_of(inner: Mapping[str, InnerFit]) -> dict[str, ExpertFit]:
        """Return the fit of every expert and of every task's own adapter, by objective.

        Args:
            inner: Fit of each task's mixture, by task.
        """
        found = {f"{task}/{OVERALL}": fit.base for task, fit in inner.items()}
        for fit in inner.values():
            found |= fit.experts
        return found


def dmoerm_metrics(
    config: DmoermConfig,
    rows: DmoermRows,
    fit: DmoermFit,
    judgement: TaskJudgement,
    *,
    rivals: Rivals,
    seconds: Mapping[str, float],
    training: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the content of ``metrics.json``. Undefined numbers are null.

    Args:
        config: Settings of the run.
        rows: Data of the run.
        fit: Router and mixtures, with their fits.
        judgement: Accuracies of the model and the simpler models on the test pairs, and figures of each expert.
        rivals: Simpler reward models on the same labels.
        seconds: Duration of each stage, in seconds.
        training: Cost and figures of the backbone's training; empty if the run did not train it.
    """
    sizes = {"preferences": len(rows.overall), "capabilities": len(rows.capabilities)}
    values = {
        "schema": METRICS_SCHEMA,
        "verdict": judgement.verdict.to_dict(),
        "recipe": config.recipe,
        "seconds": {**seconds, "total": sum(seconds.values())},
        "rows": {
            **sizes,
            "preferences_test": len(judgement.pairs),
            "capabilities_unused_by_split": fit.unused.by_split,
            "capabilities_too_few": sum(fit.unused.too_few.values()),
            **rows.counts,
        },
        **({} if rows.reading is None else {"reading": rows.reading.to_dict()}),
        "backbone_training": dict(training),
        "router": None if fit.router is None else fit.router.to_dict(),
        "assigned": None if fit.assigned is None else fit.assigned.to_dict(),
        "tasks": {task: found.to_dict() for task, found in fit.inner.items()},
        "adapters": adapters_part(fit.trained),
        "rivals": rivals.to_dict(),
        "fallback": None if fit.every is None else fit.every.to_dict(),
        **judgement.to_dict(),
        "seeds": _seeds(config),
        "versions": versions(),
        "hashes": {"data": rows.hash, "model": fit.model.hash, "encoder": fit.model.encoder.fingerprint},
    }
    return dict(plain(values))


def dmoerm_report(
    config: DmoermConfig,
    rows: DmoermRows,
    fit: DmoermFit,
    judgement: TaskJudgement,
    *,
    seconds: Mapping[str, float],
    explained: Preference,
) -> RunReport:
    """Return the content of ``report.html``.

    Args:
        config: Settings of the run.
        rows: Data of the run.
        fit: Router and mixtures, with their fits.
        judgement: Accuracies of the model and the simpler models on the test pairs, and figures of each expert.
        seconds: Duration of each stage, in seconds.
        explained: The pair to explain.
    """
    same = () if rows.reading is None else rows.reading.equal_test
    margins_N = judgement.margins["model"]
    notable = notable_pairs(fit.model, judgement.pairs, margins_N, used=judgement.used, same=same)
    prompts = len({p.prompt_key for p in judgement.pairs})
    experts = sum(len(found.experts) for found in fit.inner.values())
    tables = (("noisy", judgement.noisy), ("true", judgement.true))
    left_out = {name: count for found in fit.inner.values() for name, count in found.left_out.items()}
    notes = [f"{len(rows.tasks)} tasks, {experts} experts on one backbone."]
    notes += () if rows.reading is None else rows.reading.lines()
    notes.append(adapters_line(fit.trained))
    if left_out:
        notes.append(f"Without an expert, because of too few preferences: {', '.join(left_out)}.")
    return RunReport(
        title=config.title,
        description=config.description,
        model=(
            f"DMoERM: a router over {len(rows.tasks)} tasks, {experts} experts of capabilities on "
            f"{'a small decoder trained in this run' if config.tiny else backbone_name(fit.model.encoder.spec())}"
        ),
        data=(
            f"{len(rows.overall):,} overall preferences and {len(rows.capabilities):,} about capabilities for "
            f"training; {len(judgement.pairs):,} held-out pairs of {prompts:,} prompts"
        ),
        verdict=VerdictPart.of(judgement.verdict),
        config=dump_yaml(config),
        seconds=dict(seconds),
        pair_accuracy={kind: _accuracies(table) for kind, table in tables if table},
        by_task={task: _accuracies(table) for task, table in judgement.by_task.items()},
        router=router_part(fit.router, fit.assigned, threshold=config.router.threshold),
        capabilities=judgement.experts,
        pair=explain_preference(fit.model, explained),
        errors=notable.errors,
        wrong=notable.wrong,
        ties=notable.ties,
        seeds=_seeds(config),
        versions=versions(),
        hashes={"data": rows.hash, "model": fit.model.hash, "encoder": fit.model.encoder.fingerprint},
        notes=tuple(notes),
    )


def adapters_part(trained: Mapping[str, ExpertFit]) -> dict[str, Any]:
    """Return how many adapters were trained, how many are unchanged, and the names of the unchanged ones.

    Args:
        trained: Fit of every expert and of every task's own adapter, by objective.
    """
    linear = sorted(name for name, fit in trained.items() if not fit.kept)
    return {"trained": len(trained), "unchanged": len(linear), "linear_heads": linear}


def adapters_line(trained: Mapping[str, ExpertFit]) -> str:
    """Return how many adapters training has changed, as a sentence for the report and the terminal.

    Args:
        trained: Fit of every expert and of every task's own adapter, by objective.
    """
    part = adapters_part(trained)
    if not part["unchanged"]:
        return f"All {part['trained']} adapters beat their linear starts on held-out prompts."
    names = ", ".join(part["linear_heads"])
    return (
        f"{part['unchanged']} of {part['trained']} adapters unchanged: training did not clearly beat the linear start "
        f"on held-out prompts, so these experts are linear heads: {names}."
    )


def _accuracies(table: Mapping[str, Interval]) -> dict[str, Accuracy]:
    return {name: Accuracy.of(interval) for name, interval in table.items()}


def _seeds(config: DmoermConfig) -> dict[str, int]:
    seeds = {
        "run": config.seed,
        "base": config.base.training.seed,
        "experts": config.experts.training.seed,
        "router": config.router.settings.seed,
        "split": config.split.seed,
        "aggregator": getattr(
            config.aggregator, {"concat_mlp": "concat", "gated_sum": "gate"}[config.aggregator.kind]
        ).seed,
    }
    return {**seeds, **generator_seeds(config.data)}
