"""Preference pairs for the fit of the gate: prompt vectors and the expert scores of both answers.

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
    """N preference pairs with the expert scores of both answers.

    Attributes:
        prompt_ND: prompt vector of each pair.
        chosen_NK: expert scores of the chosen answers.
        rejected_NK: expert scores of the rejected answers.
        weights_N: weight of each pair.
        groups_N: number of each pair's prompt; pairs of one prompt share it.
        tasks_N: task of each pair's prompt; None where it is not known.
    """

    prompt_ND: Vectors
    chosen_NK: Tensor
    rejected_NK: Tensor
    weights_N: Tensor
    groups_N: NDArray[np.int64]
    tasks_N: NDArray[np.object_]

    def __len__(self) -> int:
        return len(self.prompt_ND)

    def select(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> ScoredPairs:
        """Return some of the pairs: those with the indices ``rows``, in that order, or those where ``rows`` is True."""
        index = torch.from_numpy(np.flatnonzero(rows) if rows.dtype == np.bool_ else rows)
        return ScoredPairs(
            select_rows(self.prompt_ND, index),
            self.chosen_NK[index],
            self.rejected_NK[index],
            self.weights_N[index],
            self.groups_N[index.numpy()],
            self.tasks_N[index.numpy()],
        )

    def difference(self, debias_KK: Tensor) -> Floats:
        """Return the debiased scores of the chosen answers minus those of the rejected ones, [N, K], in float64."""
        difference_NK = (self.chosen_NK.double() - self.rejected_NK.double()) @ debias_KK.double()
        return np.asarray(difference_NK.numpy(), dtype=np.float64)

    def typical_scores(self) -> Tensor:
        """Return the mean scores of all answers, [K]; each answer has the weight of its pair."""
        total = self.weights_N.double() @ (self.chosen_NK.double() + self.rejected_NK.double())
        return (total / (2.0 * self.weights_N.double().sum())).float()

    def fingerprint(self) -> str:
        """Return the sha256 of all tensors."""
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
    tasks: Sequence[str | None] | None = None,
) -> ScoredPairs:
    """Score both answers of each pair with the experts, or use the given scores.

    Args:
        chosen: features of the chosen answers of N pairs.
        rejected: features of the rejected answers, in the same order and for the same prompts.
        experts: the K experts.
        groups: prompt key of each pair, [N].
        weights: weight of each pair, [N]; None for equal weights.
        scores: expert scores of the chosen and the rejected answers, [N, K] each; None computes them with ``experts``.
        tasks: task of each pair, [N]; None where it is not known.

    Returns:
        The pairs with prompt vectors, scores and weights.

    Raises:
        FitError: no pair, different numbers of rows or tasks, two answers with different prompts, a weight that is
            negative or not finite, or a feature that is not finite.
    """
    if not len(chosen) or len(rejected) != len(chosen) or len(groups) != len(chosen):
        raise FitError(
            f"{len(chosen)} chosen, {len(rejected)} rejected, {len(groups)} prompt groups",
            place=_PLACE,
            fix="give one of each per pair, and at least one pair",
        )
    return _scored([(chosen, rejected)], len(chosen), experts, groups, weights, scores, tasks, None)


def score_pair_blocks(
    pairs: PairBlocks,
    *,
    experts: Experts,
    groups: Sequence[str],
    weights: ArrayLike | None,
    scores: tuple[Tensor, Tensor] | None = None,
    tasks: Sequence[str | None] | None = None,
    folder: Path | None = None,
) -> ScoredPairs:
    """Score pairs block by block, as :func:`score_pairs` does for pairs in memory.

    Scores stay in memory. Prompt vectors go to a temporary file if they are too large.

    Args:
        pairs: N pairs.
        experts: the K experts.
        groups: prompt key of each pair, [N].
        weights: weight of each pair, [N]; None for equal weights.
        scores: expert scores of the chosen and the rejected answers, [N, K] each; None computes them with ``experts``.
        tasks: task of each pair, [N]; None where it is not known.
        folder: folder of the temporary file; None for the system's temporary folder.

    Returns:
        The pairs with prompt vectors, scores and weights.

    Raises:
        FitError: the same errors as in :func:`score_pairs`.
    """
    if not len(pairs) or len(groups) != len(pairs):
        raise FitError(
            f"{len(pairs)} pairs, {len(groups)} prompt groups",
            place=_PLACE,
            fix="give one of each per pair, and at least one pair",
        )
    return _scored(pairs.blocks(), len(pairs), experts, groups, weights, scores, tasks, folder)


def expert_scores(experts: Experts, pairs: PairBlocks) -> tuple[Tensor, Tensor]:
    """Return the expert scores of the chosen and of the rejected answers, [N, K] each.

    Args:
        experts: the K experts.
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
    tasks: Sequence[str | None] | None,
    folder: Path | None,
) -> ScoredPairs:
    if tasks is not None and len(tasks) != n:
        raise FitError(f"{len(tasks)} tasks for {n} pairs", place=_PLACE, fix="give one task per pair, or None")
    w_N = torch.ones(n) if weights is None else torch.as_tensor(np.asarray(weights), dtype=torch.float32)
    if tuple(w_N.shape) != (n,) or not bool(torch.isfinite(w_N).all()) or bool((w_N < 0).any()) or not float(w_N.sum()):
        raise FitError("the weights are not one finite number >= 0 per pair", place=_PLACE, fix="correct the weights")
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
    return ScoredPairs(prompt_ND, chosen_NK, rejected_NK, w_N, codes.astype(np.int64), _of_prompts(codes, tasks))


