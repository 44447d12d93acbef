"""Stage 1 of a run: ridge heads on ratings, perhaps a preference expert on pairs, and their cross-fitted scores.

The preference expert is a linear Bradley-Terry head that joins the named objectives as one more expert: the part that a
backbone which was itself trained on preferences (FsfairX, for ArmoRM) plays inside every head. It is for backbones that
were not. Its score is 0.5 + 0.2 z, with z its log odds, standardised over its training answers; its rating is the log
odds
themselves, on a scale that reaches 2.5 standard deviations to either side of their mean.

Shapes: N pairs or rated rows, D hidden size, K experts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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
from facetrm.fit.heads.ridge import LinearFit, fit_linear_experts
from facetrm.fit.pairs import expert_scores, pair_weights
from facetrm.model.experts import LengthScale, LinearExperts
from facetrm.recipes.armorm.config import ExpertsSection

_MIDDLE, _SPREAD = 0.5, 0.2


def rated_chunks(
    ratings: Sequence[Rating], stream: FeatureStream, *, hidden_size: int
) -> Callable[[], Iterator[Features]]:
    """Return a function that reads the features of ``ratings`` anew, block by block.

    Args:
        ratings: N rated rows.
        stream: gives the features of conversations block by block.
        hidden_size: D.
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
) -> LinearFit:
    """Fit one ridge head per objective.

    Args:
        section: settings.
        ratings: N rated rows, for prompts and sources.
        rated: their features, whole or in chunks.
        labels_NK: their unit labels.
        objectives: K columns.
        scale: of the length expert, or None.
    """
    return fit_linear_experts(
        rated,
        labels_NK,
        objectives=objectives,
        groups=[r.prompt_key for r in ratings],
        config=section.ridge,
        weights=pair_weights([r.source for r in ratings], balance=section.source_balance),
        length=scale,
    )


def add_preference(
    experts: LinearExperts,
    pairs: StoredPairs,
    *,
    config: BradleyTerryConfig,
    weights: Floats | None,
    folder: Path | None = None,
) -> tuple[LinearExperts, float]:
    """Return the experts with a preference expert behind the objectives, and the ridge strength that was chosen.

    Args:
        experts: K experts; a length expert stays the last one.
        pairs: training pairs.
        config: settings of the head.
        weights: weights of each pair.
        folder: for temporary files.
    """
    fit = fit_bradley_terry_blocks(pairs, groups=pairs.groups, config=config, weights=weights, folder=folder)
    return preference_expert(experts, fit.mixture.linear_experts.weight_KD.double(), pairs), fit.ridge


def preference_expert(experts: LinearExperts, weight_1D: Tensor, pairs: PairBlocks) -> LinearExperts:
    """Return the experts with one more behind the objectives, whose scores are standardised log odds.

    Args:
        experts: K experts; a length expert stays the last one.
        weight_1D: of the log odds, float64.
        pairs: whose answers give mean and deviation.
    """
    sides = [[side.response_NAD[:, 0].double() @ weight_1D[0] for side in block] for block in pairs.blocks()]
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
    )


def standard_scale(odds_N: Tensor, weights_N: Tensor | None = None) -> tuple[float, float]:
    """Return factor and shift with ``factor * odds + shift = 0.5 + 0.2 z``, z standardised over ``odds_N`` [N].

    ``weights_N`` weigh the answers; None counts all alike.
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
    """Return both sides' scores, each pair rated by experts that did not see its prompt.

    Folds go by prompt key, so a prompt that has ratings and pairs is in one fold. In use the model rates prompts that
    its experts never saw; a gate that learned from fitted scores would trust them too much.

    Args:
        section: settings.
        ratings: N rated rows.
        stream: gives the features of conversations block by block.
        labels_NK: unit labels of the ratings.
        objectives: K columns.
        scale: of the length expert, or None.
        pairs: the training pairs.
        linear: settings of the preference expert; None for no such expert.
        weights: weights of each pair.
        folder: for temporary files.
    """
    fold_N = torch.tensor([_fold(r.prompt_key, section.cross_fit) for r in ratings])
    fold_P = torch.tensor([_fold(group, section.cross_fit) for group in pairs.groups])
    quick = section.model_copy(
        update={
            "ridge": section.ridge.model_copy(update={"bootstrap": 0, "unfit": "mean"})
        }  # one fold may lack a source
    )
    sides: list[list[Tensor]] = [[], []]
    rows: list[Tensor] = []
    for fold in range(section.cross_fit):
        kept, here = torch.nonzero(fold_N != fold).flatten(), torch.nonzero(fold_P == fold).flatten()
        part = [ratings[n] for n in kept.tolist()]
        rated = rated_chunks(part, stream, hidden_size=pairs.hidden_size)
        fit = fit_heads(quick, part, rated, labels_NK[kept.numpy()], objectives=objectives, scale=scale)
        experts = fit.experts
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
