"""ArmoRM, from ratings and preferences to an interpretable reward model, as a straight line.

    ratings, preferences -> features -> experts -> debiasing -> gate -> model and baselines

Reference: ArmoRM (arXiv 2406.12845). The docstring of each part says where it differs from the paper.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from facetrm.backbone.encoder import LAST, Encoder, Features, Layer
from facetrm.backbone.read_with import ReadWith
from facetrm.backbone.store import FeatureStore, encode
from facetrm.backbone.transformer import TransformerEncoder, load_encoder
from facetrm.core.errors import ConfigError
from facetrm.core.progress import log
from facetrm.core.statistics import Floats
from facetrm.data.objectives import label_matrix
from facetrm.data.records import Conversation
from facetrm.data.world import World
from facetrm.evaluate.compare import Pairs
from facetrm.evaluate.stored_pairs import StoredPairs
from facetrm.fit.blocks import FeatureStream
from facetrm.fit.debias import Debias, fit_debias
from facetrm.fit.gate.fit import GateFit, fit_scored_gate
from facetrm.fit.heads.layer_choice import LayeredFit, LayerRow
from facetrm.fit.heads.objective_report import ObjectiveReport
from facetrm.fit.heads.ridge import evaluate_experts
from facetrm.fit.pairs import expert_scores, score_pair_blocks
from facetrm.fit.rankings import preference_weights
from facetrm.model.aggregate import GatedSum
from facetrm.model.experts import LengthScale, LinearExperts
from facetrm.model.mixture import Mixture
from facetrm.model.reward_model import RewardModel
from facetrm.model.uncertainty.reward_uncertainty import RewardUncertainty
from facetrm.model.validity import VALIDITY, Validity, validity_of
from facetrm.recipes.armorm.config import ArmormConfig, ExpertsSection
from facetrm.recipes.armorm.heads import add_preference, cross_fitted, fit_heads, rated_chunks
from facetrm.recipes.armorm.held_out_coverage import HeldOutCoverage, held_out_coverage
from facetrm.recipes.armorm.rows import Rows, load_rows
from facetrm.recipes.backbones import train_tiny
from facetrm.recipes.reading import RowsReader, as_ties


@dataclass
class Stopwatch:
    """Measures the time of each stage.

    Attributes:
        seconds: Duration of each stage, in seconds, in order.
    """

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Add the time spent inside the context to ``stage``."""
        start = time.monotonic()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.monotonic() - start
        log("stage", name=stage, seconds=round(self.seconds[stage], 1))


@dataclass(frozen=True)
class ArmormFit:
    """The fitted parts of an ArmoRM, and the pairs they were fitted and are tested on.

    Attributes:
        model: The reward model, ready to score.
        reports: Report of each expert, out of fold.
        test_reports: Report of each expert on held-out ratings; empty if there are none.
        layers: How well each layer suits each objective; empty if there was only one layer.
        coverage: How well deviations and quantiles fit the held-out ratings; empty if there are none.
        debias: Fitted debiasing.
        gate: Fitted gate.
        gate_pairs: Training pairs of the gate; their features are read block by block.
        test_pairs: Features of the test pairs.
        weights: Weight of each training pair; None for equal weights.
        scores: Cross-fitted scores of the chosen and rejected answers, from which the gate learned; None without
            cross-fitting.
        folder: Folder for temporary files of later fits; None for the system's temporary folder.
    """

    model: RewardModel
    reports: tuple[ObjectiveReport, ...]
    test_reports: tuple[ObjectiveReport, ...]
    debias: Debias
    gate: GateFit
    gate_pairs: StoredPairs
    test_pairs: Pairs
    weights: Floats | None
    scores: tuple[Tensor, Tensor] | None
    folder: Path | None = None
    layers: tuple[LayerRow, ...] = ()
    coverage: tuple[HeldOutCoverage, ...] = ()

    @property
    def mixture(self) -> Mixture:
        """The gated mixture."""
        return self.model.mixture()

    @property
    def validity(self) -> dict[str, Validity]:
        """How well each objective's ratings are predicted on held-out rows."""
        return validity_of(self.model.provenance)


