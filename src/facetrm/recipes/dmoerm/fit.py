"""DMoERM, from preferences with tasks to an interpretable reward model, as a straight line.

    prompts -> router -> tasks of all rows -> {task: base -> experts -> aggregator} -> model and rivals

RUN/
  config.resolved.yaml, metrics.json, report.html, pair.jsonl, model/    as in every run
  adapters/, training/                                                   one folder per expert and per task
  rivals/                                                                single reward models, for comparison only
  backbone/                                                              the backbone, if the run trained one

Reference: DMoERM (arXiv 2403.01197). The docstring of each part says where it differs from the paper.
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
from facetrm.data.world import World
from facetrm.evaluate.compare import typical_pair
from facetrm.fit.experts.adapters import ExpertFit, agreed
from facetrm.fit.gate.fixed import fixed_mixture
from facetrm.fit.gate.unconditional import fit_beta
from facetrm.fit.router.assign import AssignmentCounts, assign
from facetrm.fit.router.fit import RouterFit, fit_router
from facetrm.hub.card import write_card
from facetrm.model.mixture import Mixture
from facetrm.model.reward_model import RewardModel
from facetrm.model.validity import VALIDITY
from facetrm.recipes.armorm.config import EVERY, check_fallback
from facetrm.recipes.armorm.fit import Stopwatch
from facetrm.recipes.backbones import train_tiny
from facetrm.recipes.dmoerm.config import DmoermConfig
from facetrm.recipes.dmoerm.figures import DmoermFit, adapters_part, dmoerm_metrics, dmoerm_report
from facetrm.recipes.dmoerm.inner import encode_pairs, experts_of, fit_base, fit_inner, pair_shares
from facetrm.recipes.dmoerm.judge import TaskJudgement, judge_tasks
from facetrm.recipes.dmoerm.labels_used import check_any_expert
from facetrm.recipes.dmoerm.names import check_experts, names_of_adapters, overall_objective
from facetrm.recipes.dmoerm.rivals import fit_rivals
from facetrm.recipes.dmoerm.rows import DmoermRows, cut_phases, load_tasks
from facetrm.recipes.reading import Reading, RowsReader
from facetrm.recipes.run_folder import RunFolder, run_folder
from facetrm.report.build import build_report


@dataclass(frozen=True)
class DmoermRun:
    """A finished DMoERM run.

    Attributes:
        folder: Folder of the run.
        metrics: Content of ``metrics.json``.
        fit: Router and mixtures, with their fits.
        judgement: Accuracies and other figures on the test pairs.
        explained: The test pair that the report explains.
        reading: Counts of truncated conversations and of pairs that read the same.
    """

    folder: Path
    metrics: dict[str, Any]
    fit: DmoermFit
    judgement: TaskJudgement
    explained: Preference
    reading: Reading | None = None


def run_dmoerm(config: DmoermConfig, folder: Path) -> DmoermRun | None:
    """Train, compare, explain and save one DMoERM.

    Args:
        config: Settings of the run.
        folder: Folder of the run; existing results are reused, and training resumes.

    Returns:
        The run; None in every process but the first.

    Raises:
        StoreError: Another run uses the folder.
        FacetrmError: A step failed; the error names value, place and fix.
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
        members = [f"rival-{n + 1}" for n in range(config.rivals.members)]
        names = names_of_adapters(rows.objectives, EVERY, *members)
        own = [names[member] for member in members]
        rivals = fit_rivals(encoder, rows.overall, fit.tasks, names=own, config=config, folder=folder)
    if not here.is_main_process:
        return None
    with watch("judge"):
        judgement = judge_tasks(
            config, rows, fit.model, fit.inner, encoder, rivals=rivals, limits=fit.unused.sentences(config)
        )
    with watch("save"):
        for name in set(encoder.adapters) - set(fit.model.adapters):  # rivals, and task adapters that are not experts
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
    """Return the rows without answers that read the same as a better one, with the counts of what was read.

    Args:
        rows: Data of the run.
        encoder: Encoder whose tokens decide which answers read the same.
    """
    reader = RowsReader(encoder)
    overall = reader.training(rows.overall)
    capabilities = reader.training(rows.capabilities, part="capabilities")
    return replace(rows, overall=overall, capabilities=capabilities, reading=reader.done(rows.test))


def open_backbone(config: DmoermConfig, rows: DmoermRows, folder: Path) -> tuple[TransformerEncoder, dict[str, Any]]:
    """Load the backbone, or train the tiny one on the world.

    Args:
        config: Settings of the run.
        rows: Data of the run.
        folder: Folder of the run.

    Returns:
        The encoder, and cost and figures of the backbone's training (empty if it was loaded).
    """
    if config.tiny is not None and isinstance(rows.world, World):
        return train_tiny(config.tiny, rows.world, folder / "backbone", seed=config.seed)
    if config.backbone is None:
        raise ConfigError("no backbone", place="recipe", fix="give the section 'backbone' or 'tiny'")
    return load_encoder(config.backbone), {}


def fit_tasks(
    config: DmoermConfig, rows: DmoermRows, encoder: TransformerEncoder, folder: Path, watch: Stopwatch
) -> DmoermFit:
    """Fit the router and the mixtures.

    Args:
        config: Settings of the run.
        rows: Data of the run.
        encoder: Encoder that receives the adapters.
        folder: Folder of the run.
        watch: Stopwatch that receives the time of each stage.
    """
    with watch("router"):
        router, tasks, assigned = route_rows(config, rows, encoder)
    names = names_of_adapters(rows.objectives, EVERY)
    phases = cut_phases(rows, tasks, config.split)
    unused = check_any_expert(rows.capabilities, phases, config)
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
    provenance: dict[str, Any] = {"recipe": config.model_dump(mode="json"), "data": rows.hash}
    found = DmoermFit.trained_of(inner)
    provenance[VALIDITY] = {name: fit.validity.to_dict() for name, fit in found.items()}
    model = RewardModel(encoder, mixtures, None if router is None else router.gate, **routing, provenance=provenance)
    return DmoermFit(model, router, assigned, inner, every, tasks, unused)


def route_rows(
    config: DmoermConfig, rows: DmoermRows, encoder: TransformerEncoder
) -> tuple[RouterFit | None, list[str], AssignmentCounts | None]:
    """Fit the router on the rows whose task is known, and choose a task for the others.

    The router also learns from preferences about capabilities, whose aspect names the task.

    Args:
        config: Settings of the run.
        rows: Data of the run.
        encoder: Encoder of the prompts.

    Returns:
        The router (None for a single task), the task of each row of ``rows.overall``, and the number of rows whose task
        was given or chosen (None for a single task).
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
        encoder: Encoder with the adapter.
        fit: Trained adapter and head.
        sample: Preferences that set the scale of the rating and of the margin's log odds.
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
    """Return one preference, and its task, for each prompt whose task only capability preferences tell.

    The task given in a row takes precedence over that of its capability. Prompts are left out if their rows name
    different tasks, or a task that the run does not have.
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
