"""One task's inner mixture in three phases on disjoint prompts: its own adapter, an expert a capability, an aggregator.

    base    = adapter and head on the task's preferences                              phase 1
    experts = one adapter and head for each capability, started from base             phase 2
    mixture = experts + network on their vectors (or a gate on their ratings)         phase 3, all else frozen

Finished parts lie in the run folder, and a run that was killed goes on with the part that it was at:

    adapters/NAME/               in PEFT's format: every expert's, and the task's own
    training/NAME/               of each training (see facetrm.fit.trainer)

Shapes: N responses, D hidden size, K experts.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor

from facetrm.backbone.encoder import Features
from facetrm.backbone.transformer import TransformerEncoder
from facetrm.core.errors import FitError
from facetrm.core.fingerprint import fingerprint
from facetrm.core.progress import log
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
    """One task's mixture and what led to it.

    Attributes:
        task: its name.
        mixture: ready for a model.
        base: phase 1.
        experts: phase 2, by objective.
        aggregator: phase 3.
        left_out: capabilities without enough preferences, with how many there were.
        counts: rows by phase.
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
        """The adapters of the experts, and the task's own."""
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
        encoder: gets the adapters.
        task: its name.
        objectives: its capabilities.
        phases: its rows.
        names: names of the adapters, see :func:`facetrm.recipes.dmoerm.names.names_of_adapters`.
        config: settings.
        folder: folder of the run.

    Raises:
        FitError: a phase without rows, or of one prompt only.
    """
    for name, rows in (("base", phases.base), ("mix", phases.mix)):
        if len({p.prompt_key for p in rows}) < 2:
            raise FitError(
                f"{len(rows)} preferences for phase '{name}'",
                place=f"task '{task}'",
                fix="give preferences of two prompts or more, or another split",
            )
    base = fit_base(encoder, phases.base, name=names[task], config=config, folder=folder)
    enough = {o.name for o in objectives if _enough(phases.capabilities[o.name], config.experts.least)}
    left_out = {o.name: len(phases.capabilities[o.name]) for o in objectives if o.name not in enough}
    if left_out:
        log("experts", task=task, too_few_preferences=left_out, least=config.experts.least)
    found: dict[str, ExpertFit] = {}
    chosen: list[Objective] = []
    for objective in objectives:
        if objective.name in enough:
            rows = phases.capabilities[objective.name]
            found[objective.name] = _fitted(
                encoder,
                rows,
                name=names[objective.name],
                head=_capability_head(encoder, base, config),
                config=config,
                training=config.experts.training,
                folder=folder,
                start=base.name,
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
        encoder: gets the adapter.
        rows: preferences.
        name: name of the adapter.
        config: settings.
        folder: folder of the run.
    """
    return _fitted(
        encoder,
        rows,
        name=name,
        head=_first_head(encoder, config),
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
    """Fit what makes one reward of the experts, on preferences that none of them has seen: phase 3.

    Args:
        encoder: holds the adapters.
        preferences: overall preferences.
        objectives: objectives of the K experts.
        fits: the fit of each expert.
        section: settings.
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
        objectives: objectives of the K experts.
        fits: the fit of each expert.
        sample: answers that the K adapters have read.
        weights: weights of the answers.
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
    """Return the features of every pair; a group of more than two gives every two of its responses, each read once.

    Args:
        encoder: reads.
        preferences: pairs and groups.
        adapters: read the responses; None for the trunk as it is.
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
    """Return the weight of every pair of ``preferences``: those of a group sum to 1."""
    return ranked_pairs([len(p.responses) for p in preferences])[2]


def linear_head(pairs: Pairs, config: BradleyTerryConfig, *, weights: Sequence[float]) -> Tensor | None:
    """Return a Bradley-Terry head on the first vectors, None where there are fewer prompts than two a fold.

    Args:
        pairs: features.
        config: settings of the fit.
        weights: weights of each pair.
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
    config: DmoermConfig,
    training: ExpertConfig,
    folder: Path,
    start: str | None = None,
) -> ExpertFit:
    """Train an adapter and write it where the model will look for it."""
    begun_by = config.base.head if start is None else config.experts.head
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


def _enough(rows: Sequence[Preference], least: int) -> bool:
    """Return whether a capability can have an expert: preferences enough, of two prompts at least."""
    return len(rows) >= least and len({p.prompt_key for p in rows}) > 1


def _first_head(encoder: TransformerEncoder, config: DmoermConfig) -> HeadStart:
    """Return the head that a task's adapter must beat: linear, or random where too few prompts can fit one."""

    def fitted(rows: Sequence[Preference]) -> Tensor:
        found_D = linear_head(encode_pairs(encoder, rows), config.linear, weights=pair_shares(rows))
        return random_head(encoder.hidden_size, seed=config.base.training.seed) if found_D is None else found_D

    return fitted


def _capability_head(encoder: TransformerEncoder, base: ExpertFit, config: DmoermConfig) -> HeadStart:
    """Return the head that a capability's adapter must beat: linear on the task adapter's vectors, or the task's."""

    def fitted(rows: Sequence[Preference]) -> Tensor:
        pairs = encode_pairs(encoder, rows, adapters=[base.name])
        found_D = linear_head(pairs, config.linear, weights=pair_shares(rows))
        return base.head_D if found_D is None else found_D

    return base.head_D if config.experts.head == "task" else fitted