def prepare(config: ArmormConfig, folder: Path, watch: Stopwatch) -> tuple[Rows, Encoder, FeatureStore, dict[str, Any]]:
    """Read the data, load or train the backbone, and put the features of every row on disk.

    Args:
        config: Settings of the run.
        folder: Folder of the run.
        watch: Stopwatch that receives the time of each stage.

    Returns:
        The rows without training pairs whose answers read the same, the encoder, the feature store, and cost and
        figures of the backbone's training (empty if the run did not train it).

    Raises:
        FacetrmError: A step failed; the error names value, place and fix.
    """
    with watch("data"):
        rows = load_rows(config.data, seed=config.seed)
        _check_tasks(config, rows)
    with watch("backbone"):
        training: dict[str, Any] = {}
        encoder: Encoder
        if config.tiny is not None and isinstance(rows.world, World):
            encoder, training = train_tiny(config.tiny, rows.world, folder / "backbone", seed=config.seed)
        elif config.backbone is not None:
            encoder = load_encoder(config.backbone)
        else:
            raise ConfigError("no backbone", place="recipe", fix="give the section 'backbone' or 'tiny'")
    with watch("encode"):
        kept = folder / "features" if config.features.folder is None else Path(config.features.folder)
        store = encode(
            encoder,
            conversations(rows),
            kept,
            layers=config.experts.layers,
            shard_rows=config.features.shard_rows,
            dtype=config.features.dtype,
        )
    with watch("reading"):
        rows = readable_rows(rows, encoder)
    return rows, encoder, store, training


def _check_tasks(config: ArmormConfig, rows: Rows) -> None:
    """Check, before anything is encoded, that a gate that is to tell tasks apart has two of them."""
    tasks = {pair.task for pair in rows.gate} - {None}
    if config.gate.settings.directions == "tasks" and len(tasks) < 2:
        raise ConfigError(
            f"the training pairs name {len(tasks)} task{'' if len(tasks) == 1 else 's'}",
            place="gate.settings.directions",
            fix="give the pairs a field 'task' with at least two names, or set gate.settings.directions to 'variance'",
        )


def conversations(rows: Rows) -> list[Conversation]:
    """Return every conversation of a run, in a fixed order."""
    rated = [r.messages for part in (rows.heads, rows.heads_test) for r in part]
    return rated + [c for part in (rows.gate, rows.test) for p in part for c in (p.chosen, p.rejected)]


def readable_rows(rows: Rows, encoder: Encoder) -> Rows:
    """Return the rows without training pairs whose answers read the same, with the counts of what was read.

    Args:
        rows: Data of the run.
        encoder: Encoder whose tokens decide which answers read the same.
    """
    reader = RowsReader(encoder)
    reader.ratings([*rows.heads, *rows.heads_test])
    gate = reader.training(rows.gate)
    return replace(rows, gate=gate, reading=reader.done(rows.test))


def stream_of(encoder: Encoder, layers: Sequence[Layer] = (LAST,)) -> FeatureStream:
    """Return a stream of features that does not store them, but computes them again each time.

    Args:
        encoder: Encoder that computes the features.
        layers: Layers at which the responses are read.
    """
    read = ReadWith.of(encoder, None, layers)

    def stream(conversations: Iterable[Conversation], *, rows: int) -> Iterator[Features]:
        source = iter(conversations)
        while part := list(islice(source, rows)):
            yield read.read(encoder, part, lambda rows, tokens: None)

    return stream


