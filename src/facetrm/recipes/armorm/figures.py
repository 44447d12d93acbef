"""``metrics.json`` and the report of an ArmoRM run. docs/metrics.md describes ``metrics.json``."""

from __future__ import annotations

import math
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import torch

from facetrm.core.config import dump_yaml
from facetrm.core.statistics import Interval
from facetrm.data.records import Preference
from facetrm.explain.ablation import ablate
from facetrm.explain.ask import explain_pair, flip_explained
from facetrm.explain.overall import OverallExplanation, explain_overall
from facetrm.fit.debias import CorrelationRow
from facetrm.fit.heads.layer_choice import LayerRow
from facetrm.fit.heads.objective_report import ObjectiveReport
from facetrm.model.reward_model import RewardModel
from facetrm.recipes.armorm.config import ArmormConfig
from facetrm.recipes.armorm.fit import ArmormFit
from facetrm.recipes.armorm.judge import RunJudgement
from facetrm.recipes.armorm.routed import RoutedFit
from facetrm.recipes.armorm.rows import Rows
from facetrm.recipes.generated import generator_seeds
from facetrm.recipes.notable import Notable, notable_pairs
from facetrm.recipes.router_figures import router_part
from facetrm.report.layer_table import LayerTableRow
from facetrm.report.run_report import (
    DebiasTableRow,
    ExplainedPair,
    LengthAudit,
    ObjectiveRow,
    Recovery,
    RecoveryPoint,
    RunReport,
    Training,
    TrainingPoint,
    VerdictPart,
)
from facetrm.report.task_parts import Accuracy

METRICS_SCHEMA: Final = 1
_ROUTED_NOTE: Final = (
    "The saved model has a router and one gate per task. Gate, weights and effects below are those of the single gate."
)
_ABLATION_SAMPLES: Final = 200  # per expert and interval; more would slow down small runs
_PACKAGES: Final = ("facetrm", "torch", "transformers", "tokenizers", "safetensors", "numpy", "scipy")


def metrics(
    config: ArmormConfig,
    rows: Rows,
    fit: ArmormFit,
    judgement: RunJudgement,
    *,
    seconds: Mapping[str, float],
    training: Mapping[str, Any],
    routed: RoutedFit | None = None,
    overall: OverallExplanation | None = None,
) -> dict[str, Any]:
    """Return the content of ``metrics.json``. Undefined numbers are null.

    Args:
        config: Settings of the run.
        rows: Data of the run.
        fit: Experts, debiasing and gate, with their reports.
        judgement: Accuracies of the gate and the baselines, and other figures on the test pairs.
        seconds: Duration of each stage, in seconds.
        training: Cost and figures of the backbone's training; empty if the run did not train it.
        routed: The model with a router; None without one.
        overall: Weights and contributions over the test pairs; None to leave them out.
    """
    model = fit.model if routed is None else routed.model
    gate = fit.gate.to_dict()
    history = gate.pop("history")
    gate["accuracy"]["test"] = judgement.noisy["gate"].value
    length = judgement.length
    values = {
        "schema": METRICS_SCHEMA,
        "verdict": judgement.verdict.to_dict(),
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
        "backbone_training": dict(training),
        "objectives": {report.name: report.to_dict() for report in fit.reports},
        "objectives_test": {report.name: report.to_dict() for report in fit.test_reports},
        **({"layers": {row.name: row.to_dict() for row in fit.layers}} if fit.layers else {}),
        **({"uncertainty": {row.name: row.to_dict() for row in fit.coverage}} if fit.coverage else {}),
        "debias": {
            "target": fit.debias.target,
            "max_abs_rho": None if fit.debias.target is None else fit.debias.max_abs_rho,
            "max_abs_rho_held_out": _largest_after(judgement.held_out, fit.debias.target),
            "within_prompt_length_rho": None if length is None else length.after.value,
            "within_prompt_length_rho_interval": None if length is None else [length.after.low, length.after.high],
            "within_prompt_length_rho_before": None if length is None else length.before.value,
            "accuracy_before": None if length is None else length.accuracy_before,
            "accuracy_after": None if length is None else length.accuracy_after,
            "objectives": {
                row.name: {key.rstrip("_"): value for key, value in row.to_dict().items()} for row in fit.debias.table
            },
            "held_out": {row.name: asdict(row) for row in judgement.held_out},
        },
        "gate": {**gate, "history": history},
        "gate_weights": {} if overall is None else {task: view.weights for task, view in overall.by_task.items()},
        "pair_accuracy": _pair_accuracy(judgement),
        **({} if routed is None else {"routing": routed.to_dict()}),
        "weight_recovery_spearman": judgement.recovery,
        "seeds": _seeds(config),
        "versions": versions(),
        "hashes": {"data": rows.hash, "model": model.hash, "encoder": model.encoder.fingerprint},
    }
    return dict(plain(values))


