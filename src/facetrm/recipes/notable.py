"""The test pairs of a run that a person should look at: the most certain errors and the nearest ties.

    certainty of a pair = |beta * margin|, the log odds that the model gives to the answer that it prefers

A pair whose two answers read the same is neither.

Shapes: N pairs, K experts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch

from facetrm.backbone.encoder import Features
from facetrm.core.statistics import Floats
from facetrm.data.records import Conversation, Preference
from facetrm.explain.terminal import shorten
from facetrm.model.reward_model import RewardModel
from facetrm.report.run_report import ListedPair

ERRORS: Final = 20
TIES: Final = 10
_CHARACTERS: Final = 500
_LARGEST: Final = 3


@dataclass(frozen=True)
class Notable:
    """Pairs to look at.

    Attributes:
        errors: The most certain errors, most certain first.
        wrong: Number of all errors.
        ties: The least certain pairs, least certain first.
    """

    errors: tuple[ListedPair, ...]
    wrong: int
    ties: tuple[ListedPair, ...]


def notable_pairs(
    model: RewardModel,
    pairs: Sequence[Preference],
    margins_N: Floats,
    *,
    used: Sequence[str],
    same: Collection[int] = (),
    features: Callable[[Sequence[int]], tuple[Features, Features]] | None = None,
) -> Notable:
    """Return the most certain errors and the nearest ties of a run's test pairs.

    Args:
        model: Model of the run.
        pairs: N test pairs, the preferred answer first.
        margins_N: Margin of each pair, chosen minus rejected.
        used: Name of the mixture that scored each pair, [N].
        same: Indices of the pairs whose answers read the same.
        features: Function from indices of pairs to the features of their chosen and rejected answers; None encodes
            them again.
    """
    beta = {task: mixture.beta for task, mixture in model.mixtures.items()}
    odds_N = np.array([beta[task] for task in used]) * margins_N
    kept = [n for n in range(len(pairs)) if n not in same]
    wrong = [n for n in kept if odds_N[n] < 0]
    errors = sorted(wrong, key=lambda n: (odds_N[n], n))[:ERRORS]
    ties = sorted(kept, key=lambda n: (abs(odds_N[n]), n))[:TIES]
    wanted = list(dict.fromkeys([*errors, *ties]))
    largest = _largest(model, pairs, wanted, used, features)

    def listed(n: int) -> ListedPair:
        return ListedPair(
            prompt=_prompt_text(pairs[n].chosen[:-1]),
            chosen=shorten(pairs[n].chosen[-1].content, _CHARACTERS),
            rejected=shorten(pairs[n].rejected[-1].content, _CHARACTERS),
            margin=float(margins_N[n]),
            probability=0.5 * (1.0 + math.tanh(0.5 * float(odds_N[n]))),
            largest=largest[n],
            task=used[n] if len(model.tasks) > 1 else "",
            source=pairs[n].source,
        )

    return Notable(tuple(map(listed, errors)), len(wrong), tuple(map(listed, ties)))


def _largest(
    model: RewardModel,
    pairs: Sequence[Preference],
    wanted: Sequence[int],
    used: Sequence[str],
    features: Callable[[Sequence[int]], tuple[Features, Features]] | None,
) -> dict[int, tuple[tuple[str, float], ...]]:
    """Return the objectives with the largest differences of contributions, by index of the pair."""
    found: dict[int, tuple[tuple[str, float], ...]] = {}
    for task in dict.fromkeys(used[n] for n in wanted):
        here, names = [n for n in wanted if used[n] == task], model.mixture(task).names
        if features is None:
            sides = tuple(
                model.features([getattr(pairs[n], s) for n in here], task=task) for s in ("chosen", "rejected")
            )
        else:
            sides = features(here)
        with torch.no_grad():
            better, worse = (model.output(side, task=task).contributions_NK.double() for side in sides)
        for n, row_K in zip(here, (better - worse).tolist(), strict=True):
            ordered = sorted(zip(names, row_K, strict=True), key=lambda item: -abs(item[1]))
            found[n] = tuple(ordered[:_LARGEST])
    return found


def _prompt_text(turns: Conversation) -> str:
    """Return the prompt as one text; several turns are named by their roles."""
    if len(turns) == 1:
        return shorten(turns[0].content, _CHARACTERS)
    return shorten("\n".join(f"{turn.role}: {turn.content}" for turn in turns), _CHARACTERS)
