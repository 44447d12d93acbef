"""Preference pairs as the gate's fit reads them: prompt vectors and both answers' expert scores.

Shapes: N pairs, D hidden size, R gate input size, K objectives.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from facetrm.backbone.encoder import Features
from facetrm.core.errors import FitError
from facetrm.core.statistics import Floats
from facetrm.fit.blocks import PairBlocks, Vectors, gather, row_blocks, select_rows
from facetrm.model.kinds import Experts

_PLACE: Final = "preference pairs"


@dataclass(frozen=True)
class ScoredPairs:
    """N pairs: one prompt vector and two rows of scores each, with the pair's weight and its prompt's group number."""

    prompt_ND: Vectors
    chosen_NK: Tensor
    rejected_NK: Tensor
    weights_N: Tensor
    groups_N: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.prompt_ND)

    def select(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> ScoredPairs:
        """Return the pairs named by ``rows``, in that order."""
        index = torch.from_numpy(np.flatnonzero(rows) if rows.dtype == np.bool_ else rows)
        return ScoredPairs(
            select_rows(self.prompt_ND, index),
            self.chosen_NK[index],
            self.rejected_NK[index],
            self.weights_N[index],
            self.groups_N[index.numpy()],
        )

    def difference(self, debias_KK: Tensor) -> Floats:
        """Return debiased scores, chosen minus rejected, [N, K] in float64."""
        difference_NK = (self.chosen_NK.double() - self.rejected_NK.double()) @ debias_KK.double()
        return np.asarray(difference_NK.numpy(), dtype=np.float64)

    def typical_scores(self) -> Tensor:
        """Return the mean scores of all answers, [K], where each weighs as its pair does in the fit."""
        total = self.weights_N.double() @ (self.chosen_NK.double() + self.rejected_NK.double())
        return (total / (2.0 * self.weights_N.double().sum())).float()

    def fingerprint(self) -> str:
        """Return the sha256 of all that a fit reads."""
        digest = hashlib.sha256()
        for vectors in (self.prompt_ND, self.chosen_NK, self.rejected_NK, self.weights_N):
            digest.update(str(tuple(vectors.shape)).encode())
            for _, block in row_blocks(vectors):
                digest.update(block.contiguous().numpy().tobytes())
        digest.update(self.groups_N.tobytes())
        return digest.hexdigest()


def score_pairs(
    chosen: Features,
    rejected: Features,
    *,
    experts: Experts,
    groups: Sequence[str],
    weights: ArrayLike | None,
    scores: tuple[Tensor, Tensor] | None = None,
) -> ScoredPairs:
    """Let the experts rate both answers of each pair, or take the given ``scores`` in their place.

    Args:
        chosen: features of the N better answers.
        rejected: features of the worse ones, pair by pair, with the same prompts.
        experts: K raters.
        groups: prompt key of each pair.
        weights: weight of each pair, [N]; None for all alike.
        scores: both sides' scores, [N, K] each; None lets the experts rate.

    Raises:
        FitError: sides of different length or with different prompts, no pair, a weight that is negative or not finite,
            or a feature that is not finite.
    """
    if not len(chosen) or len(rejected) != len(chosen) or len(groups) != len(chosen):
        raise FitError(
            f"{len(chosen)} chosen, {len(rejected)} rejected, {len(groups)} prompt groups",
            place=_PLACE,
            fix="give one of each per pair, and at least one pair",
        )
    return _scored([(chosen, rejected)], len(chosen), experts, groups, weights, scores, None)


def score_pair_blocks(
    pairs: PairBlocks,
    *,
    experts: Experts,
    groups: Sequence[str],
    weights: ArrayLike | None,
    scores: tuple[Tensor, Tensor] | None = None,
    folder: Path | None = None,
) -> ScoredPairs:
    """Do the same block by block: scores stay in memory, prompt vectors only while they are few.

    Args:
        pairs: N pairs.
        experts: K raters.
        groups: prompt key of each pair.
        weights: weight of each pair, [N]; None for all alike.
        scores: both sides' scores, [N, K] each; None lets the experts rate.
        folder: where a temporary file holds the prompt vectors; None for the system's temporary folder.

    Raises:
        FitError: as :func:`score_pairs`.
    """
    if not len(pairs) or len(groups) != len(pairs):
        raise FitError(
            f"{len(pairs)} pairs, {len(groups)} prompt groups",
            place=_PLACE,
            fix="give one of each per pair, and at least one pair",
        )
    return _scored(pairs.blocks(), len(pairs), experts, groups, weights, scores, folder)


def expert_scores(experts: Experts, pairs: PairBlocks) -> tuple[Tensor, Tensor]:
    """Return both sides' scores of N pairs, [N, K] each: the better answers, and the worse ones.

    Args:
        experts: K raters.
        pairs: N pairs.
    """
    with torch.no_grad():
        sides = [(experts(chosen), experts(rejected)) for chosen, rejected in pairs.blocks()]
    return torch.cat([chosen for chosen, _ in sides]), torch.cat([rejected for _, rejected in sides])


def _scored(
    blocks: Iterable[tuple[Features, Features]],
    n: int,
    experts: Experts,
    groups: Sequence[str],
    weights: ArrayLike | None,
    scores: tuple[Tensor, Tensor] | None,
    folder: Path | None,
) -> ScoredPairs:
    w_N = torch.ones(n) if weights is None else torch.as_tensor(np.asarray(weights), dtype=torch.float32)
    if tuple(w_N.shape) != (n,) or not bool(torch.isfinite(w_N).all()) or bool((w_N < 0).any()) or not float(w_N.sum()):
        raise FitError("the weights are not one finite number >= 0 per pair", place=_PLACE, fix="fix the weights")
    rated: list[tuple[Tensor, Tensor]] = [] if scores is None else [scores]

    def prompts() -> Iterator[Tensor]:
        start = 0
        for chosen, rejected in blocks:
            if scores is None:
                with torch.no_grad():
                    rated.append((experts(chosen), experts(rejected)))
            _check_prompts(chosen, rejected, start)
            start += len(chosen)
            yield chosen.prompt_ND.float()

    prompt_ND = gather(prompts(), rows=n, folder=folder)
    chosen_NK, rejected_NK = (torch.cat(side) if len(side) > 1 else side[0] for side in zip(*rated, strict=True))
    wanted = (n, len(experts.names))
    if tuple(chosen_NK.shape) != wanted or tuple(rejected_NK.shape) != wanted:
        raise FitError(
            f"scores of shapes {tuple(chosen_NK.shape)} and {tuple(rejected_NK.shape)}, not {wanted}",
            place=_PLACE,
            fix="give one row per pair and one column per expert",
        )
    for name, tensor in (("chosen", chosen_NK), ("rejected", rejected_NK)):
        _check_finite(name, tensor, 0)
    _, codes = np.unique(np.asarray(groups), return_inverse=True)
    return ScoredPairs(prompt_ND, chosen_NK, rejected_NK, w_N, codes.astype(np.int64))


def _check_finite(name: str, tensor: Tensor, start: int) -> None:
    bad = torch.nonzero(~torch.isfinite(tensor).all(dim=1)).flatten().tolist()
    if bad:
        raise FitError(f"{name} features of pair {start + bad[0]} are not finite", place=_PLACE, fix="encode it again")


def _check_prompts(chosen: Features, rejected: Features, start: int) -> None:
    """Check the prompts of a block that begins with pair ``start``."""
    _check_finite("prompt", chosen.prompt_ND, start)
    gap_N = (chosen.prompt_ND - rejected.prompt_ND).norm(dim=1) / chosen.prompt_ND.norm(dim=1).clamp_min(1e-6)
    gap_N = gap_N.masked_fill(chosen.truncated_N | rejected.truncated_N, 0.0)  # cut by its answer: not the same text
    if float(gap_N.max()) > 0.05:
        raise FitError(
            f"the two sides of pair {start + int(gap_N.argmax())} have different prompt features",
            place=_PLACE,
            fix="pair answers to the same prompt, encoded with the same settings",
        )


def hold_out(groups_N: NDArray[np.int64], share: float, *, seed: int) -> NDArray[np.bool_]:
    """Return which rows are held out: whole groups, ``share`` of them (at least one, and never all).

    Raises:
        FitError: fewer than two groups.
    """
    names = np.unique(groups_N)
    if len(names) < 2:
        raise FitError("one prompt cannot be split", place="preference pairs", fix="give pairs of two or more prompts")
    count = min(max(round(share * len(names)), 1), len(names) - 1)
    chosen = np.random.default_rng(seed).permutation(names)[:count]
    return np.isin(groups_N, chosen)


def pair_weights(
    sources: Sequence[str], *, balance: float = 0.0, strengths: Sequence[float | None] | None = None
) -> Floats:
    """Return weights of pairs, mean 1.

        weight = strength * (pairs of its source) ** -balance

    Strengths that come from margins are bounded (see :func:`facetrm.data.read.pairs.clearness`), so no single pair can
    silence the others.

    Args:
        sources: source of each pair.
        balance: 0 counts every pair alike, 1 every source alike, values between compromise.
        strengths: how clear each preference is, in [0, 1]; None for a pair that does not say: it counts as the mean of
            those that do. None for the whole list weighs all alike.

    Raises:
        FitError: balance outside [0, 1], a strength outside [0, 1], or no pair with a strength above 0.
    """
    if not 0.0 <= balance <= 1.0:
        raise FitError(f"balance is {balance}", place="pair weights", fix="give a number in [0, 1]")
    _, codes, counts = np.unique(np.asarray(sources), return_inverse=True, return_counts=True)
    weights = counts[codes].astype(np.float64) ** -balance
    if strengths is not None:
        weights = weights * _strengths(strengths)
    return np.asarray(weights / weights.mean(), dtype=np.float64) if len(weights) else weights


def _strengths(strengths: Sequence[float | None]) -> Floats:
    given = np.array([strength for strength in strengths if strength is not None], dtype=np.float64)
    if not len(given):
        return np.ones(len(strengths))
    if not np.all((given >= 0.0) & (given <= 1.0)) or not given.max() > 0.0:
        raise FitError(
            f"strengths lie in {given.min():g}..{given.max():g}",
            place="pair weights",
            fix="give numbers in [0, 1], one of them above 0, or set gate.strength to false",
        )
    mean = float(given.mean())
    return np.array([mean if strength is None else strength for strength in strengths], dtype=np.float64)