def fit_parts(
    config: ArmormConfig,
    rows: Rows,
    encoder: Encoder,
    stream: FeatureStream,
    watch: Stopwatch,
    *,
    checkpoint: Path | None = None,
    folder: Path | None = None,
) -> ArmormFit:
    """Fit experts, debiasing and gate on rows whose features come block by block.

    Memory holds one block of features, one Gram matrix per fold, the labels and scores of all rows, and the features of
    the held-out pairs.

    Args:
        config: Settings of the run.
        rows: Data of the run.
        encoder: Encoder of the model that is returned.
        stream: Function from conversations to blocks of features, such as that of a feature store.
        watch: Stopwatch that receives the time of each stage.
        checkpoint: File from which an interrupted fit of the gate resumes; None for no checkpoint.
        folder: Folder for temporary files of the fits; None for the system's temporary folder.

    Returns:
        The fitted parts and the model.
    """
    hidden = encoder.hidden_size
    with watch("experts"):
        section, labels_NK = _known_layers(config.experts, encoder), label_matrix(rows.heads, rows.objectives)
        rated = rated_chunks(rows.heads, stream, hidden_size=hidden)
        pairs = StoredPairs.of(rows.gate, stream, hidden_size=hidden)
        weights = preference_weights(rows.gate, balance=config.gate.source_balance, strength=config.gate.strength)
        scale = _length_scale(section, rated)
        chosen = fit_heads(section, rows.heads, rated, labels_NK, objectives=rows.objectives, scale=scale)
        fit = chosen.fit
        experts, linear = fit.experts, config.compare.linear
        if section.preference:
            experts, ridge = add_preference(experts, pairs, config=linear, weights=weights, folder=folder)
            linear = linear.model_copy(update={"ridges": (ridge,)})
        tested, covered = _test_heads(config, rows, chosen, rated_chunks(rows.heads_test, stream, hidden_size=hidden))
    with watch("cross-fit"):
        scores = None
        if section.cross_fit:
            scores = cross_fitted(
                section,
                rows.heads,
                stream,
                labels_NK,
                objectives=rows.objectives,
                scale=scale,
                pairs=pairs,
                linear=linear if section.preference else None,
                weights=weights,
                folder=folder,
            )
    with watch("debias"):
        debias = _fit_debias(config, experts, rated, pairs)
    with watch("gate"):
        mixture, gate = fit_mixture(
            config,
            experts,
            debias,
            pairs,
            weights=weights,
            scores=scores,
            checkpoint=checkpoint,
            folder=folder,
            seeds=config.gate.seeds,
            known=RewardUncertainty.of(posterior=fit.posterior, gates=(), quantiles=chosen.quantiles),
        )
    test = StoredPairs.of(rows.test, stream, hidden_size=hidden).whole()
    if rows.reading is not None and isinstance(encoder, TransformerEncoder):
        test = as_ties(test, rows.reading.equal_test)
    provenance = _provenance(config, rows, debias, tested or fit.reports)
    model = RewardModel(encoder, {"all": mixture}, provenance=provenance)
    table = chosen.table
    return ArmormFit(model, fit.reports, tested, debias, gate, pairs, test, weights, scores, folder, table, covered)


def _length_scale(section: ExpertsSection, rated: Callable[[], Iterator[Features]]) -> LengthScale | None:
    """Return the scale of the length expert from the rated answers; None without such an expert."""
    if not section.length:
        return None
    length_N = torch.cat([chunk.length_N for chunk in rated()])
    return LengthScale.covering(length_N, direction=section.length_direction)


def _provenance(config: ArmormConfig, rows: Rows, debias: Debias, reports: Sequence[ObjectiveReport]) -> dict[str, Any]:
    """Return what the manifest of the model says about its making."""
    return {
        "recipe": config.model_dump(mode="json", exclude={"features": {"folder"}}),
        "data": rows.hash,
        "debias_target": debias.target,
        VALIDITY: {report.name: report.validity.to_dict() for report in reports},
    }


def _known_layers(section: ExpertsSection, encoder: Encoder) -> ExpertsSection:
    """Return the settings with the layers as ``encoder`` names them."""
    found = ReadWith.of(encoder, None, section.layers).layers
    return section.model_copy(update={"layers": found or (LAST,)})