def report(
    config: ArmormConfig,
    rows: Rows,
    fit: ArmormFit,
    judgement: RunJudgement,
    *,
    seconds: Mapping[str, float],
    explained: Preference,
    routed: RoutedFit | None = None,
) -> RunReport:
    """Return the content of ``report.html``.

    Args:
        config: Settings of the run.
        rows: Data of the run.
        fit: Experts, debiasing and gate, with their reports.
        judgement: Accuracies of the gate and the baselines, and other figures on the test pairs.
        seconds: Duration of each stage, in seconds.
        explained: The pair to explain.
        routed: The model with a router; None without one.
    """
    model = fit.model if routed is None else routed.model
    tasks = [p.task or "" for p in rows.test]
    tests = fit.test_pairs
    overall = explain_overall(
        fit.model,
        tests.chosen,
        tests.rejected,
        tasks=tasks if any(tasks) else (),
        sources=tests.sources,
        groups=tests.groups,
        seed=config.seed,
    )
    notable = _notable(rows, fit, judgement, model, routed)
    alphas, covered = {r.name: r.alpha for r in fit.reports}, {row.name: row.coverage_90 for row in fit.coverage}
    which = "held-out prompts of the training ratings" if not fit.test_reports else "held-out ratings"
    return RunReport(
        title=config.title,
        model=_model_line(config, model, routed=routed is not None),
        data=_data_line(rows),
        verdict=VerdictPart.of(judgement.verdict),
        description=config.description,
        config=dump_yaml(config),
        seconds=dict(seconds),
        objectives=tuple(
            _objective_row(r, alphas[r.name], covered.get(r.name)) for r in (fit.test_reports or fit.reports)
        ),
        layers=tuple(_layer_row(row) for row in fit.layers),
        debias=_debias_rows(fit, judgement),
        length=_length(judgement),
        pair_accuracy={kind: _accuracies(t) for kind, t in (("noisy", judgement.noisy), ("true", judgement.true)) if t},
        by_source=_tables(judgement.sources),
        by_task=_tables(judgement.true_by_task or judgement.by_task),
        task_truth=bool(judgement.true_by_task),
        router=None
        if routed is None or config.router is None
        else router_part(routed.router, routed.assigned, threshold=config.router.threshold),
        recovery=_recovery(judgement),
        overall=overall,
        ablation=ablate(
            fit.model, tests.chosen, tests.rejected, groups=tests.groups, samples=_ABLATION_SAMPLES, seed=config.seed
        ),
        training=Training(points=tuple(_point(p) for p in fit.gate.history), best_step=fit.gate.best_step),
        pair=explain_preference(model, explained),
        errors=notable.errors,
        wrong=notable.wrong,
        ties=notable.ties,
        seeds=_seeds(config),
        versions=versions(),
        hashes={"data": rows.hash, "model": model.hash, "encoder": model.encoder.fingerprint},
        notes=(
            *(() if rows.reading is None else rows.reading.lines()),
            f"Objectives are measured on {which}.",
            *((_ROUTED_NOTE,) if routed is not None else ()),
        ),
    )


def _pair_accuracy(judgement: RunJudgement) -> dict[str, Any]:
    """Return accuracies and intervals: of all test pairs, by source and by task, against labels and true order."""
    whole = {"noisy": judgement.noisy, "true": judgement.true}
    parts = {"by_source": judgement.sources, "by_task": judgement.by_task, "true_by_task": judgement.true_by_task}
    return {
        **{kind: _values(table) for kind, table in whole.items()},
        **{kind: {name: _values(table) for name, table in part.items()} for kind, part in parts.items()},
        "intervals": {
            **{kind: _ends(table) for kind, table in whole.items()},
            **{kind: {name: _ends(table) for name, table in part.items()} for kind, part in parts.items()},
        },
        "gate_minus_linear_bt": {name: asdict(i) for name, i in judgement.against_linear.items()},
        "best_objective": judgement.best_objective,
    }


def _debias_rows(fit: ArmormFit, judgement: RunJudgement) -> tuple[DebiasTableRow, ...]:
    held_out = {row.name: row for row in judgement.held_out}
    return tuple(
        DebiasTableRow(
            objective=row.name,
            lam=row.lambda_,
            before=row.before,
            after=row.after,
            held_out_before=_number(held_out[row.name].spearman_before),
            held_out_after=_number(held_out[row.name].spearman_after),
            reached=row.reached,
        )
        for row in fit.debias.table
        if math.isfinite(row.before) and math.isfinite(row.after)
    )


def _notable(
    rows: Rows, fit: ArmormFit, judgement: RunJudgement, model: RewardModel, routed: RoutedFit | None
) -> Notable:
    """Return the errors and ties of the saved model; the features of the test pairs are there already."""
    margins_N, used = judgement.margins["gate"], ["all"] * len(rows.test)
    if routed is not None:
        margins_N, used = routed.margins, routed.used
    return notable_pairs(
        model,
        rows.test,
        margins_N,
        used=used,
        same=() if rows.reading is None else rows.reading.equal_test,
        features=lambda here: fit.test_pairs.select(torch.tensor(here)).sides(),
    )


