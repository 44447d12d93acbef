"""Held-out prompts of a training on ranked responses, and how well an adapter with its head orders their responses.

    loss of a group      mean over pairs i above j of softplus(-(r_i - r_j))
    accuracy of a group  share of these pairs with r_i > r_j; a tie counts one half

Both are averaged per group, then per prompt.

Shapes: N responses, D hidden size, P prompts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Final

import numpy as np
from torch import Tensor

from facetrm.backbone.transformer import TransformerEncoder
from facetrm.core.errors import FitError
from facetrm.core.statistics import Floats, win_credit
from facetrm.data.records import Preference
from facetrm.fit.experts.config import ExpertConfig
from facetrm.fit.experts.ranked import ranked_pairs

_DIGITS: Final = 12  # equal values stay equal, whatever the order of a sum


@dataclass(frozen=True)
class HeldOutSplit:
    """One split of the preferences by prompt.

    Attributes:
        training: Preferences to train on.
        held: Preferences held out.
    """

    training: list[Preference]
    held: list[Preference]


@dataclass(frozen=True)
class HeldOutFigures:
    """Loss and accuracy per held-out prompt.

    Attributes:
        loss_P: Loss in nats, [P].
        accuracy_P: Accuracy, [P].
    """

    loss_P: Floats
    accuracy_P: Floats

    @property
    def loss(self) -> float:
        """Mean loss over prompts, in nats."""
        return round(float(self.loss_P.mean()), _DIGITS)

    @property
    def accuracy(self) -> float:
        """Mean accuracy over prompts."""
        return round(float(self.accuracy_P.mean()), _DIGITS)


def held_out_splits(preferences: Sequence[Preference], config: ExpertConfig) -> list[HeldOutSplit]:
    """Return the splits that judge a training: one, or ``config.folds`` where one split holds out too few prompts.

    Args:
        preferences: All preferences of a training.
        config: Settings; see ``validation``, ``folds``, ``few`` and ``evaluate_on``.

    Raises:
        FitError: Fewer than two prompts.
    """
    training, held = hold_out_prompts(preferences, config.validation, seed=config.seed)
    prompts = len({p.prompt_key for p in preferences})
    if config.folds and len({p.prompt_key for p in held}) < config.few and prompts >= 2 * config.folds:
        order = _in_line(preferences, config.seed)
        fold_of = {key: n % config.folds for n, key in enumerate(order)}
        return [
            HeldOutSplit(
                [p for p in preferences if fold_of[p.prompt_key] != fold],
                _in_rounds(preferences, [key for key in order if fold_of[key] == fold])[: config.evaluate_on],
            )
            for fold in range(config.folds)
        ]
    return [HeldOutSplit(training, held[: config.evaluate_on])]


def hold_out_prompts(
    preferences: Sequence[Preference], share: float, *, seed: int
) -> tuple[list[Preference], list[Preference]]:
    """Return the preferences to train on and those held out: whole prompts, at least one.

    The order of the prompts depends only on their text and on the seed. The held-out preferences come in rounds, one of
    each prompt in that order, so the first part of them spans as many prompts as it can.

    Args:
        preferences: Preferences to split.
        share: Share of the prompts to hold out.
        seed: Random seed of the split.

    Raises:
        FitError: Fewer than two prompts.
    """
    order = _in_line(preferences, seed)
    if len(order) < 2:
        raise FitError(
            f"{len(preferences)} preferences of {len(order)} prompts cannot be split",
            place="held-out prompts",
            fix="give preferences of two or more prompts",
        )
    held = order[: min(max(round(share * len(order)), 1), len(order) - 1)]
    out = set(held)
    return [p for p in preferences if p.prompt_key not in out], _in_rounds(preferences, held)


def ranked_figures(
    encoder: TransformerEncoder, preferences: Sequence[Preference], *, name: str, head_D: Tensor
) -> HeldOutFigures:
    """Return loss and accuracy per prompt of an adapter with its head.

    Args:
        encoder: Holds the adapter ``name``.
        preferences: Groups of ranked responses, best first.
        name: Name of the adapter.
        head_D: Weights of the head, [D].
    """
    vectors_ND = encoder.encode(
        [(*p.prompt, answer) for p in preferences for answer in p.responses], adapters=[name]
    ).response_NAD[:, 0]
    score_N = (vectors_ND.double() @ head_D.detach().double().cpu()).numpy()
    sizes = [len(p.responses) for p in preferences]
    better, worse, weight = ranked_pairs(sizes)
    margin = score_N[better] - score_N[worse]
    group = np.repeat(np.arange(len(sizes)), [size * (size - 1) // 2 for size in sizes])
    keys = [p.prompt_key for p in preferences]
    prompt_of = {key: n for n, key in enumerate(dict.fromkeys(keys))}
    prompt_G = np.array([prompt_of[key] for key in keys])

    def by_prompt(values: Floats) -> Floats:
        value_G = np.bincount(group, weights=values * np.asarray(weight), minlength=len(sizes))
        mean_P: Floats = np.bincount(prompt_G, weights=value_G) / np.bincount(prompt_G)
        return mean_P.round(_DIGITS)

    return HeldOutFigures(by_prompt(np.logaddexp(0.0, -margin)), by_prompt(win_credit(margin)))


def ranked_accuracy(
    encoder: TransformerEncoder, preferences: Sequence[Preference], *, name: str, head_D: Tensor
) -> float:
    """Return the mean accuracy over prompts; see :func:`ranked_figures`.

    Args:
        encoder: Holds the adapter ``name``.
        preferences: Groups of ranked responses, best first.
        name: Name of the adapter.
        head_D: Weights of the head, [D].
    """
    return ranked_figures(encoder, preferences, name=name, head_D=head_D).accuracy


def _in_rounds(preferences: Sequence[Preference], keys: Sequence[str]) -> list[Preference]:
    """Return the preferences of the prompts ``keys``: the first of each prompt, then the second of each, and so on."""
    of: dict[str, list[Preference]] = {key: [] for key in keys}
    for p in preferences:
        if p.prompt_key in of:
            of[p.prompt_key].append(p)
    return [p for together in zip_longest(*of.values()) for p in together if p is not None]


def _in_line(preferences: Sequence[Preference], seed: int) -> list[str]:
    """Return the prompts' keys in an order that depends only on them and on the seed."""
    keys = {p.prompt_key for p in preferences}
    return sorted(keys, key=lambda key: hashlib.sha256(f"{seed}\x1f{key}".encode()).digest())