def fit_mixture(
    config: ArmormConfig,
    experts: LinearExperts,
    debias: Debias,
    pairs: StoredPairs,
    *,
    weights: Floats | None,
    scores: tuple[Tensor, Tensor] | None,
    checkpoint: Path | None = None,
    folder: Path | None = None,
    seeds: int = 1,
    known: RewardUncertainty | None = None,
) -> tuple[Mixture, GateFit]:
    """Fit the gate, and return the mixture of experts, debiasing and gate, and the fit.

    Args:
        config: Settings of the run.
        experts: The K experts.
        debias: Fitted debiasing.
        pairs: Training pairs.
        weights: Weight of each pair; None for equal weights.
        scores: Scores of the chosen and the rejected answers, each [N, K], to learn from instead of the experts' own,
            such as cross-fitted ones.
        checkpoint: File from which an interrupted fit resumes; None for no checkpoint.
        folder: Folder for temporary files; None for the system's temporary folder.
        seeds: Number of gates to fit; the mixture keeps those after the first only for the spread of its rewards.
        known: Posterior and quantile heads of the experts; None for none.
    """
    tasks = [pair.task for pair in pairs.preferences]
    scored = score_pair_blocks(
        pairs, experts=experts, groups=pairs.groups, weights=weights, scores=scores, tasks=tasks, folder=folder
    )
    settings, fitted = config.gate.settings, partial(fit_scored_gate, experts=experts, debias_KK=debias.matrix_KK)
    gate = fitted(scored, config=settings, checkpoint=checkpoint)
    others = [
        fitted(scored, config=settings.model_copy(update={"seed": settings.seed + n})).gate for n in range(1, seeds)
    ]
    posterior = None if known is None or known.posterior is None else known.posterior.among(len(experts.names))
    uncertainty = RewardUncertainty.of(
        posterior=posterior, gates=others, quantiles=None if known is None else known.quantiles
    )
    reference_K = gate.reference_K if config.gate.reference == "mean" else None
    aggregator = GatedSum(gate.gate, debias.matrix_KK, reference_K=reference_K)
    table = [row.to_dict() for row in debias.table]
    return Mixture(experts, aggregator, beta=gate.beta, debias=table, uncertainty=uncertainty), gate


def _test_heads(
    config: ArmormConfig, rows: Rows, heads: LayeredFit, chunks: Callable[[], Iterator[Features]]
) -> tuple[tuple[ObjectiveReport, ...], tuple[HeldOutCoverage, ...]]:
    """Return the reports of the heads on held-out ratings, and how well their deviations fit them."""
    if not (config.experts.test and rows.heads_test):
        return (), ()
    labels_NK = label_matrix(rows.heads_test, rows.objectives)
    reports = evaluate_experts(
        heads.fit.experts,
        chunks,
        labels_NK,
        groups=[r.prompt_key for r in rows.heads_test],
        means_K=heads.fit.means_K,
        bootstrap=config.experts.ridge.bootstrap,
        seed=config.seed,
    )
    training_NK = label_matrix(rows.heads, rows.objectives)
    return reports, held_out_coverage(heads, chunks, labels_NK, objectives=rows.objectives, training_NK=training_NK)


def _fit_debias(
    config: ArmormConfig, experts: LinearExperts, rated: Callable[[], Iterator[Features]], pairs: StoredPairs
) -> Debias:
    target = config.debias.target
    if target is None:
        return Debias.identity(experts.names)
    if config.debias.reference == "ratings":
        with torch.no_grad():
            reference_NK = torch.cat([experts(chunk) for chunk in rated()])
        groups = None
    else:
        reference_NK, groups = torch.cat(expert_scores(experts, pairs)), [*pairs.groups, *pairs.groups]
    return fit_debias(reference_NK, names=experts.names, target=target, config=config.debias.settings, groups=groups)
