"""ArmoRM, from ratings and preferences to a readable reward model, as one straight line.

    ratings, preferences -> features -> experts -> debiasing -> gate -> model, beside its baselines

Reference: ArmoRM (arXiv 2406.12845); where we differ is said in each part.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from facetrm.backbone.encoder import Encoder, Features
from facetrm.backbone.store import FeatureStore, encode
from facetrm.backbone.transformer import load_encoder
from facetrm.core.errors import ConfigError
from facetrm.core.progress import log
from facetrm.core.statistics import Floats
from facetrm.data.objectives import label_matrix
from facetrm.data.records import Conversation, Preference
from facetrm.evaluate.compare import Pairs
from facetrm.fit.debias import Debias, fit_debias
from facetrm.fit.gate.fit import GateFit, fit_gate
from facetrm.fit.heads.objective_report import ObjectiveReport
from facetrm.fit.heads.ridge import LinearFit, evaluate_experts
from facetrm.fit.pairs import pair_weights
from facetrm.model.aggregate import GatedSum
from facetrm.model.experts import LengthScale, LinearExperts
from facetrm.model.mixture import Mixture
from facetrm.model.reward_model import RewardModel
from facetrm.recipes.armorm.config import ArmormConfig
from facetrm.recipes.armorm.heads import add_preference, cross_fitted, fit_heads
from facetrm.recipes.armorm.rows import Rows, load_rows
from facetrm.recipes.backbones import train_tiny


@dataclass
class Stopwatch:
    """Seconds by stage, in order."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Add the time spent inside to ``stage``."""
        start = time.monotonic()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.monotonic() - start
        log("stage", name=stage, seconds=round(self.seconds[stage], 1))


@dataclass(frozen=True)
class ArmormFit:
    """Everything that one pass of the line leaves behind.

    Attributes:
        model: ready to score. reports: of the experts, out of fold; test_reports: on held-out ratings.
        debias, gate: the two fits. gate_pairs, test_pairs: features of the pairs. weights: of the training pairs;
        scores: the cross-fitted ones that the gate learned from, if any.
    """

    model: RewardModel
    reports: tuple[ObjectiveReport, ...]
    test_reports: tuple[ObjectiveReport, ...]
    debias: Debias
    gate: GateFit
    gate_pairs: Pairs
    test_pairs: Pairs
    weights: Floats | None
    scores: tuple[Tensor, Tensor] | None

    @property
    def mixture(self) -> Mixture:
        """The gated mixture."""
        return self.model.mixture()


FeaturesOf = Callable[[Sequence[Conversation]], Features]


def prepare(config: ArmormConfig, folder: Path, watch: Stopwatch) -> tuple[Rows, Encoder, FeatureStore, dict[str, Any]]:
    """Read the data, load or train the backbone, and put the features of every row on disk.

    Args:
        config: settings. folder: of the run. watch: where the seconds go.

    Returns:
        Rows, encoder, feature store, and what a backbone trained here has cost.
    """
    with watch("data"):
        rows = load_rows(config.data, seed=config.seed)
    with watch("backbone"):
        training: dict[str, Any] = {}
        encoder: Encoder
        if config.tiny is not None and rows.world is not None:
            encoder, training = train_tiny(config.tiny, rows.world, folder / "backbone", seed=config.seed)
        elif config.backbone is not None:
            encoder = load_encoder(config.backbone)
        else:
            raise ConfigError("no backbone", place="recipe", fix="give the section 'backbone' or 'tiny'")
    with watch("encode"):
        kept = folder / "features" if config.features.folder is None else Path(config.features.folder)
        store = encode(
            encoder, conversations(rows), kept, shard_rows=config.features.shard_rows, dtype=config.features.dtype
        )
    return rows, encoder, store, training


def conversations(rows: Rows) -> list[Conversation]:
    """Return every conversation of a run, in a fixed order."""
    rated = [r.messages for part in (rows.heads, rows.heads_test) for r in part]
    return rated + [c for part in (rows.gate, rows.test) for p in part for c in (p.chosen, p.rejected)]


