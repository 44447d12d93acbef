"""Stage 1 of a run: ridge heads on ratings, an optional preference expert on pairs, and their cross-fitted scores.

The preference expert is a linear Bradley-Terry head that joins the named objectives as one more expert. It is for
backbones that were not trained on preferences; ArmoRM's backbone (FsfairX) was, so its heads know preferences already.
It reads the highest of the layers. The score of the preference expert is 0.5 + 0.2 z, where z is its log odds,
standardised over its training answers. Its rating is the log odds, on a scale of 2.5 standard deviations around their
mean.

Shapes: N pairs or rated rows, D hidden size, K experts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from facetrm.backbone.encoder import Features
from facetrm.core.statistics import Floats
from facetrm.data.objectives import Objective
from facetrm.data.records import Rating
from facetrm.evaluate.stored_pairs import StoredPairs
from facetrm.fit.blocks import FeatureStream, PairBlocks, block_rows
from facetrm.fit.bradley_terry import PREFERENCE, BradleyTerryConfig, fit_bradley_terry_blocks
from facetrm.fit.heads.gram import FeatureSource
from facetrm.fit.heads.layer_choice import LayeredFit, fit_layered_experts
from facetrm.fit.heads.quantile import fit_layered_quantiles
from facetrm.fit.pairs import expert_scores, pair_weights
from facetrm.model.experts import LengthScale, LinearExperts
from facetrm.recipes.armorm.config import ExpertsSection

_MIDDLE, _SPREAD = 0.5, 0.2


def rated_chunks(
    ratings: Sequence[Rating], stream: FeatureStream, *, hidden_size: int
) -> Callable[[], Iterator[Features]]:
    """Return a function that yields the features of ``ratings`` block by block, from the start on each call.

    Args:
        ratings: N rated rows.
        stream: Function from conversations to blocks of features.
        hidden_size: Hidden size D, from which the number of rows per block follows.
    """
    return lambda: stream((r.messages for r in ratings), rows=block_rows(hidden_size))


def fit_heads(
    section: ExpertsSection,
    ratings: Sequence[Rating],
    rated: FeatureSource,
    labels_NK: Floats,
    *,
    objectives: Sequence[Objective],
    scale: LengthScale | None,
) -> LayeredFit:
    """Fit one ridge head per objective, on the last layer or on the best one of several, and maybe quantile heads.

    Args:
        section: Settings of the experts.
        ratings: N rated rows, for their prompts and sources.
        rated: Features of these rows, whole or in blocks.
        labels_NK: Unit labels of these rows, [N, K]; NaN for no label.
        objectives: The K objectives, the columns of the labels.
        scale: Scale of the length expert; None for no such expert.
    """
    weights = pair_weights([r.source for r in ratings], balance=section.source_balance)
    heads = fit_layered_experts(
        rated,
        labels_NK,
        layers=section.layers,
        objectives=objectives,
        groups=[r.prompt_key for r in ratings],
        config=section.ridge,
        weights=weights,
        length=scale,
        uncertainty=section.uncertainty,
    )
    if not section.quantiles:
        return heads
    reads = heads.fit.experts.reads
    found = fit_layered_quantiles(
        rated, labels_NK, reads=reads, objectives=objectives, config=section.quantile, weights=weights
    )
    return replace(heads, quantiles=found)


def add_preference(
    experts: LinearExperts,
    pairs: StoredPairs,
    *,
    config: BradleyTerryConfig,
    weights: Floats | None,
    folder: Path | None = None,
) -> tuple[LinearExperts, float]:
    """Fit a preference expert; return the experts with it after the objectives, and the chosen ridge strength.

    Args:
        experts: The K experts; a length expert stays last.
        pairs: Training pairs.
        config: Settings of the preference expert.
        weights: Weight of each pair; None for equal weights.
        folder: Folder for temporary files; None for the system's temporary folder.
    """
    fit = fit_bradley_terry_blocks(pairs, groups=pairs.groups, config=config, weights=weights, folder=folder)
    return preference_expert(experts, fit.mixture.linear_experts.weight_KD.double(), pairs), fit.ridge


def preference_expert(experts: LinearExperts, weight_1D: Tensor, pairs: PairBlocks) -> LinearExperts:
    """Return the experts with one more after the objectives, whose scores are standardised log odds.

    Args:
        experts: The K experts; a length expert stays last.
        weight_1D: Weights of the log odds, float64, [1, D].
        pairs: Pairs whose answers give mean and standard deviation of the log odds.
    """
    reads = [*experts.reads]
    sides = []
    for block in pairs.blocks():
        sides.append([side.response().double() @ weight_1D[0] for side in block])
        reads[len(experts.reads) :] = [block[0].highest]
    odds_N = torch.cat([chosen for chosen, _ in sides] + [rejected for _, rejected in sides])
    factor, shift = standard_scale(odds_N)
    bias_1 = torch.tensor([shift])
    ends = {"low": -shift / factor, "high": (1.0 - shift) / factor}
    preference = PREFERENCE.model_copy(update=ends)
    rated = experts.objectives[: len(experts.weight_KD)]
    return LinearExperts(
        [*rated, preference],
        torch.cat([experts.weight_KD, (factor * weight_1D).float()]),
        torch.cat([experts.bias_K, bias_1]),
        length=experts.length,
        layers=reads,
    )


def standard_scale(odds_N: Tensor, weights_N: Tensor | None = None) -> tuple[float, float]:
    """Return factor and shift such that ``factor * odds + shift = 0.5 + 0.2 z``, with z the standardised log odds.

    Args:
        odds_N: Log odds of N answers, [N].
        weights_N: Weight of each answer, [N]; None for equal weights.
    """
    w_N = torch.ones_like(odds_N) if weights_N is None else weights_N.to(odds_N)
    mean = float((w_N * odds_N).sum() / w_N.sum())
    spare = 1.0 if weights_N is None else 0.0
    deviation = max(float(((w_N * (odds_N - mean) ** 2).sum() / (w_N.sum() - spare).clamp_min(1e-12)).sqrt()), 1e-12)
    factor = _SPREAD / deviation
    return factor, _MIDDLE - factor * mean


def cross_fitted(
    section: ExpertsSection,
    ratings: Sequence[Rating],
    stream: FeatureStream,
    labels_NK: Floats,
    *,
    objectives: Sequence[Objective],
    scale: LengthScale | None,
    pairs: StoredPairs,
    linear: BradleyTerryConfig | None,
    weights: Floats | None,
    folder: Path | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the scores of the chosen and the rejected answers, each by experts that did not see the pair's prompt.

    The model will score prompts that its experts never saw. A gate that learned from scores on the experts' own
    training prompts would trust them too much. Folds follow the prompt, so ratings and pairs of a prompt share a fold.

    Args:
        section: Settings of the experts.
        ratings: N rated rows.
        stream: Function from conversations to blocks of features.
        labels_NK: Unit labels of the ratings, [N, K]; NaN for no label.
        objectives: The K objectives, the columns of the labels.
        scale: Scale of the length expert; None for no such expert.
        pairs: Training pairs.
        linear: Settings of the preference expert; None for no such expert.
        weights: Weight of each pair; None for equal weights.
        folder: Folder for temporary files; None for the system's temporary folder.
    """
    fold_N = torch.tensor([_fold(r.prompt_key, section.cross_fit) for r in ratings])
    fold_P = torch.tensor([_fold(group, section.cross_fit) for group in pairs.groups])
    quick = section.model_copy(
        update={
            "ridge": section.ridge.model_copy(update={"bootstrap": 0, "unfit": "mean"}),  # a fold may lack a source
            "uncertainty": False,
            "quantiles": False,
        }
    )
    sides: list[list[Tensor]] = [[], []]
    rows: list[Tensor] = []
    for fold in range(section.cross_fit):
        kept, here = torch.nonzero(fold_N != fold).flatten(), torch.nonzero(fold_P == fold).flatten()
        part = [ratings[n] for n in kept.tolist()]
        rated = rated_chunks(part, stream, hidden_size=pairs.hidden_size)
        fit = fit_heads(quick, part, rated, labels_NK[kept.numpy()], objectives=objectives, scale=scale)
        experts = fit.fit.experts
        if linear is not None:
            others = torch.nonzero(fold_P != fold).flatten()
            kept_weights = None if weights is None else weights[others.numpy()]
            experts, _ = add_preference(
                experts, pairs.select(others), config=linear, weights=kept_weights, folder=folder
            )
        if not len(here):
            continue
        rows.append(here)
        for side, scores_NK in zip(sides, expert_scores(experts, pairs.select(here)), strict=True):
            side.append(scores_NK)
    order = torch.argsort(torch.cat(rows))
    return torch.cat(sides[0])[order], torch.cat(sides[1])[order]


def _fold(key: str, folds: int) -> int:
    return int(key[:8], 16) % folds
