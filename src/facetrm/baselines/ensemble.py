"""Ensembles: combine the rewards of several models, trained with different seeds, into one conservative reward.

    z_mn         = (r_mn - mean_m) / deviation_m        over a reference set, so that all members count equally
    mean         = mean_m z_mn
    median       = median_m z_mn
    worst        = min_m z_mn                            worst-case optimisation (WCO)
    uncertainty  = mean_m z_mn - penalty * var_m z_mn    uncertainty-weighted optimisation (UWO)

Both the deviation and the variance are those of a population (``ddof=0``). The code of Coste et al. uses the population
variance in best-of-n (``np.var``) but the sample variance in PPO (``torch.var``), which is M / (M - 1) times as large:
its penalty of 0.1 in PPO is one of 0.125 here, for five members.

Shapes: M members, N answers, R reference answers, P labelled pairs.

Reference: Coste et al., Reward Model Ensembles Help Mitigate Overoptimization (arXiv 2310.02743); Eisenstein et al.,
Helping or Herding? (arXiv 2312.09244), for the median and for errors that members share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final, Literal, final, get_args

import numpy as np
from numpy.typing import ArrayLike

from facetrm.baselines.groups import bare_score
from facetrm.baselines.named import check_single, scorer_hash
from facetrm.core.errors import ConfigError, FitError, short
from facetrm.core.fingerprint import fingerprint
from facetrm.core.statistics import Floats, win_credit
from facetrm.data.records import Conversation
from facetrm.model.output import Score, Scorer

EnsembleKind = Literal["mean", "median", "worst", "uncertainty"]

DISAGREEMENT: Final = "disagreement"
"""Name of the contribution ``-penalty * variance`` to the reward of an ``uncertainty`` ensemble."""


def ensemble_rewards(
    rewards_MN: Floats, *, reference_MR: Floats, kind: EnsembleKind = "mean", penalty: float = 0.5
) -> Floats:
    """Return one reward per answer, [N].

    Args:
        rewards_MN: Reward of each answer by each member, [M, N].
        reference_MR: Reward of each of R reference answers by each member, [M, R]. They give each member's mean and
            standard deviation; training answers are a good choice.
        kind: How the members' rewards are combined.
        penalty: Weight of the variance, for ``uncertainty``.

    Raises:
        FitError: There are fewer than two members, the shapes do not match, or a member gives all reference answers the
            same reward.
        ConfigError: The kind is unknown.
    """
    rewards, reference = np.asarray(rewards_MN, dtype=np.float64), np.asarray(reference_MR, dtype=np.float64)
    if rewards.ndim != 2 or reference.ndim != 2 or len(rewards) != len(reference) or len(rewards) < 2:
        raise FitError(
            f"rewards of shape {rewards.shape} with a reference of shape {reference.shape}",
            place="ensemble",
            fix="give both one row per member, and at least two members",
        )
    mean_M, deviation_M = _moments(reference)
    z_MN = (rewards - mean_M[:, None]) / deviation_M[:, None]
    return np.asarray(_parts(z_MN, kind, penalty).sum(axis=0))


def _moments(reference_MR: Floats) -> tuple[Floats, Floats]:
    """Return the mean and the standard deviation of each member's rewards, each [M]."""
    deviation_M = reference_MR.std(axis=1)
    if not (np.isfinite(deviation_M).all() and (deviation_M > 0).all()):
        member = int(np.argmin(np.where(np.isfinite(deviation_M), deviation_M, -1.0)))
        raise FitError(f"member {member} gives all answers the same reward", place="ensemble", fix="train it again")
    return reference_MR.mean(axis=1), deviation_M