def _model_line(config: ArmormConfig, model: RewardModel, *, routed: bool) -> str:
    mixture = next(iter(model.mixtures.values()))
    name = "a small decoder trained in this run" if config.tiny else backbone_name(model.encoder.spec())
    gates = f"a router over the gates of {len(model.tasks)} tasks" if routed else "one gate"
    return f"ArmoRM: {len(mixture.names)} linear experts and {gates} on {name}"


def _data_line(rows: Rows) -> str:
    prompts = len({p.prompt_key for p in rows.test})
    return (
        f"{len(rows.heads):,} rated answers and {len(rows.gate):,} pairs for training; {len(rows.test):,} held-out "
        f"pairs of {prompts:,} prompts"
    )


def backbone_name(spec: Mapping[str, object]) -> str:
    """Return a short name of a backbone: the last part of a path, or its name on the Hub.

    Args:
        spec: Specification of the encoder.
    """
    path = str(spec.get("path", spec.get("kind", "an encoder")))
    return Path(path).name if Path(path).is_absolute() or path.startswith(".") or path.count("/") > 1 else path


def explain_preference(model: RewardModel, preference: Preference) -> ExplainedPair:
    """Return the explanation of one pair, with its texts and what would flip it.

    Args:
        model: Model that scores the answers.
        preference: The pair.
    """
    pair = explain_pair(model, preference.chosen, preference.rejected, preferred="A")
    flip = flip_explained(model, pair)
    return ExplainedPair(explanation=pair, conversations=(preference.chosen, preference.rejected), flip=flip)


def _objective_row(r: ObjectiveReport, alpha: float | None, coverage: float | None) -> ObjectiveRow:
    return ObjectiveRow(
        name=r.name,
        n=r.n,
        alpha=alpha,
        mse=_number(r.mse),
        mse_mean=_number(r.mse_mean),
        pearson=_number(r.pearson),
        spearman=_number(r.spearman),
        low=_number(r.interval[0]),
        high=_number(r.interval[1]),
        measurable=r.validity.measurable,
        coverage=coverage,
    )


def _layer_row(row: LayerRow) -> LayerTableRow:
    return LayerTableRow(
        objective=row.name,
        chosen=str(row.chosen),
        spearman={str(layer): _number(value) for layer, value in row.spearman.items()},
        mse={str(layer): _number(value) for layer, value in row.errors.items()},
        standard_error=_number(row.standard_error),
    )


def _length(judgement: RunJudgement) -> LengthAudit | None:
    cost = judgement.length
    if cost is None or not (math.isfinite(cost.before.value) and math.isfinite(cost.after.value)):
        return None
    return LengthAudit(
        before=cost.before.value,
        after=cost.after.value,
        accuracy_before=cost.accuracy_before,
        accuracy_after=cost.accuracy_after,
    )


def _recovery(judgement: RunJudgement) -> Recovery | None:
    if judgement.recovery is None or not math.isfinite(judgement.recovery):
        return None
    points = [RecoveryPoint(task=c.task, objective=c.latent, true=c.true, learned=c.learned) for c in judgement.cells]
    return Recovery(spearman=judgement.recovery, points=tuple(points))


def _point(row: Mapping[str, float]) -> TrainingPoint:
    return TrainingPoint(
        step=int(row["step"]), train_loss=row.get("training_loss"), valid_loss=row.get("validation_loss")
    )


def _tables(found: Mapping[str, Mapping[str, Interval]]) -> dict[str, dict[str, Accuracy]]:
    return {name: _accuracies(table) for name, table in found.items()}


def _accuracies(table: Mapping[str, Interval]) -> dict[str, Accuracy]:
    return {name: Accuracy.of(interval) for name, interval in table.items()}


def _values(table: Mapping[str, Interval]) -> dict[str, float]:
    return {name: interval.value for name, interval in table.items()}


def _ends(table: Mapping[str, Interval]) -> dict[str, list[float]]:
    return {name: [interval.low, interval.high] for name, interval in table.items()}


def _seeds(config: ArmormConfig) -> dict[str, int]:
    seeds = {"run": config.seed, "ridge": config.experts.ridge.seed, "gate": config.gate.settings.seed}
    if config.router is not None:
        seeds["router"] = config.router.settings.seed
    return {**seeds, **generator_seeds(config.data)}


def versions() -> dict[str, str]:
    """Return everything that affects numbers: versions of Python and packages, platform, and number of threads."""
    packages = {name: version(name) for name in _PACKAGES}
    return {
        "python": sys.version.split()[0],
        **packages,
        "platform": f"{platform.system()} {platform.machine()}",
        "threads": str(torch.get_num_threads()),
    }


def _number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def plain(value: Any) -> Any:
    """Return ``value`` with every NaN and infinity replaced by None, so that it is valid JSON."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _largest_after(rows: Sequence[CorrelationRow], target: str | None) -> float | None:
    found = [abs(row.spearman_after) for row in rows if row.name != target and math.isfinite(row.spearman_after)]
    return max(found, default=None)