def fit_armorm(
    config: ArmormConfig,
    rows: Rows,
    encoder: Encoder,
    features_of: FeaturesOf,
    watch: Stopwatch,
    *,
    checkpoint: Path | None = None,
) -> ArmormFit:
    """Fit experts, debiasing and gate on rows whose features ``features_of`` knows.

    Args:
        config: settings. rows: data. encoder: of the model that is returned.
        features_of: conversations to features: a store's, or another encoder's for a baseline.
        watch: where the seconds go.
        checkpoint: file from which a gate whose fit was killed goes on.

    Returns:
        The fitted parts and the model.
    """
    with watch("experts"):
        section, labels_NK = config.experts, label_matrix(rows.heads, rows.objectives)
        rated = features_of([r.messages for r in rows.heads])
        pairs, test = pairs_of(rows.gate, features_of), pairs_of(rows.test, features_of)
        strengths = [p.strength for p in rows.gate] if config.gate.strength else None
        weights = pair_weights(pairs.sources, balance=config.gate.source_balance, strengths=strengths)
        scale = None
        if section.length:
            scale = LengthScale.covering(rated.length_N, direction=section.length_direction)
        fit = fit_heads(section, rows.heads, rated, labels_NK, objectives=rows.objectives, scale=scale)
        experts, linear = fit.experts, config.compare.linear
        if section.preference:
            experts, ridge = add_preference(experts, pairs, config=linear, weights=weights)
            linear = linear.model_copy(update={"ridges": (ridge,)})
        tested = _test_heads(config, rows, fit, features_of)
    with watch("cross-fit"):
        scores = None
        if section.cross_fit:
            scores = cross_fitted(
                section,
                rows.heads,
                rated,
                labels_NK,
                objectives=rows.objectives,
                scale=scale,
                pairs=pairs,
                linear=linear if section.preference else None,
                weights=weights,
            )
    with watch("debias"):
        debias = _fit_debias(config, experts, rated, pairs)
    with watch("gate"):
        mixture, gate = fit_mixture(
            config, experts, debias, pairs, weights=weights, scores=scores, checkpoint=checkpoint
        )
    provenance = {"recipe": config.model_dump(mode="json"), "data": rows.hash, "debias_target": debias.target}
    model = RewardModel(encoder, {"all": mixture}, provenance=provenance)
    return ArmormFit(model, fit.reports, tested, debias, gate, pairs, test, weights, scores)


def fit_mixture(
    config: ArmormConfig,
    experts: LinearExperts,
    debias: Debias,
    pairs: Pairs,
    *,
    weights: Floats | None,
    scores: tuple[Tensor, Tensor] | None,
    checkpoint: Path | None = None,
) -> tuple[Mixture, GateFit]:
    """Fit the gate on ``pairs`` and return the mixture of experts, debiasing and gate, with the fit.

    ``scores`` are cross-fitted ones (see :func:`facetrm.fit.gate.fit.fit_gate`); ``weights`` are those of the pairs;
    ``checkpoint`` is the file from which a killed fit goes on.
    """
    gate = fit_gate(
        pairs.chosen,
        pairs.rejected,
        experts=experts,
        debias_KK=debias.matrix_KK,
        groups=pairs.groups,
        config=config.gate.settings,
        weights=weights,
        scores=scores,
        checkpoint=checkpoint,
    )
    reference_K = gate.reference_K if config.gate.reference == "mean" else None
    aggregator = GatedSum(gate.gate, debias.matrix_KK, reference_K=reference_K)
    table = [row.to_dict() for row in debias.table]
    return Mixture(experts, aggregator, beta=gate.beta, debias=table), gate


def _test_heads(
    config: ArmormConfig, rows: Rows, fit: LinearFit, features_of: FeaturesOf
) -> tuple[ObjectiveReport, ...]:
    if not (config.experts.test and rows.heads_test):
        return ()
    return evaluate_experts(
        fit.experts,
        features_of([r.messages for r in rows.heads_test]),
        label_matrix(rows.heads_test, rows.objectives),
        groups=[r.prompt_key for r in rows.heads_test],
        means_K=fit.means_K,
        bootstrap=config.experts.ridge.bootstrap,
        seed=config.seed,
    )


def pairs_of(preferences: Sequence[Preference], features_of: FeaturesOf) -> Pairs:
    """Return the features of both sides of every pair, with prompt keys and sources."""
    return Pairs(
        features_of([p.chosen for p in preferences]),
        features_of([p.rejected for p in preferences]),
        [p.prompt_key for p in preferences],
        [p.source for p in preferences],
    )


def _fit_debias(config: ArmormConfig, experts: LinearExperts, rated: Features, pairs: Pairs) -> Debias:
    target = config.debias.target
    if target is None:
        return Debias.identity(experts.names)
    with torch.no_grad():
        reference_NK = experts(rated if config.debias.reference == "ratings" else pairs.both())
    groups = None if config.debias.reference == "ratings" else [*pairs.groups, *pairs.groups]
    return fit_debias(reference_NK, names=experts.names, target=target, config=config.debias.settings, groups=groups)