def _parts(z_MN: Floats, kind: EnsembleKind, penalty: float) -> Floats:
    """Return each member's part of the reward and the part of their disagreement, [M + 1, N]; a column sums to it."""
    members, answers = z_MN.shape
    weights_MN = np.full((members, answers), 1.0 / members)
    last_N = np.zeros(answers)
    if kind in ("median", "worst"):
        middle = [0] if kind == "worst" else sorted({(members - 1) // 2, members // 2})
        order_MN = np.argsort(z_MN, axis=0, kind="stable")
        weights_MN[:] = 0.0
        np.put_along_axis(weights_MN, order_MN[middle], 1.0 / len(middle), axis=0)
    elif kind == "uncertainty":
        last_N = -penalty * z_MN.var(axis=0)
    elif kind != "mean":
        raise ConfigError(
            f"unknown kind {short(kind)}", place="ensemble", fix=f"use {', '.join(get_args(EnsembleKind))}"
        )
    parts_MN = np.where(np.isnan(z_MN).any(axis=0), z_MN / members, weights_MN * z_MN)  # a missing reward stays missing
    return np.concatenate([parts_MN, last_N[None]])


def error_correlation(margins_MP: ArrayLike) -> Floats:
    """Return the correlation between the members' errors on labelled pairs, [M, M].

    An error is 1 for a pair in the wrong order, 1/2 for a tie, else 0. An ensemble can correct only errors that its
    members do not share; members that were fine-tuned from one backbone usually share many.

    Args:
        margins_MP: Reward of the chosen answer minus that of the rejected one, by member and pair, [M, P].

    Returns:
        Pearson correlations; NaN for a member whose errors do not vary, such as one without errors.

    Raises:
        FitError: The margins are not one row per member, or one of them is not finite.

    Example:
        >>> error_correlation([[1.0, -1.0, 2.0, -1.0], [3.0, -1.0, 1.0, -2.0], [-1.0, 1.0, -1.0, 1.0]])[0].tolist()
        [1.0, 1.0, -1.0]
    """
    margins = np.asarray(margins_MP, dtype=np.float64)
    if margins.ndim != 2 or margins.shape[1] < 2 or not np.isfinite(margins).all():
        problem = f"margins of shape {margins.shape}, {int((~np.isfinite(margins)).sum())} of them not finite"
        raise FitError(
            problem, place="error_correlation", fix="give finite margins, one row per member, two pairs or more"
        )
    errors = 1.0 - win_credit(margins)
    centred = errors - errors.mean(axis=1, keepdims=True)
    size_M = np.sqrt((centred**2).sum(axis=1))
    size_M[size_M == 0.0] = np.nan
    return np.asarray(np.clip(centred @ centred.T / np.outer(size_M, size_M), -1.0, 1.0))


@final
class Ensemble:
    """Several scorers as one. Make it with :func:`fit_ensemble`.

    The contributions of a score sum to its reward: for ``mean`` each member's ``z / M``; for ``worst`` the ``z`` of the
    member that decides (the first of equals), and 0 for the others; for ``median`` that of the one or two middle
    members; for ``uncertainty`` each member's ``z / M`` and ``disagreement``, minus the penalty times the variance.

    Args:
        members: Scorers by name, at least two.
        means: Mean reward of each member on the reference conversations, by name.
        deviations: Standard deviation of each member's rewards on them (``ddof=0``), by name.
        kind: How the members' rewards are combined.
        penalty: Weight of the variance, for ``uncertainty``.

    Raises:
        ConfigError: There are fewer than two members, a member compares answers or has no hash, or the kind is unknown.
        FitError: A mean is not finite, or a deviation is not positive.
    """

    def __init__(
        self,
        members: Mapping[str, Scorer],
        *,
        means: Mapping[str, float],
        deviations: Mapping[str, float],
        kind: EnsembleKind = "mean",
        penalty: float = 0.5,
    ) -> None:
        _check_members(members, kind)
        for name in members:
            if not np.isfinite(means.get(name, np.nan)) or not 0.0 < deviations.get(name, np.nan) < np.inf:
                problem = f"member '{name}' has mean {means.get(name)} and deviation {deviations.get(name)}"
                raise FitError(problem, place="ensemble", fix="fit it on answers to which it gives different rewards")
        self.members, self.kind, self.penalty = dict(members), kind, float(penalty)
        self.means = {name: float(means[name]) for name in members}
        self.deviations = {name: float(deviations[name]) for name in members}
        self._mean_M = np.array(list(self.means.values()))
        self._deviation_M = np.array(list(self.deviations.values()))
        self.name = f"ensemble-{kind}"
        parts = [[name, scorer_hash(s), self.means[name], self.deviations[name]] for name, s in members.items()]
        self.hash = fingerprint(["ensemble", kind, self.penalty if kind == "uncertainty" else None, parts])

    def score(self, conversations: Sequence[Conversation]) -> list[Score]:
        """Return one score per conversation, in order; tokens and length are those that the first member read.

        Args:
            conversations: Conversations, each ending with an answer.
        """
        if not conversations:
            return []
        rows = [member.score(conversations) for member in self.members.values()]
        rewards_MN = np.array([[score.reward for score in row] for row in rows])
        z_MN = (rewards_MN - self._mean_M[:, None]) / self._deviation_M[:, None]
        parts_NM = _parts(z_MN, self.kind, self.penalty).T
        names = [*self.members, DISAGREEMENT] if self.kind == "uncertainty" else [*self.members]
        result = []
        for n, first in enumerate(rows[0]):
            reward = float(parts_NM[n].sum())
            bare = bare_score(
                reward,
                model=self.hash,
                tokens=first.tokens,
                length=first.length,
                truncated=any(row[n].truncated for row in rows),
                mode="exact" if all(row[n].mode == "exact" for row in rows) else "fast",
            )
            parts = parts_NM[n, : len(names)].tolist()
            result.append(replace(bare, contributions=dict(zip(names, parts, strict=True))))
        return result


def fit_ensemble(
    members: Mapping[str, Scorer],
    conversations: Sequence[Conversation],
    *,
    kind: EnsembleKind = "mean",
    penalty: float = 0.5,
) -> Ensemble:
    """Return an ensemble whose members have mean 0 and deviation 1 on reference conversations.

    Args:
        members: Scorers by name, at least two.
        conversations: Reference conversations, such as those of the training data. No labels are needed.
        kind: How the members' rewards are combined.
        penalty: Weight of the variance, for ``uncertainty``.

    Raises:
        ConfigError: There are fewer than two members, a member compares answers or has no hash, or the kind is unknown.
        FitError: There are fewer than two conversations, or a member gives all of them the same reward.
    """
    _check_members(members, kind)
    if len(conversations) < 2:
        raise FitError(f"{len(conversations)} reference conversations", place="ensemble", fix="give at least two")
    means, deviations = {}, {}
    for name, member in members.items():
        rewards = np.array([score.reward for score in member.score(conversations)])
        means[name], deviations[name] = float(rewards.mean()), float(rewards.std())
    return Ensemble(members, means=means, deviations=deviations, kind=kind, penalty=penalty)


def _check_members(members: Mapping[str, Scorer], kind: EnsembleKind) -> None:
    """Raise ConfigError if the members cannot form an ensemble of this kind."""
    if len(members) < 2:
        raise ConfigError(f"{len(members)} members", place="ensemble", fix="give at least two scorers, by name")
    if kind not in get_args(EnsembleKind):
        raise ConfigError(
            f"unknown kind {short(kind)}", place="ensemble", fix=f"use {', '.join(get_args(EnsembleKind))}"
        )
    if DISAGREEMENT in members:
        raise ConfigError(f"a member is called '{DISAGREEMENT}'", place="ensemble", fix="give it another name")
    for name, member in members.items():
        check_single(member, place=f"ensemble: {name}")
        scorer_hash(member)
