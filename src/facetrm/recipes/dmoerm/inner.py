"""One task's mixture, fitted in three phases on disjoint prompts: its own adapter, its experts, its aggregator.

    base    = adapter and head on the task's preferences                              phase 1
    experts = one adapter and head per capability, started from base or new           phase 2
    mixture = experts + network on their vectors (or a gate on their ratings)         phase 3, all else frozen

The run folder keeps finished parts, and an interrupted run resumes in the part that it was in:

    adapters/NAME/               adapter of each expert and of each task, in PEFT's format
    training/NAME/               state of each training (see facetrm.fit.trainer)

Shapes: N responses, D hidden size, K experts.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor

from facetrm.backbone.encoder import Features
from facetrm.backbone.transformer import TransformerEncoder
from facetrm.core.errors import FitError
from facetrm.core.fingerprint import fingerprint
from facetrm.core.progress import log
from facetrm.core.statistics import Floats
from facetrm.data.objectives import Objective
from facetrm.data.records import Preference
from facetrm.data.views import as_pairs
from facetrm.evaluate.compare import Pairs
from facetrm.fit.bradley_terry import BradleyTerryConfig, fit_bradley_terry
from facetrm.fit.experts.adapters import ExpertFit, fit_adapter
from facetrm.fit.experts.concat import ConcatFit, fit_concat_mlp
from facetrm.fit.experts.config import ExpertConfig
from facetrm.fit.experts.plan import HeadStart
from facetrm.fit.experts.ranked import ranked_pairs
from facetrm.fit.experts.start import random_head
from facetrm.fit.gate.fit import GateFit, fit_gate
from facetrm.model.adapter_experts import AdapterExperts
from facetrm.model.aggregate import GatedSum
from facetrm.model.mixture import Mixture
from facetrm.recipes.armorm.heads import standard_scale
from facetrm.recipes.dmoerm.config import AggregatorSection, DmoermConfig
from facetrm.recipes.dmoerm.names import overall_objective
from facetrm.recipes.dmoerm.rows import Phases


@dataclass(frozen=True)
class InnerFit:
    """One task's mixture, and the fits of its phases.

    Attributes:
        task: Name of the task.
        mixture: Mixture of the experts, ready for a model.
        base: Fit of phase 1, the task's own adapter.
        experts: Fits of phase 2, by objective; with the task's own adapter if it is an expert.
        aggregator: Fit of phase 3.
        left_out: Number of preferences of each capability that has too few for an expert.
        counts: Number of preferences by phase and capability.
    """

    task: str
    mixture: Mixture
    base: ExpertFit
    experts: dict[str, ExpertFit]
    aggregator: ConcatFit | GateFit
    left_out: dict[str, int]
    counts: dict[str, int]

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of the experts' adapters, and of the task's own."""
        return tuple(dict.fromkeys((*self.mixture.adapters, self.base.name)))

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-ready figures."""
        return {
            "base": self.base.to_dict(),
            "experts": {name: fit.to_dict() for name, fit in self.experts.items()},
            "aggregator": self.aggregator.to_dict(),
            "left_out": self.left_out,
            "rows": self.counts,
        }


def fit_inner(
    encoder: TransformerEncoder,
    task: str,
    objectives: Sequence[Objective],
    phases: Phases,
    *,
    names: Mapping[str, str],
    config: DmoermConfig,
    folder: Path,
) -> InnerFit:
    """Fit one task's mixture.

    Args:
        encoder: Encoder that receives the adapters.
        task: Name of the task.
        objectives: Capabilities of the task.
        phases: Training rows of each phase.
        names: Adapter name of each task and capability.
        config: Settings of the run.
        folder: Folder of the run.

    Raises:
        FitError: A phase has fewer than two prompts.
    """
    for name, rows in (("base", phases.base), ("mix", phases.mix)):
        if len({p.prompt_key for p in rows}) < 2:
            raise FitError(
                f"{len(rows)} preferences for phase '{name}'",
                place=f"task '{task}'",
                fix="give preferences of at least two prompts, or another split",
            )
    base = fit_base(encoder, phases.base, name=names[task], config=config, folder=folder)
    able = {o.name for o in objectives if enough(phases.capabilities[o.name], config.experts.least)}
    left_out = {o.name: len(phases.capabilities[o.name]) for o in objectives if o.name not in able}
    if left_out:
        log("experts", task=task, too_few_preferences=left_out, least=config.experts.least)
    found: dict[str, ExpertFit] = {}
    chosen: list[Objective] = []
    for objective in objectives:
        if objective.name in able:
            rows = phases.capabilities[objective.name]
            found[objective.name] = _fitted(
                encoder,
                rows,
                name=names[objective.name],
                head=_capability_head(encoder, base, config),
                begun_by=config.experts.head,
                config=config,
                training=config.experts.training,
                folder=folder,
                start=base.name if config.experts.adapter == "task" else None,
            )
            chosen.append(objective)
    if config.experts.overall or not chosen:
        chosen.append(overall_objective(task))
        found[chosen[-1].name] = base
    mixture, aggregator = fit_aggregator(
        encoder, phases.mix, chosen, [found[o.name] for o in chosen], section=config.aggregator
    )
    return InnerFit(task, mixture, base, found, aggregator, left_out, phases.counts())


def fit_base(
    encoder: TransformerEncoder, rows: Sequence[Preference], *, name: str, config: DmoermConfig, folder: Path
) -> ExpertFit:
    """Train one adapter and its head on overall preferences: phase 1, or a single reward model.

    Args:
        encoder: Encoder that receives the adapter.
        rows: Overall preferences.
        name: Name of the adapter.
        config: Settings of the run.
        folder: Folder of the run.
    """
    random_D = random_head(encoder.hidden_size, seed=config.base.training.seed)
    return _fitted(
        encoder,
        rows,
        name=name,
        head=_probe(encoder, config.linear, adapters=None, otherwise=random_D),
        begun_by=config.base.head,
        config=config,
        training=config.base.training,
        folder=folder,
    )


def fit_aggregator(
    encoder: TransformerEncoder,
    preferences: Sequence[Preference],
    objectives: Sequence[Objective],
    fits: Sequence[ExpertFit],
    *,
    section: AggregatorSection,
) -> tuple[Mixture, ConcatFit | GateFit]:
    """Fit the aggregator that turns the experts into one reward: phase 3.

    Args:
        encoder: Encoder with the adapters.
        preferences: Overall preferences that no expert was trained on.
        objectives: Objectives of the K experts.
        fits: Fits of the K experts.
        section: Settings of the aggregator.
    """
    pairs = encode_pairs(encoder, preferences, adapters=[fit.name for fit in fits])
    weights = pair_shares(preferences)
    experts = experts_of(objectives, fits, pairs.both(), weights=[*weights, *weights])
    if section.kind == "concat_mlp":
        found = fit_concat_mlp(
            pairs.chosen, pairs.rejected, experts=experts, groups=pairs.groups, config=section.concat, weights=weights
        )
        return Mixture(experts, found.aggregator, beta=found.beta), found
    gate = fit_gate(
        pairs.chosen,
        pairs.rejected,
        experts=experts,
        debias_KK=torch.eye(len(experts.names)),
        groups=pairs.groups,
        config=section.gate,
        weights=weights,
    )
    return Mixture(experts, GatedSum(gate.gate, reference_K=gate.reference_K), beta=gate.beta), gate


def experts_of(
    objectives: Sequence[Objective],
    fits: Sequence[ExpertFit],
    sample: Features,
    *,
    weights: Sequence[float] | None = None,
) -> AdapterExperts:
    """Return heads as experts whose ratings are 0.5 + 0.2 z, with z the log odds standardised over ``sample``.

    Args:
        objectives: Objectives of the K experts.
        fits: Fits of the K experts.
        sample: Features of N answers from the K adapters.
        weights: Weight of each answer, [N]; None for equal weights.
    """
    weight, bias = [], []
    for k, fit in enumerate(fits):
        factor, shift = standard_scale(
            sample.response_NAD[:, k].double() @ fit.head_D.double(), None if weights is None else torch.tensor(weights)
        )
        weight.append((factor * fit.head_D.double()).float())
        bias.append(shift)
    return AdapterExperts(objectives, torch.stack(weight), torch.tensor(bias), adapters=[fit.name for fit in fits])


def encode_pairs(
    encoder: TransformerEncoder, preferences: Sequence[Preference], *, adapters: Sequence[str] | None = None
) -> Pairs:
    """Return the features of every pair. A ranking gives all pairs of its responses; each response is read once.

    Args:
        encoder: Encoder of the responses.
        preferences: Pairs and rankings.
        adapters: Names of the adapters that read the responses; None for the trunk without adapters.
    """
    rows = [(*p.prompt, answer) for p in preferences for answer in p.responses]
    features = encoder.encode(rows, adapters=adapters)
    better, worse, _ = ranked_pairs([len(p.responses) for p in preferences])
    each = [pair for p in preferences for pair in as_pairs(p)]
    return Pairs(
        features.select(torch.tensor(better, dtype=torch.int64)),
        features.select(torch.tensor(worse, dtype=torch.int64)),
        [p.prompt_key for p in each],
        [p.source for p in each],
    )


def pair_shares(preferences: Sequence[Preference]) -> list[float]:
    """Return the weight of every pair of ``preferences``; the weights of one ranking sum to 1."""
    return ranked_pairs([len(p.responses) for p in preferences])[2]


def head_rewards(pairs: Pairs, head_D: Tensor, *, column: int = 0) -> Floats:
    """Return the rewards of the better and of the worse responses, [2, N], in float64.

    Args:
        pairs: Features of the pairs.
        head_D: Weights of the head, [D].
        column: Index of the adapter whose vectors the head reads.
    """
    sides = [side.response_NAD[:, column].double().cpu() @ head_D.double() for side in (pairs.chosen, pairs.rejected)]
    return np.asarray(torch.stack(sides).numpy(), dtype=np.float64)


def linear_head(pairs: Pairs, config: BradleyTerryConfig, *, weights: Sequence[float]) -> Tensor | None:
    """Return a Bradley-Terry head on the first vectors, [D]; None if there are fewer than two prompts per fold.

    Args:
        pairs: Features of the pairs.
        config: Settings of the fit.
        weights: Weight of each pair.
    """
    if len(set(pairs.groups)) < 2 * config.folds:
        return None
    fit = fit_bradley_terry(pairs.chosen, pairs.rejected, groups=pairs.groups, config=config, weights=list(weights))
    head_D: Tensor = fit.mixture.linear_experts.weight_KD[0]
    return head_D


def _fitted(
    encoder: TransformerEncoder,
    rows: Sequence[Preference],
    *,
    name: str,
    head: HeadStart,
    begun_by: str,
    config: DmoermConfig,
    training: ExpertConfig,
    folder: Path,
    start: str | None = None,
) -> ExpertFit:
    """Train an adapter and write it into the run folder, where the model refers to it."""
    fit = fit_adapter(
        encoder,
        rows,
        name=name,
        head=head,
        lora=config.lora,
        config=training,
        folder=folder / "training" / name,
        start=start,
        random_start=begun_by == "random",
        origin=fingerprint([begun_by, config.linear.model_dump(mode="json")]),
    )
    here = PartialState()
    if here.is_main_process:
        encoder.save_adapter(name, folder / "adapters" / name, replace=True)
        for checkpoint in (folder / "training" / name).rglob("checkpoint-*"):
            shutil.rmtree(checkpoint, ignore_errors=True)
    here.wait_for_everyone()
    return fit


def enough(rows: Sequence[Preference], least: int) -> bool:
    """Return whether a capability can have an expert: enough preferences, of at least two prompts.

    Args:
        rows: Preferences about the capability, for phase 2.
        least: Smallest number of preferences for an expert.
    """
    return len(rows) >= least and len({p.prompt_key for p in rows}) > 1


def _probe(
    encoder: TransformerEncoder, linear: BradleyTerryConfig, *, adapters: Sequence[str] | None, otherwise: Tensor
) -> HeadStart:
    """Return what fits the head that an adapter must beat: linear on frozen vectors, else ``otherwise`` on few prompts.

    Args:
        encoder: Encoder of the vectors.
        linear: Settings of the linear head.
        adapters: Name of the adapter that reads the responses; None for the bare trunk.
        otherwise: Head to use if there are too few prompts to fit one, [D].
    """

    def fitted(rows: Sequence[Preference]) -> Tensor:
        found_D = linear_head(encode_pairs(encoder, rows, adapters=adapters), linear, weights=pair_shares(rows))
        return otherwise if found_D is None else found_D

    return fitted


def _capability_head(encoder: TransformerEncoder, base: ExpertFit, config: DmoermConfig) -> HeadStart:
    """Return the head that a capability's adapter must beat, on the vectors that this adapter starts from."""
    if config.experts.head == "task":
        return base.head_D
    if config.experts.adapter == "new":
        random_D = random_head(encoder.hidden_size, seed=config.experts.training.seed)
        return _probe(encoder, config.linear, adapters=None, otherwise=random_D)
    return _probe(encoder, config.linear, adapters=[base.name], otherwise=base.head_D)
