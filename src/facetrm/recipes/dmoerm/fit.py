"""DMoERM, from preferences with tasks to a readable reward model, as one straight line.

    prompts -> router -> tasks of all rows -> {task: base -> experts -> aggregator} -> model, beside simpler ones

RUN/
  config.resolved.yaml, metrics.json, report.html, pair.jsonl, model/    as of every run
  adapters/, training/                                                   one folder for each expert and each task
  rivals/                                                                single reward models, for comparison only
  backbone/                                                              where the run trained one

Reference: DMoERM (arXiv 2403.01197); where we differ is said in each part.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState

from facetrm.backbone.encoder import Encoder
from facetrm.backbone.transformer import TransformerEncoder, load_encoder
from facetrm.core.errors import ConfigError
from facetrm.core.files import write_json
from facetrm.core.progress import log
from facetrm.data.read.files import write_records
from facetrm.data.records import Preference
from facetrm.evaluate.compare import typical_pair
from facetrm.fit.experts.adapters import ExpertFit, agreed
from facetrm.fit.gate.fixed import fixed_mixture
from facetrm.fit.gate.unconditional import fit_beta
from facetrm.fit.router.assign import AssignmentCounts, assign
from facetrm.fit.router.fit import RouterFit, fit_router
from facetrm.hub.card import write_card
from facetrm.model.mixture import Mixture
from facetrm.model.reward_model import RewardModel
from facetrm.recipes.armorm.config import EVERY, check_fallback
from facetrm.recipes.armorm.fit import Stopwatch
from facetrm.recipes.backbones import train_tiny
from facetrm.recipes.dmoerm.config import DmoermConfig
from facetrm.recipes.dmoerm.figures import DmoermFit, adapters_part, dmoerm_metrics, dmoerm_report
from facetrm.recipes.dmoerm.inner import encode_pairs, experts_of, fit_base, fit_inner, pair_shares
from facetrm.recipes.dmoerm.judge import TaskJudgement, judge_tasks
from facetrm.recipes.dmoerm.names import check_experts, names_of_adapters, overall_objective
from facetrm.recipes.dmoerm.rivals import fit_rivals
from facetrm.recipes.dmoerm.rows import DmoermRows, cut_phases, load_tasks
from facetrm.recipes.reading import Reading, RowsReader
from facetrm.recipes.run_folder import RunFolder, run_folder
from facetrm.report.build import build_report


@dataclass(frozen=True)
class DmoermRun:
    """A finished run: its folder, its figures, the fitted parts, the pair that shows it, and what was read."""

    folder: Path
    metrics: dict[str, Any]
    fit: DmoermFit
    judgement: TaskJudgement
    explained: Preference
    reading: Reading | None = None


def run_dmoerm(config: DmoermConfig, folder: Path) -> DmoermRun | None:
    """Train, compare, explain and save one DMoERM.

    Args:
        config: settings.
        folder: folder of the run; what is there already is used again, and a training goes on.

    Returns:
        The run; None in every process but the first.

    Raises:
        StoreError: another run holds the folder.
        FacetrmError: what a step raises, naming value, place and fix.
    """
    here = PartialState(cpu=_on_cpu(config))
    with run_folder(folder, config, main=here.is_main_process) as held:
        return _run_dmoerm(config, held, here)


def _run_dmoerm(config: DmoermConfig, held: RunFolder, here: PartialState) -> DmoermRun | None:
    watch, folder = Stopwatch(), held.path
    with watch("data"):
        rows = load_tasks(config.data, seed=config.seed)
        check_fallback(config.router, rows.tasks)
        check_experts(config, rows.objectives)
    with here.main_process_first(), watch("backbone"):
        held.begin()
        encoder, training = open_backbone(config, rows, folder)
    with watch("reading"):
        rows = read_tasks(rows, encoder)
    fit = fit_tasks(config, rows, encoder, folder, watch)
    log("adapters", **adapters_part(fit.trained))
    with watch("rivals"):
        names = names_of_adapters(rows.objectives, EVERY, *(f"rival-{n + 1}" for n in range(config.rivals.members)))
        own = [names[f"rival-{n + 1}"] for n in range(config.rivals.members)]
        rivals = fit_rivals(encoder, rows.overall, fit.tasks, names=own, config=config, folder=folder)
    if not here.is_main_process:
        return None
    with watch("judge"):
        judgement = judge_tasks(config, rows, fit.model, fit.inner, encoder, rivals=rivals)
    with watch("save"):
        for name in set(encoder.adapters) - set(fit.model.adapters):  # rivals, and a task's own where it is no expert
            encoder.remove_adapter(name)
        held.keep_settings()
        fit.model.save(folder / "model", backbone=config.save_backbone)
        explained = typical_pair(judgement.pairs, judgement.margins["model"])
        write_records(folder / "pair.jsonl", [explained])
    with watch("report"):
        build_report(dmoerm_report(config, rows, fit, judgement, seconds=watch.seconds, explained=explained), folder)
    values = dmoerm_metrics(config, rows, fit, judgement, rivals=rivals, seconds=watch.seconds, training=training)
    write_json(folder / "metrics.json", values)
    write_card(folder / "model", fit.model, metrics=values, name=folder.name)
    return DmoermRun(folder, values, fit, judgement, explained, rows.reading)


def read_tasks(rows: DmoermRows, encoder: Encoder) -> DmoermRows:
    """Return the rows without answers that read like a better one of the same ranking, and the counts of what is read.

    Args:
        rows: data.
        encoder: reads it.
    """
    reader = RowsReader(encoder)
    overall = reader.training(rows.overall)
    capabilities = reader.training(rows.capabilities, part="capabilities")
    return replace(rows, overall=overall, capabilities=capabilities, reading=reader.done(rows.test))


def open_backbone(config: DmoermConfig, rows: DmoermRows, folder: Path) -> tuple[TransformerEncoder, dict[str, Any]]:
    """Load the backbone that ``config`` names, or train the tiny one on the world of ``rows`` in ``folder``.

    Returns:
        The encoder, and what a backbone trained here has cost.
    """
    if config.tiny is not None and rows.world is not None:
        return train_tiny(config.tiny, rows.world, folder / "backbone", seed=config.seed)
    if config.backbone is None:
        raise ConfigError("no backbone", place="recipe", fix="give the section 'backbone' or 'tiny'")
    return load_encoder(config.backbone), {}


def fit_tasks(
    config: DmoermConfig, rows: DmoermRows, encoder: TransformerEncoder, folder: Path, watch: Stopwatch
) -> DmoermFit:
    """Fit router and mixtures.

    Args:
        config: settings.
        rows: data.
        encoder: gets the adapters.
        folder: folder of the run.
        watch: where the seconds go.
    """
    with watch("router"):
        router, tasks, assigned = route_rows(config, rows, encoder)
    names = names_of_adapters(rows.objectives, EVERY)
    phases = cut_phases(rows, tasks, config.split)
    inner = {}
    for task, objectives in rows.objectives.items():
        with watch(f"experts of {task}"):
            inner[task] = fit_inner(encoder, task, objectives, phases[task], names=names, config=config, folder=folder)
    mixtures: dict[str, Mixture] = {task: fit.mixture for task, fit in inner.items()}
    routing: dict[str, Any] = {}
    every = None
    if router is not None and config.router.threshold > 0:
        routing = {"fallback": config.router.fallback, "threshold": config.router.threshold}
        if config.router.fallback == EVERY:
            with watch("fall-back"):
                base = [p for task in rows.tasks for p in phases[task].base]
                mix = [p for task in rows.tasks for p in phases[task].mix]
                every = fit_base(encoder, base, name=names[EVERY], config=config, folder=folder)
                mixtures[EVERY] = single_mixture(encoder, every, mix)
    provenance = {"recipe": config.model_dump(mode="json"), "data": rows.hash}
    model = RewardModel(encoder, mixtures, None if router is None else router.gate, **routing, provenance=provenance)
    return DmoermFit(model, router, assigned, inner, every, tasks)


def route_rows(
    config: DmoermConfig, rows: DmoermRows, encoder: TransformerEncoder
) -> tuple[RouterFit | None, list[str], AssignmentCounts | None]:
    """Fit the router on the rows whose task is known, and return it with a task for every row of ``rows.overall``.

    Preferences about capabilities count too: their aspect says the task. With one task there is nothing to route.

    Args:
        config: settings.
        rows: data.
        encoder: reads the prompts.
    """
    if len(rows.tasks) == 1:
        return None, [rows.tasks[0]] * len(rows.overall), None
    prompt_ND = encoder.prompts([p.chosen for p in rows.overall])
    known = [n for n, p in enumerate(rows.overall) if p.task is not None]
    about = _prompts_about(rows)
    about_ND = encoder.prompts([p.chosen for p, _ in about])
    router = fit_router(
        torch.cat([prompt_ND[known], about_ND]),
        [str(rows.overall[n].task) for n in known] + [task for _, task in about],
        groups=[rows.overall[n].prompt_key for n in known] + [p.prompt_key for p, _ in about],
        config=config.router.settings,
        names=rows.tasks,
    )
    tasks, assigned = assign(
        router.gate,
        prompt_ND,
        tasks=[p.task for p in rows.overall],
        names=rows.tasks,
        threshold=config.router.threshold,
    )
    return router, agreed(tasks), assigned


def single_mixture(encoder: TransformerEncoder, fit: ExpertFit, sample: Sequence[Preference]) -> Mixture:
    """Return one adapter and its head as a mixture.

    Args:
        encoder: holds the adapter.
        fit: of adapter and head.
        sample: preferences that give the rating its scale and the margin its odds.
    """
    pairs, weights = encode_pairs(encoder, sample, adapters=[fit.name]), pair_shares(sample)
    both_N = torch.tensor([*weights, *weights], dtype=torch.float64)
    experts = experts_of([overall_objective(fit.name)], [fit], pairs.both(), weights=both_N.tolist())
    with torch.no_grad():
        reference_K = ((both_N[:, None] * experts(pairs.both()).double()).sum(dim=0) / both_N.sum()).float()
    plain = fixed_mixture(experts, torch.eye(1), weights_K=[1.0], reference_K=reference_K)
    beta = fit_beta(plain.margins(pairs.chosen, pairs.rejected).numpy(), weights=np.array(weights))
    return Mixture(experts, plain.aggregator, beta=beta)


def _prompts_about(rows: DmoermRows) -> list[tuple[Preference, str]]:
    """Return one preference for each prompt whose capabilities alone say its task, with that task.

    A row's own task goes before that of its capability; where it is none of the run's, or where a prompt was compared
    in capabilities of two tasks, nothing is known.
    """
    task_of = {o.name: task for task, found in rows.objectives.items() for o in found}
    seen = {p.prompt_key for p in rows.overall if p.task is not None}
    found: dict[str, Preference] = {}
    named: dict[str, set[str]] = defaultdict(set)
    for p in rows.capabilities:
        if p.prompt_key not in seen:
            found[p.prompt_key] = p
            named[p.prompt_key].add(p.task or task_of[p.aspect])
    sure = {key: tasks.pop() for key, tasks in named.items() if len(tasks) == 1}
    return [(p, sure[key]) for key, p in found.items() if sure.get(key) in rows.tasks]


def _on_cpu(config: DmoermConfig) -> bool:
    return config.tiny is not None or (config.backbone is not None and config.backbone.device == "cpu")
