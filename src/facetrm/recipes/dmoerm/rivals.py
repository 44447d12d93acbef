"""Simpler reward models on the same overall labels, which a routed model has to beat.

    linear_bt       one linear Bradley-Terry head for all tasks, on the frozen vectors
    routed_linear   one such head per task; the router chooses the task of a prompt
    single_rm       one adapter and head for all tasks
    ensemble_*      several single_rm with different seeds: mean, worst case, mean minus half the variance

All of them see every overall label of the run's training part. A single reward model gets the steps of phases 1 and 2
together, because the adapter of an expert is trained in both.

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
from facetrm.data.views import as_pairs
from facetrm.fit.experts.adapters import ExpertFit
from facetrm.recipes.dmoerm.config import DmoermConfig
from facetrm.recipes.dmoerm.inner import encode_pairs, fit_base, head_rewards, linear_head, pair_shares

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
        encoder: Encoder that receives one adapter per member.
        overall: All overall preferences of the training part.
        tasks: Task of each preference, given or routed.
        names: Name of the adapter of each member.
        config: Settings of the run.
        folder: Folder of the run; the members are kept in ``rivals`` inside it.
    """
    members = tuple(
        fit_base(encoder, overall, name=name, config=member_settings(config, number), folder=folder / "rivals")
        for number, name in enumerate(names)
    )
    read, weights = encode_pairs(encoder, overall), pair_shares(overall)
    pair_tasks = [task for p, task in zip(overall, tasks, strict=True) for _ in as_pairs(p)]
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
        encoder: Encoder with the members' adapters.
        rivals: Trained rivals.
        pairs: N preferences of two responses each, the better one first.
        used: Name of the mixture that the router chose for each pair.
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
    rewards_M2N = _rewards(encoder, rivals.members, pairs)
    found["single_rm"] = rewards_M2N[0, 0] - rewards_M2N[0, 1]
    if len(rivals.members) > 1:
        reference_MR = _rewards(encoder, rivals.members, rivals.reference).reshape(len(rivals.members), -1)
        if not (reference_MR.std(axis=1) > 0).all():
            return found
        for kind in get_args(EnsembleKind):
            chosen_N, rejected_N = (
                ensemble_rewards(rewards_M2N[:, side], reference_MR=reference_MR, kind=kind) for side in (0, 1)
            )
            found[f"ensemble_{kind}"] = chosen_N - rejected_N
    return found


def member_settings(config: DmoermConfig, number: int) -> DmoermConfig:
    """Return the settings of one single reward model: its own seed, and the steps of phases 1 and 2 together.

    Args:
        config: Settings of the run.
        number: Number of the model, from 0.
    """
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


def _rewards(encoder: TransformerEncoder, fits: Sequence[ExpertFit], pairs: Sequence[Preference]) -> Floats:
    """Return the rewards of chosen and rejected responses by each member, [M, 2, N]."""
    read = encode_pairs(encoder, pairs, adapters=[fit.name for fit in fits])
    return np.stack([head_rewards(read, fit.head_D, column=m) for m, fit in enumerate(fits)])
