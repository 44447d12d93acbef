"""Simpler reward models on the same overall labels: what a routed model has to beat.

    linear_bt       one linear Bradley-Terry head for all tasks, on the frozen vectors
    routed_linear   one such head per task; the router says which reads a prompt
    single_rm       one adapter and head for all tasks
    ensemble_*      several of these with different seeds: mean, worst case, mean minus half the variance

All of them see every overall label of the run's training part. A single reward model gets the steps of phases 1 and 2
together: an expert's adapter has been through both.

Shapes: N test pairs, M members.

Reference: ensembles after Coste et al. (arXiv 2310.02743).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np
import torch
from torch import Tensor

from facetrm.backbone.transformer import TransformerEncoder
from facetrm.baselines.ensemble import EnsembleKind, ensemble_rewards
from facetrm.core.statistics import Floats
from facetrm.data.records import Preference
from facetrm.fit.experts.adapters import ExpertFit
from facetrm.recipes.dmoerm.config import DmoermConfig
from facetrm.recipes.dmoerm.inner import encode_pairs, fit_base, linear_head, pair_shares

_REFERENCE: Final = 200  # training preferences that give an ensemble's members one scale


@dataclass(frozen=True)
class Rivals:
    """Trained single reward models and linear heads.

    Attributes:
        members: Single reward models; their adapters are in the encoder.
        linear_D: Linear head for all tasks; None with too few prompts.
        routed_D: Linear head per task; a task with too few prompts has none.
        reference: Training preferences that give an ensemble's members one scale.
    """

    members: tuple[ExpertFit, ...]
    linear_D: Tensor | None
    routed_D: dict[str, Tensor]
    reference: list[Preference]

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-ready figures."""
        return {"members": [fit.to_dict() for fit in self.members], "linear_heads_of": sorted(self.routed_D)}


def fit_rivals(
    encoder: TransformerEncoder,
    overall: Sequence[Preference],
    tasks: Sequence[str],
    *,
    names: Sequence[str],
    config: DmoermConfig,
    folder: Path,
) -> Rivals:
    """Train the rivals of a run.

    Args:
        encoder: Gets an adapter per member.
        overall: All overall preferences of the training part.
        tasks: Task of each, given or routed.
        names: Name of the adapter of each member.
        config: Settings of the run.
        folder: Folder of the run; the members are kept in ``rivals`` inside it.
    """
    members = tuple(
        fit_base(encoder, overall, name=name, config=_of_member(config, number), folder=folder / "rivals")
        for number, name in enumerate(names)
    )
    read, weights = encode_pairs(encoder, overall), pair_shares(overall)
    pair_tasks = [task for p, task in zip(overall, tasks, strict=True) for _ in range(_pairs_of(p))]
    routed = {}
    for task in sorted(set(tasks)):
        rows = [n for n, name in enumerate(pair_tasks) if name == task]
        head_D = linear_head(read.select(torch.tensor(rows)), config.linear, weights=[weights[n] for n in rows])
        if head_D is not None:
            routed[task] = head_D
    linear_D = linear_head(read, config.linear, weights=weights)
    return Rivals(members, linear_D, routed, list(overall[:_REFERENCE]))


def rival_margins(
    encoder: TransformerEncoder, rivals: Rivals, pairs: Sequence[Preference], used: Sequence[str]
) -> dict[str, Floats]:
    """Return the margin of every rival on N pairs, [N] by name.

    Args:
        encoder: Holds the members' adapters.
        rivals: Trained rivals.
        pairs: Two responses each, the better one first.
        used: Mixture that the router gave each pair.
    """
    read = encode_pairs(encoder, pairs)
    linear_D = torch.zeros(encoder.hidden_size) if rivals.linear_D is None else rivals.linear_D
    gap_ND = (read.chosen.response_NAD[:, 0].double() - read.rejected.response_NAD[:, 0].double()).cpu()
    heads_ND = torch.stack([rivals.routed_D.get(task, linear_D).double() for task in used])
    found = {
        "linear_bt": (gap_ND @ linear_D.double()).numpy(),
        "routed_linear": (gap_ND * heads_ND).sum(dim=1).numpy(),
    }
    if not rivals.members:
        return found
    rewards = [_rewards(encoder, fit, pairs) for fit in rivals.members]
    found["single_rm"] = rewards[0][0] - rewards[0][1]
    if len(rewards) > 1:
        reference_MR = np.stack([_rewards(encoder, fit, rivals.reference).ravel() for fit in rivals.members])
        if not (reference_MR.std(axis=1) > 0).all():
            return found
        for kind in get_args(EnsembleKind):
            chosen_N, rejected_N = (
                ensemble_rewards(np.stack([both[side] for both in rewards]), reference_MR=reference_MR, kind=kind)
                for side in (0, 1)
            )
            found[f"ensemble_{kind}"] = chosen_N - rejected_N
    return found


def _of_member(config: DmoermConfig, number: int) -> DmoermConfig:
    """Return the settings of one member: its own seed, and the steps of phases 1 and 2."""
    base, experts = config.base.training, config.experts.training
    trainer = base.trainer
    asked = [getattr(part.trainer, "max_steps", None) or 0 for part in (base, experts)]
    if min(asked) > 0:
        trainer = trainer.model_copy(update={"max_steps": sum(asked)})
    seed = (base.seed + 1000 * number) % 2**32
    training = base.model_copy(
        update={"seed": seed, "min_steps": base.min_steps + experts.min_steps, "trainer": trainer}
    )
    return config.model_copy(update={"base": config.base.model_copy(update={"training": training})})


def _rewards(encoder: TransformerEncoder, fit: ExpertFit, pairs: Sequence[Preference]) -> Floats:
    """Return the rewards of chosen and rejected responses, [2, N]."""
    read = encode_pairs(encoder, pairs, adapters=[fit.name])
    sides = [side.response_NAD[:, 0].double().cpu() @ fit.head_D.double() for side in (read.chosen, read.rejected)]
    return np.asarray(torch.stack(sides).numpy(), dtype=np.float64)


def _pairs_of(preference: Preference) -> int:
    size = len(preference.responses)
    return size * (size - 1) // 2