def _of_prompts(codes_N: NDArray[np.int64], tasks: Sequence[str | None] | None) -> NDArray[np.object_]:
    """Return the task of each pair's prompt: the first one that a pair of the prompt names."""
    named: dict[int, str] = {}
    for code, task in zip(codes_N.tolist(), tasks or (), strict=False):
        if task is not None:
            named.setdefault(code, task)
    found_N = np.empty(len(codes_N), dtype=object)
    found_N[:] = [named.get(code) for code in codes_N.tolist()]
    return found_N


def _check_finite(name: str, tensor: Tensor, start: int) -> None:
    bad = torch.nonzero(~torch.isfinite(tensor).all(dim=1)).flatten().tolist()
    if bad:
        raise FitError(f"{name} features of pair {start + bad[0]} are not finite", place=_PLACE, fix="encode it again")


def _check_prompts(chosen: Features, rejected: Features, start: int) -> None:
    """Check the prompt vectors of a block whose first pair has the index ``start``."""
    _check_finite("prompt", chosen.prompt_ND, start)
    gap_N = (chosen.prompt_ND - rejected.prompt_ND).norm(dim=1) / chosen.prompt_ND.norm(dim=1).clamp_min(1e-6)
    # a long answer truncates its prompt, so the two prompt texts can differ
    gap_N = gap_N.masked_fill(chosen.truncated_N | rejected.truncated_N, 0.0)
    if float(gap_N.max()) > 0.05:
        raise FitError(
            f"the two sides of pair {start + int(gap_N.argmax())} have different prompt features",
            place=_PLACE,
            fix="pair answers to the same prompt, encoded with the same settings",
        )


def hold_out(groups_N: NDArray[np.int64], share: float, *, seed: int) -> NDArray[np.bool_]:
    """Choose the rows to hold out. Rows of one group are held out together.

    Args:
        groups_N: group number of each row, [N].
        share: share of the groups to hold out, 0 to 1; at least one group is held out, and never all.
        seed: random seed of the choice.

    Returns:
        True for the rows that are held out, [N].

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
    """Return the weight of each pair, [N], with mean 1.

        weight = strength * (number of pairs of its source) ** -balance

    Strengths that come from margins are bounded (see :func:`facetrm.data.read.pairs.clearness`), so no single pair can
    dominate the fit.

    Args:
        sources: source of each pair, [N].
        balance: 0 gives every pair the same weight, 1 every source the same total weight.
        strengths: strength of each preference, 0 to 1, [N]. A pair with strength None gets the mean of the others. None
            for the whole list ignores strengths.

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
